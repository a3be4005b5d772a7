package kernel

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"golang.org/x/sys/unix"
)

const dataPort = 40021

// ftp is a way to a server whose namespace tracks the connections.
type ftp struct {
	name    string
	public  netip.Addr // what the client connects to
	private netip.Addr // what the server listens on
}

func (f *ftp) command() string {
	if f.public.Is6() {
		return "EPSV"
	}
	return "PASV"
}

// answer is the server's, with its own idea of its address.
func (f *ftp) answer() string {
	if f.public.Is6() {
		return fmt.Sprintf("229 Entering Extended Passive Mode (|||%d|)", dataPort)
	}
	host := strings.ReplaceAll(f.private.String(), ".", ",")
	return fmt.Sprintf("227 Entering Passive Mode (%s,%d,%d)", host, dataPort>>8, dataPort&0xff)
}

// announced is the address the client reads in an answer.
func (f *ftp) announced(answer string) (netip.AddrPort, error) {
	_, in, _ := strings.Cut(answer, "(")
	in, _, _ = strings.Cut(in, ")")
	if f.public.Is6() {
		port, err := strconv.ParseUint(strings.Trim(in, "|"), 10, 16)
		return netip.AddrPortFrom(f.public, uint16(port)), err
	}
	n := strings.Split(in, ",")
	if len(n) != 6 {
		return netip.AddrPort{}, fmt.Errorf("no address in %q", answer)
	}
	host, err := netip.ParseAddr(strings.Join(n[:4], "."))
	high, _ := strconv.Atoi(n[4])
	low, _ := strconv.Atoi(n[5])
	return netip.AddrPortFrom(host, uint16(high<<8|low)), err
}

var ftps = []ftp{
	{"IPv4", netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.1")},
	{"IPv4 translated", netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.8.0.1")},
	{"IPv6", netip.MustParseAddr("fd09::1"), netip.MustParseAddr("fd09::1")},
	{"IPv6 translated", netip.MustParseAddr("fd09::1"), netip.MustParseAddr("fd08::1")},
}

// lab is the server's side of a pair of namespaces; client runs a function in
// the other one.
type lab struct {
	*ftp
	c      *Conn
	client func(func())
}

// inLab runs fn as inNetns does, beside a namespace with a client and with
// rules that attach the ftp helper and translate if the private address differs.
func inLab(t *testing.T, f *ftp, fn func(l *lab)) {
	inNetns(t, func() {
		l := &lab{ftp: f, c: open(t), client: beside(t)}
		run(t, "ip", "addr", "add", "10.8.0.1/32", "dev", "lo")
		run(t, "ip", "addr", "add", "fd08::1/128", "dev", "lo", "nodad")
		rules := `table inet ftp {
	ct helper ftp { type "ftp" protocol tcp; }
	chain h { type filter hook prerouting priority 0; tcp dport 21 ct helper set "ftp"; }
`
		if f.public != f.private {
			family := "ip"
			if f.public.Is6() {
				family = "ip6"
			}
			rules += fmt.Sprintf("	chain d { type nat hook prerouting priority dstnat; tcp dport 21 dnat %s to %s; }\n", family, f.private)
		}
		nft := exec.Command("nft", "-f", "-")
		nft.Stdin = strings.NewReader(rules + "}\n")
		if out, err := nft.CombinedOutput(); err != nil {
			t.Errorf("nft: %v\n%s", err, out)
			return
		}
		fn(l)
	})
}

// beside makes another namespace, connected with the caller's; do runs a
// function in it.
func beside(t *testing.T) (do func(fn func())) {
	work, ready := make(chan func()), make(chan string)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
		}
		ready <- fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		for fn := range work {
			fn()
		}
	}()
	t.Cleanup(func() { close(work) })
	do = func(fn func()) {
		done := make(chan struct{})
		work <- func() { defer close(done); fn() }
		<-done
	}
	run(t, "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", <-ready)
	end := func(dev, four, six string) {
		run(t, "ip", "addr", "add", four, "dev", dev)
		run(t, "ip", "addr", "add", six, "dev", dev, "nodad")
		run(t, "ip", "link", "set", dev, "up")
	}
	end("v0", "10.9.0.1/24", "fd09::1/64")
	do(func() { end("v1", "10.9.0.2/24", "fd09::2/64") })
	return do
}

// listen opens a socket in the server's namespace.
func (l *lab) listen(t *testing.T, port uint16) net.Listener {
	ln, err := net.Listen("tcp", netip.AddrPortFrom(l.private, port).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln
}

// serve answers the first connection's first line.
func (l *lab) serve(ln net.Listener) {
	conn, err := ln.Accept()
	if err != nil {
		return
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	fmt.Fprint(conn, "220 ready\r\n")
	if _, err := r.ReadString('\n'); err == nil {
		fmt.Fprintf(conn, "%s\r\n", l.answer())
	}
	_, _ = r.ReadString('\n')
}

func (l *lab) dial(t *testing.T, to netip.AddrPort) (conn net.Conn) {
	t.Helper()
	var err error
	l.client(func() { conn, err = net.DialTimeout("tcp", to.String(), 20*time.Second) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// passive asks a server for a data port and returns where the client finds it.
func (l *lab) passive(t *testing.T) netip.AddrPort {
	t.Helper()
	go l.serve(l.listen(t, 21))
	conn := l.dial(t, netip.AddrPortFrom(l.public, 21))
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReader(conn)
	greeting, _ := r.ReadString('\n')
	fmt.Fprintf(conn, "%s\r\n", l.command())
	answer, err := r.ReadString('\n')
	if err != nil {
		t.Fatalf("after %q: %v", greeting, err)
	}
	at, err := l.announced(answer)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// data makes the data connection and sees it arrive at the server.
func (l *lab) data(t *testing.T, to netip.AddrPort) {
	t.Helper()
	ln := l.listen(t, dataPort)
	conn := l.dial(t, to)
	got, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	if got.RemoteAddr().String() != conn.LocalAddr().String() {
		t.Errorf("%v connected, not %v", got.RemoteAddr(), conn.LocalAddr())
	}
}

// isChild is true for the birth of a flow that was expected.
func isChild(e flow.Event) bool {
	return e.Expect == nil && e.Type == flow.EventNew && e.Flow.Has&flow.HasMaster != 0
}

// heard returns the events of expectations and of the flow that met one.
func (l *lab) heard(t *testing.T) []flow.Event {
	t.Helper()
	return slices.DeleteFunc(collect(t, l.c, isChild), func(e flow.Event) bool { return e.Expect == nil && !isChild(e) })
}

// TestAnExpectationIsMet lets the kernel's own helper expect a data connection.
func TestAnExpectationIsMet(t *testing.T) {
	for i := range ftps {
		t.Run(ftps[i].name, func(t *testing.T) { inLab(t, &ftps[i], func(l *lab) { l.meet(t) }) })
	}
}

func (l *lab) meet(t *testing.T) {
	at := l.passive(t)
	l.data(t, at)
	evs := l.heard(t)
	if len(evs) != 3 || evs[0].Expect == nil || evs[0].Type != flow.EventNew || evs[1].Expect == nil ||
		evs[1].Type != flow.EventDestroy || evs[2].Expect != nil || slices.ContainsFunc(evs, func(e flow.Event) bool { return e.Own }) {
		t.Fatalf("%+v", evs)
	}
	x, gone, child := evs[0].Expect, evs[1].Expect, &evs[2].Flow
	// The tuple is what the client will use. Of the translation the ftp helper
	// keeps the port; the address follows the master's.
	if x.Tuple.DstAddr() != at.Addr() || x.Tuple.Dport != at.Port() || x.Master.DstAddr() != l.public ||
		x.Master.Dport != 21 || x.Helper != flow.MakeHelper("ftp") || x.Timeout == 0 || gone.Key() != x.Key() {
		t.Errorf("expected %+v\ngone %+v", *x, *gone)
	}
	if nat := x.Has&flow.ExpectHasNATAddr != 0; nat != (l.public != l.private) {
		t.Errorf("translated %v: %+v", nat, *x)
	} else if nat && (x.NAT.Src != [16]byte{} || x.NAT.Sport != dataPort || string(x.Function[:17]) != "nat-follow-master") {
		t.Errorf("expected %+v", *x)
	}
	if child.Master != x.Master || child.Orig.Dst != x.Tuple.Dst || child.Orig.Dport != x.Tuple.Dport {
		t.Errorf("born %+v", *child)
	}
	if left := dumpExpects(t, l.c); len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
}

// TestAnExpectationIsTakenOver: what one namespace expects is written to
// another with the same rules, and there the client connects.
func TestAnExpectationIsTakenOver(t *testing.T) {
	for i := range ftps {
		t.Run(ftps[i].name, func(t *testing.T) {
			var at netip.AddrPort
			var flows []flow.Change
			var expects []flow.ExpectChange
			inLab(t, &ftps[i], func(l *lab) {
				at = l.passive(t)
				for _, f := range dump(t, l.c) {
					flows = append(flows, flow.Change{Op: flow.Upsert, Flow: f})
				}
				for _, x := range dumpExpects(t, l.c) {
					expects = append(expects, flow.ExpectChange{Op: flow.Upsert, Expect: x})
				}
			})
			if len(flows) != 1 || len(expects) != 1 {
				t.Fatalf("%d flows, %d expectations", len(flows), len(expects))
			}
			inLab(t, &ftps[i], func(l *lab) { l.takeOver(t, at, flows, expects) })
		})
	}
}

func (l *lab) takeOver(t *testing.T, at netip.AddrPort, flows []flow.Change, expects []flow.ExpectChange) {
	if done, err := l.c.Apply(context.Background(), flows); err != nil || done.Created != 1 {
		t.Fatalf("%+v, %v", done, err)
	}
	if done := applyExpects(t, l.c, expects...); done.Created != 1 {
		t.Fatalf("%+v", done)
	}
	l.data(t, at)
	evs := l.heard(t)
	if len(evs) != 3 {
		t.Fatalf("%+v", evs)
	}
	child := &evs[2].Flow
	if !evs[0].Own || evs[1].Own || child.Master != expects[0].Expect.Master || child.Reply.SrcAddr() != l.private || child.Reply.Sport != dataPort {
		t.Errorf("born %+v", *child)
	}
}
