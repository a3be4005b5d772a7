package udp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pairOf opens a link in each of two namespaces joined by a veth named sync0.
func pairOf(t *testing.T, a, b Config) (*Conn, *Conn) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	var ns [2]string
	for i := range ns {
		ns[i] = fmt.Sprintf("udptest%d-%d", os.Getpid(), i)
		ip(t, "netns", "add", ns[i])
		t.Cleanup(func() { ip(t, "netns", "del", ns[i]) })
	}
	ip(t, "link", "add", "sync0", "netns", ns[0], "type", "veth", "peer", "name", "sync0", "netns", ns[1])
	for i := range ns {
		ip(t, "-n", ns[i], "addr", "add", fmt.Sprintf("192.0.2.%d/24", i+1), "dev", "sync0")
		ip(t, "-n", ns[i], "addr", "add", fmt.Sprintf("fd77::%d/64", i+1), "dev", "sync0", "nodad")
		ip(t, "-n", ns[i], "addr", "add", fmt.Sprintf("198.51.100.%d/32", i+1), "dev", "sync0")
		ip(t, "-n", ns[i], "link", "set", "sync0", "up")
	}
	conns := make([]*Conn, 2)
	for i, cfg := range []Config{a, b} {
		cfg.Interface, cfg.Port = "sync0", 3780
		within(t, ns[i], func() {
			c, err := Open(cfg)
			if err != nil {
				t.Fatal(err)
			}
			conns[i] = c
			t.Cleanup(func() { _ = c.Close() })
		})
	}
	return conns[0], conns[1]
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// within runs fn on a thread in the namespace; the thread ends with it.
func within(t *testing.T, ns string, fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		f, err := os.Open("/run/netns/" + ns)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		fn()
	}()
	<-done
}

// exchange sends from a until b has all of the datagrams, and returns where
// they came from. A multicast join takes a moment to have effect.
func exchange(t *testing.T, a, b *Conn) netip.Addr {
	t.Helper()
	const n = 100
	var out [][]byte
	for i := range n {
		out = append(out, fmt.Appendf(nil, "datagram %d", i))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	seen, src := map[string]bool{}, netip.Addr{}
	enough := make(chan struct{})
	go func() {
		defer close(enough)
		_ = b.Receive(ctx, func(batch [][]byte, from []netip.AddrPort) {
			for i, d := range batch {
				seen[string(d)] = true
				src = from[i].Addr()
			}
			if len(seen) == n {
				cancel()
			}
		})
	}()
	for {
		if err := a.Send(out); err != nil {
			t.Logf("send: %v", err)
		}
		select {
		case <-enough:
			if len(seen) != n {
				t.Fatalf("%d of %d datagrams arrived", len(seen), n)
			}
			return src
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func TestLinks(t *testing.T) {
	addr := netip.MustParseAddr
	for name, c := range map[string]struct {
		a, b Config
		from string
	}{
		"multicast":      {Config{Group: addr("225.0.0.50")}, Config{Group: addr("225.0.0.50")}, "192.0.2.1"},
		"multicast IPv6": {Config{Group: addr("ff02::50")}, Config{Group: addr("ff02::50")}, ""},
		"unicast":        {Config{Peer: addr("192.0.2.2")}, Config{Peer: addr("192.0.2.1")}, "192.0.2.1"},
		"unicast IPv6":   {Config{Peer: addr("fd77::2")}, Config{Peer: addr("fd77::1")}, "fd77::1"},
		"listen address": {Config{Peer: addr("192.0.2.2")}, Config{Peer: addr("192.0.2.1"), Listen: []netip.Addr{addr("192.0.2.2")}}, "192.0.2.1"},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pairOf(t, c.a, c.b)
			src := exchange(t, a, b)
			if c.from != "" && src != addr(c.from) {
				t.Errorf("from %s, want %s", src, c.from)
			}
			s := b.Stats()
			if s.PacketsRecv < 100 || a.Stats().PacketsSent < 100 || s.Device != "sync0" {
				t.Errorf("%+v", s)
			}
			if a.MaxPayload() != map[bool]int{true: 1472, false: 1452}[a.target().Is4()] {
				t.Errorf("payload %d", a.MaxPayload())
			}
		})
	}
}

// TestForeignSourcesAreRefused: a host on the link that is not the peer, and
// one whose address is not of the link, get nothing in.
func TestForeignSourcesAreRefused(t *testing.T) {
	addr := netip.MustParseAddr
	for name, c := range map[string]struct {
		cfg      Config
		src, dst string
	}{
		"not the peer":    {Config{Peer: addr("192.0.2.9")}, "192.0.2.1", "192.0.2.2"},
		"not of the link": {Config{Group: addr("225.0.0.50")}, "198.51.100.1", "225.0.0.50"},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pairOf(t, Config{Peer: addr("192.0.2.2")}, c.cfg)
			_ = a
			var forger *net.UDPConn
			within(t, fmt.Sprintf("udptest%d-0", os.Getpid()), func() {
				var err error
				d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(c.src)}}
				ip(t, "-n", fmt.Sprintf("udptest%d-0", os.Getpid()), "route", "replace", "225.0.0.50/32", "dev", "sync0")
				conn, err := d.Dial("udp4", c.dst+":3780")
				if err != nil {
					t.Error(err)
					return
				}
				forger = conn.(*net.UDPConn)
			})
			if forger == nil {
				t.Fatal("no forger")
			}
			defer forger.Close()
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			go func() {
				_ = b.Receive(ctx, func(batch [][]byte, from []netip.AddrPort) {
					t.Errorf("%d datagrams of %v got in", len(batch), from)
				})
			}()
			for b.Stats().Refused["foreign_source"] == 0 && ctx.Err() == nil {
				_, _ = forger.Write([]byte("forged"))
				time.Sleep(5 * time.Millisecond)
			}
			if ctx.Err() != nil {
				t.Fatalf("nothing was refused: %+v", b.Stats())
			}
		})
	}
}

// TestTheGroupIsTheOnlyWayIn: a datagram that a host of the link sends to an
// address of ours, not to the group, does not even reach the socket.
func TestTheGroupIsTheOnlyWayIn(t *testing.T) {
	addr := netip.MustParseAddr
	for group, to := range map[string]string{"225.0.0.50": "192.0.2.2", "ff02::50": "fd77::2"} {
		t.Run(group, func(t *testing.T) {
			pairOf(t, Config{Group: addr(group)}, Config{Group: addr(group)})
			var answer error
			within(t, fmt.Sprintf("udptest%d-0", os.Getpid()), func() {
				conn, err := net.Dial("udp", net.JoinHostPort(to, "3780"))
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				// Nobody listens there: the host says so, by port unreachable.
				for i := 0; i < 2000 && answer == nil; i++ {
					_, answer = conn.Write([]byte("forged"))
					time.Sleep(5 * time.Millisecond)
				}
			})
			if answer == nil {
				t.Errorf("a datagram to %s finds a socket", to)
			}
		})
	}
}

func TestMissingInterface(t *testing.T) {
	_, err := Open(Config{Interface: "nosuch0", Group: netip.MustParseAddr("225.0.0.50"), Port: 3780})
	if err == nil || !strings.Contains(err.Error(), "nosuch0") {
		t.Fatalf("%v", err)
	}
}

// TestDrain: under load datagrams gather, but not past a Drain.
func TestDrain(t *testing.T) {
	group := netip.MustParseAddr("225.0.0.50")
	a, b := pairOf(t, Config{Group: group}, Config{Group: group})
	var got atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		ended <- b.Receive(ctx, func(batch [][]byte, _ []netip.AddrPort) { got.Add(int64(len(batch))) })
	}()
	defer func() { cancel(); <-ended }()
	arrived := func() (more bool) {
		err := b.control(b.recv[0].in.raw, func(fd int) error {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			more = n > 0
			return err
		})
		return err == nil && more
	}
	for got.Load() == 0 { // it has not begun yet
		if err := a.Send([][]byte{[]byte("flow")}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.Drain()
	gathered, first := 0, got.Load()
	for n := first + 1; n <= first+300; n++ {
		if err := a.Send([][]byte{[]byte("flow")}); err != nil {
			t.Fatal(err)
		}
		for !arrived() && got.Load() < n {
			time.Sleep(100 * time.Microsecond)
		}
		if got.Load() < n {
			gathered++
		}
		b.Drain()
		if got.Load() != n {
			t.Fatalf("%d of %d datagrams were handed over", got.Load(), n)
		}
		time.Sleep(time.Millisecond)
	}
	t.Logf("%d of 300 waited for a Drain", gathered)
	if gathered == 0 {
		t.Error("nothing gathered")
	}
}
