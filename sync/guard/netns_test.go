package guard

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// host is a network namespace with a thread that lives in it.
type host struct {
	t   *testing.T
	tid int
	do  chan func()
}

func newHost(t *testing.T) *host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	h := &host{t: t, do: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the namespace goes with the thread
		h.tid = unix.Gettid()
		ready <- unix.Unshare(unix.CLONE_NEWNET)
		for fn := range h.do {
			fn()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(h.do) })
	h.run("ip", "link", "set", "lo", "up")
	return h
}

// in runs fn in the namespace.
func (h *host) in(fn func()) {
	done := make(chan struct{})
	h.do <- func() { defer close(done); fn() }
	<-done
}

func (h *host) run(args ...string) string { return h.input("", args...) }

func (h *host) input(text string, args ...string) (out string) {
	h.t.Helper()
	h.in(func() {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdin = strings.NewReader(text)
		b, err := cmd.CombinedOutput()
		if err != nil {
			h.t.Errorf("%s: %v\n%s", strings.Join(args, " "), err, b)
		}
		out = string(b)
	})
	return out
}

// link connects two hosts and gives each end its addresses.
func link(a *host, devA string, addrsA []string, b *host, devB string, addrsB []string) {
	a.run("ip", "link", "add", devA, "type", "veth", "peer", "name", devB, "netns", strconv.Itoa(b.tid))
	for _, end := range []struct {
		h     *host
		dev   string
		addrs []string
	}{{a, devA, addrsA}, {b, devB, addrsB}} {
		end.h.run("ip", "link", "set", end.dev, "up")
		for _, addr := range end.addrs {
			args := []string{"ip", "addr", "add", addr, "dev", end.dev}
			if strings.Contains(addr, ":") {
				args = append(args, "nodad")
			}
			end.h.run(args...)
		}
	}
}

// echo answers UDP on a port of any address, from the address it was asked at.
func (h *host) echo(port int) {
	h.t.Helper()
	for _, network := range []string{"udp4", "udp6"} {
		var c *net.UDPConn
		h.in(func() {
			var err error
			if c, err = net.ListenUDP(network, &net.UDPAddr{Port: port}); err != nil {
				h.t.Fatal(err)
			}
		})
		h.t.Cleanup(func() { _ = c.Close() })
		raw, err := c.SyscallConn()
		if err != nil {
			h.t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		})
		go func() {
			b, oob := make([]byte, 100), make([]byte, 100)
			for {
				n, k, _, from, err := c.ReadMsgUDPAddrPort(b, oob)
				if err != nil {
					return
				}
				_, _, _ = c.WriteMsgUDPAddrPort(b[:n], oob[:k], from)
			}
		}()
	}
}

func (h *host) listen(addr string) {
	h.in(func() {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			h.t.Error(err)
			return
		}
		h.t.Cleanup(func() { _ = l.Close() })
	})
}

// ask sends a datagram from a port of this host and says what comes back:
// "answer", "refused" or "nothing". Where nothing is expected it is known when the
// answer to a datagram sent afterwards is there, from an echo on the same way but
// behind no guard.
func (h *host) ask(from int, to string, fence netip.AddrPort, want string) string {
	h.t.Helper()
	var c net.Conn
	h.in(func() {
		var err error
		d := net.Dialer{LocalAddr: &net.UDPAddr{Port: from}}
		if c, err = d.Dial("udp", to); err != nil {
			h.t.Fatal(err)
		}
	})
	defer c.Close()
	if _, err := c.Write([]byte("?")); err != nil {
		h.t.Fatal(err)
	}
	patience := 20 * time.Second
	if want == "nothing" {
		h.fence(fence)
		patience = 50 * time.Millisecond
	}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	_, err := c.Read(make([]byte, 10))
	switch {
	case err == nil:
		return "answer"
	case errors.Is(err, unix.ECONNREFUSED):
		return "refused"
	}
	return "nothing"
}

func (h *host) fence(echo netip.AddrPort) {
	h.t.Helper()
	var c net.Conn
	h.in(func() {
		var err error
		if c, err = net.Dial("udp", echo.String()); err != nil {
			h.t.Fatal(err)
		}
	})
	defer c.Close()
	for range 50 {
		if _, err := c.Write([]byte("fence")); err != nil {
			h.t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err := c.Read(make([]byte, 10)); err == nil {
			return
		}
	}
	h.t.Fatalf("no echo from %v", echo)
}

// TCP flags.
const (
	fin = 0x01
	syn = 0x02
	rst = 0x04
	ack = 0x10
)

// tcp sends one segment from an address that this host's stack does not serve and
// returns the flags of what comes back, 0 for nothing.
type tcp struct {
	h   *host
	src netip.Addr
	fd  int
}

func (h *host) tcp(src netip.Addr) *tcp {
	h.t.Helper()
	p := &tcp{h: h, src: src}
	h.in(func() {
		family := unix.AF_INET
		if src.Is6() {
			family = unix.AF_INET6
		}
		var err error
		if p.fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP); err != nil {
			h.t.Fatal(err)
		}
	})
	h.t.Cleanup(func() { _ = unix.Close(p.fd) })
	return p
}

func (p *tcp) send(sport, dport uint16, to netip.Addr, flags byte, fence netip.AddrPort) (answer byte) {
	p.h.t.Helper()
	seg := make([]byte, 20)
	binary.BigEndian.PutUint16(seg, sport)
	binary.BigEndian.PutUint16(seg[2:], dport)
	binary.BigEndian.PutUint32(seg[4:], 1000)
	if flags&ack != 0 {
		binary.BigEndian.PutUint32(seg[8:], 2000)
	}
	seg[12], seg[13] = 5<<4, flags
	binary.BigEndian.PutUint16(seg[14:], 65000)
	binary.BigEndian.PutUint16(seg[16:], checksum(p.src, to, unix.IPPROTO_TCP, seg))
	var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: to.As16()}
	if to.Is4() {
		sa = &unix.SockaddrInet4{Addr: to.As4()}
	}
	if err := unix.Sendto(p.fd, seg, 0, sa); err != nil {
		p.h.t.Fatal(err)
	}
	p.h.fence(fence)
	b := make([]byte, 1<<12)
	for {
		n, _, err := unix.Recvfrom(p.fd, b, unix.MSG_DONTWAIT)
		if err != nil {
			return answer
		}
		got := b[:n]
		if to.Is4() {
			got = got[int(got[0]&15)*4:]
		}
		if binary.BigEndian.Uint16(got) == dport && binary.BigEndian.Uint16(got[2:]) == sport {
			answer |= got[13]
		}
	}
}

func checksum(src, dst netip.Addr, proto byte, seg []byte) uint16 {
	b := append(src.AsSlice(), dst.AsSlice()...)
	b = append(b, 0, proto, byte(len(seg)>>8), byte(len(seg)))
	b = append(b, seg...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
