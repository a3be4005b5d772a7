package guard

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

const fencePort = 9

// family is the addresses a test uses in one family.
type addresses struct {
	own, virtual, peer, server, virtual2, own2 string
	bits                                       int
}

var families = map[string]addresses{
	"IPv4": {"10.1.0.1", "10.1.0.254", "10.1.0.10", "203.0.113.10", "203.0.113.254", "203.0.113.1", 24},
	"IPv6": {"fd01::1", "fd01::fe", "fd01::10", "fd02::10", "fd02::fe", "fd02::1", 64},
}

func (a *addresses) with(ips ...string) (all []string) {
	for _, ip := range ips {
		all = append(all, fmt.Sprintf("%s/%d", ip, a.bits))
	}
	return all
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func to(ip string, port int) string { return netip.AddrPortFrom(addr(ip), uint16(port)).String() }

// rig is a router with a peer on one side and a server on the other. It tracks
// and translates as a firewall does, and picks up connections from the middle
// when loose.
type rig struct {
	addresses
	router, peer, server *host
	g                    *Guard
	fence                netip.AddrPort
}

func newRig(t *testing.T, a addresses) *rig {
	t.Helper()
	r := &rig{addresses: a, router: newHost(t), peer: newHost(t), server: newHost(t), fence: netip.AddrPortFrom(addr(a.own), fencePort)}
	link(r.router, "lan0", a.with(a.own, a.virtual), r.peer, "lan0", a.with(a.peer))
	link(r.router, "wan0", a.with(a.own2, a.virtual2), r.server, "wan0", a.with(a.server))
	r.router.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1",
		"net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0", "net.ipv4.icmp_msgs_per_sec=100000", "net.ipv4.icmp_msgs_burst=100000")
	word := "ip"
	if addr(a.own).Is6() {
		word = "ip6"
		r.peer.run("ip", "-6", "route", "add", "default", "via", a.own)
		r.server.run("ip", "-6", "route", "add", "default", "via", a.own2)
	} else {
		r.peer.run("ip", "route", "add", "default", "via", a.own)
		r.server.run("ip", "route", "add", "default", "via", a.own2)
	}
	r.router.input(fmt.Sprintf(`table inet t {
	chain i { type filter hook input priority 0; ct state established accept; }
	chain f { type filter hook forward priority 0; ct state established accept; }
	chain n { type nat hook postrouting priority srcnat;
		%[1]s daddr %[2]s udp dport 6001 snat to %[3]s:6100-6199
		%[1]s daddr %[2]s udp dport 6002 snat to %[4]s:6200-6299
		%[1]s daddr %[2]s tcp dport 6001 snat to %[3]s
		%[1]s daddr %[2]s tcp dport 6009 snat to %[3]s
	}
	chain d { type nat hook prerouting priority dstnat;
		%[1]s daddr %[5]s meta l4proto { tcp, udp } th dport 7000 dnat to %[6]s
		%[1]s daddr %[5]s udp dport 7001 dnat to %[6]s:%[7]d
	}
}`, word, a.server, bracket(a.virtual2), bracket(a.own2), a.virtual, bracket(a.own), fencePort), "nft", "-f", "-")
	r.router.echo(fencePort)
	r.router.in(func() {
		var err error
		if r.g, err = Open(); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { _ = r.g.Close() })
	if err := r.g.Protect([]netip.Addr{addr(a.virtual), addr(a.virtual2)}, []netip.Addr{addr(a.own), addr(a.own2)}); err != nil {
		t.Fatal(err)
	}
	return r
}

func bracket(ip string) string {
	if strings.Contains(ip, ":") {
		return "[" + ip + "]"
	}
	return ip
}

func (r *rig) entries(t *testing.T, match string) int {
	t.Helper()
	family := "ipv4"
	if addr(r.own).Is6() {
		family = "ipv6"
	}
	return strings.Count(r.router.run("sh", "-c", "conntrack -L -f "+family+" 2>/dev/null; true"), match)
}

func each(t *testing.T, fn func(t *testing.T, a addresses)) {
	for name, a := range families {
		t.Run(name, func(t *testing.T) { fn(t, a) })
	}
}

// TestInput: what the router's own stack makes of packets without an entry, with
// the guard down, raised, and armed or in a window; what is not for a virtual
// address never makes a difference.
func TestInput(t *testing.T) {
	each(t, func(t *testing.T, a addresses) {
		r := newRig(t, a)
		r.router.listen(":8080")
		r.router.echo(5300)
		raw := r.peer.tcp(addr(a.peer))
		const closed, listening = 8081, 8080
		port := uint16(30000)
		segment := func(ip string, dport uint16, flags byte) string {
			port++
			got := raw.send(port, dport, addr(ip), flags, r.fence)
			switch {
			case got&rst != 0:
				return "reset"
			case got&syn != 0:
				return "open"
			case got == 0:
				return "nothing"
			}
			return fmt.Sprintf("flags %#x", got)
		}
		want := ""
		datagram := func(ip string, dport int) string {
			port++
			return r.peer.ask(int(port), to(ip, dport), r.fence, want)
		}
		rows := []struct {
			what               string
			do                 func() string
			down, up, inWindow string
		}{
			{"ACK to a closed port", func() string { return segment(a.virtual, closed, ack) }, "reset", "nothing", "nothing"},
			{"ACK to a listening port", func() string { return segment(a.virtual, listening, ack) }, "reset", "nothing", "nothing"},
			{"SYN+ACK", func() string { return segment(a.virtual, closed, syn|ack) }, "reset", "nothing", "nothing"},
			{"FIN+ACK", func() string { return segment(a.virtual, closed, fin|ack) }, "reset", "nothing", "nothing"},
			{"SYN to a listening port", func() string { return segment(a.virtual, listening, syn) }, "open", "open", "open"},
			{"SYN to a closed port", func() string { return segment(a.virtual, closed, syn) }, "reset", "reset", "nothing"},
			{"a datagram to nobody", func() string { return datagram(a.virtual, 5301) }, "refused", "nothing", "nothing"},
			{"a datagram to a wildcard socket", func() string { return datagram(a.virtual, 5300) }, "answer", "answer", "answer"},
			{"an ACK translated to the router", func() string { return segment(a.virtual, 7000, ack) }, "reset", "nothing", "nothing"},
			{"a datagram translated to the router, to nobody", func() string { return datagram(a.virtual, 7000) }, "refused", "nothing", "nothing"},
			{"a datagram translated to the router's echo", func() string { return datagram(a.virtual, 7001) }, "answer", "answer", "answer"},
			{"an ACK to the router's own address", func() string { return segment(a.own, closed, ack) }, "reset", "reset", "reset"},
			{"a SYN to the router's own address", func() string { return segment(a.own, closed, syn) }, "reset", "reset", "reset"},
			{"a datagram to the router's own address", func() string { return datagram(a.own, 5301) }, "refused", "refused", "refused"},
		}
		for _, loose := range []string{"0", "1"} {
			r.router.run("sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_loose="+loose)
			for _, state := range []string{"down", "up", "armed", "window"} {
				must(t, map[string]func() error{"down": r.g.Lower, "up": func() error { return r.g.Raise(false, false) },
					"armed": func() error { return r.g.Raise(true, false) }, "window": func() error { return r.g.Raise(false, true) }}[state]())
				for _, row := range rows {
					must(t, r.g.Renew())
					want = map[string]string{"down": row.down, "up": row.up, "armed": row.inWindow, "window": row.inWindow}[state]
					if got := row.do(); got != want {
						t.Errorf("guard %s, loose %s: %s: %s, want %s", state, loose, row.what, got, want)
					}
				}
				ping := []string{"ping", "-c", "1", "-W", "5", a.virtual}
				r.peer.run(ping...)
			}
		}
		in, fwd, err := r.g.Drops()
		if err != nil || in < 2*(7+8+8) || fwd != 0 {
			t.Errorf("%d and %d drops, %v", in, fwd, err)
		}
	})
}

// TestDroppedLeavesNoEntry: a datagram that was dropped does not occupy the tuple
// of the flow it belongs to.
func TestDroppedLeavesNoEntry(t *testing.T) {
	each(t, func(t *testing.T, a addresses) {
		r := newRig(t, a)
		must(t, r.g.Raise(false, false))
		if got := r.peer.ask(4000, to(a.virtual, 5999), r.fence, "nothing"); got != "nothing" {
			t.Errorf("with the guard: %s", got)
		}
		if n := r.entries(t, "dport=5999"); n != 0 {
			t.Errorf("%d entries", n)
		}
		must(t, r.g.Lower())
		if got := r.peer.ask(4000, to(a.virtual, 5999), r.fence, "refused"); got != "refused" {
			t.Errorf("without: %s", got)
		}
		if n := r.entries(t, "dport=5999"); n == 0 {
			t.Error("without the guard there is no entry either: the test shows nothing")
		}
	})
}

// TestForward: in the window the first packets of translated flows wait, but for
// new TCP connections and flows translated to addresses that do not move; what is
// known, and what is not translated, passes.
func TestForward(t *testing.T) {
	each(t, func(t *testing.T, a addresses) {
		r := newRig(t, a)
		for _, port := range []int{6000, 6001, 6002} {
			r.server.echo(port)
		}
		r.server.listen(":6001")
		r.fence = netip.AddrPortFrom(addr(a.server), 6000)
		udp := func(from, dport int, want string) string {
			return r.peer.ask(from, to(a.server, dport), r.fence, want)
		}
		if got := udp(5001, 6001, "answer"); got != "answer" {
			t.Fatalf("with the guard down: %s", got)
		}
		must(t, r.g.Raise(false, true))
		for _, row := range []struct {
			what        string
			from, dport int
			want        string
		}{
			{"a known translated flow", 5001, 6001, "answer"},
			{"a new flow translated to a virtual address", 5002, 6001, "nothing"},
			{"a new flow that is not translated", 5003, 6000, "answer"},
			{"a new flow translated to the router's own address", 5004, 6002, "answer"},
		} {
			must(t, r.g.Renew())
			if got := udp(row.from, row.dport, row.want); got != row.want {
				t.Errorf("%s: %s, want %s", row.what, got, row.want)
			}
		}
		if n := r.entries(t, "sport=5002"); n != 0 {
			t.Errorf("the flow that waits has left %d entries", n)
		}
		raw := r.peer.tcp(addr(a.peer))
		must(t, r.g.Renew())
		if got := raw.send(5005, 6001, addr(a.server), syn, r.fence); got&syn == 0 {
			t.Errorf("a new TCP connection: flags %#x", got)
		}
		must(t, r.g.Renew())
		if got := raw.send(5006, 6009, addr(a.server), ack, r.fence); got != 0 {
			t.Errorf("a segment from the middle of a translated connection is answered: %#x", got)
		}
		if n := r.entries(t, "sport=5006"); n != 0 {
			t.Errorf("it has left %d entries", n)
		}
		must(t, r.g.Raise(false, false))
		if got := udp(5002, 6001, "answer"); got != "answer" {
			t.Errorf("after the window: %s", got)
		}
		_, fwd, err := r.g.Drops()
		if err != nil || fwd < 2 {
			t.Errorf("%d packets dropped while forwarded, %v", fwd, err)
		}
	})
}

// TestArmed: the part for forwarded packets stands before the first virtual address
// comes, since others may follow it late; the router forwards for others meanwhile.
func TestArmed(t *testing.T) {
	each(t, func(t *testing.T, a addresses) {
		r := newRig(t, a)
		for _, port := range []int{6000, 6001, 6002} {
			r.server.echo(port)
		}
		r.fence = netip.AddrPortFrom(addr(a.server), 6000)
		vip := []string{"ip", "addr", "del", fmt.Sprintf("%s/%d", a.virtual2, a.bits), "dev", "wan0"}
		r.router.run(vip...)
		must(t, r.g.Raise(true, false))
		_ = r.peer.ask(5001, to(a.server, 6001), r.fence, "nothing")
		if n := r.entries(t, "sport=5001"); n != 0 {
			t.Errorf("a flow translated to an address that is to come has left %d entries", n)
		}
		vip[2] = "add"
		if addr(a.own).Is6() {
			vip = append(vip, "nodad")
		}
		r.router.run(vip...)
		must(t, r.g.Renew())
		for _, row := range []struct {
			what        string
			from, dport int
			want        string
		}{
			{"a new flow translated to a virtual address", 5002, 6001, "nothing"},
			{"a new flow that is not translated", 5003, 6000, "answer"},
			{"a new flow translated to the router's own address", 5004, 6002, "answer"},
		} {
			must(t, r.g.Renew())
			if got := r.peer.ask(row.from, to(a.server, row.dport), r.fence, row.want); got != row.want {
				t.Errorf("%s: %s, want %s", row.what, got, row.want)
			}
		}
		if n := r.entries(t, "sport=5002"); n != 0 {
			t.Errorf("the flow that waits has left %d entries", n)
		}
		must(t, r.g.Raise(false, false))
		if got := r.peer.ask(5002, to(a.server, 6001), r.fence, "answer"); got != "answer" {
			t.Errorf("disarmed: %s", got)
		}
	})
}

// TestLapse: nobody renews it: it falls open. Renewed, it stands.
func TestLapse(t *testing.T) {
	r := newRig(t, families["IPv4"])
	guarded := func() bool { return r.peer.ask(0, to(r.virtual, 5999), r.fence, "nothing") == "nothing" }
	must(t, r.g.Raise(false, true))
	for until := time.Now().Add(Lapse + Lapse/2); time.Now().Before(until); time.Sleep(Lapse / 10) {
		must(t, r.g.Renew())
	}
	if !guarded() {
		t.Fatal("it does not stand although it is renewed")
	}
	for deadline := time.Now().Add(time.Minute); guarded(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it stands although nobody renews it")
		}
	}
	must(t, r.g.Renew()) // the owner is back
	if !guarded() {
		t.Error("it cannot be renewed after it lapsed")
	}
}

// TestOwner: the table goes with its socket and with nothing else, and two guards
// do not meet.
func TestOwner(t *testing.T) {
	r := newRig(t, families["IPv4"])
	must(t, r.g.Raise(false, true))
	r.router.run("nft", "flush", "ruleset")
	if got := r.peer.ask(4000, to(r.virtual, 5999), r.fence, "nothing"); got != "nothing" {
		t.Errorf("after a flush of the ruleset: %s", got)
	}
	var second *Guard
	r.router.in(func() {
		var err error
		if second, err = Open(); err != nil {
			t.Error(err)
		}
	})
	if list := r.router.run("nft", "list", "tables"); strings.Count(list, "inet "+tableName) != 2 {
		t.Errorf("tables: %s", list)
	}
	must(t, second.Close())
	must(t, r.g.Close())
	if list := r.router.run("nft", "list", "tables"); list != "" {
		t.Errorf("left behind: %s", list)
	}
	if got := r.peer.ask(4000, to(r.virtual, 5999), r.fence, "refused"); got != "refused" {
		t.Errorf("without an owner: %s", got)
	}
}

// TestManyRounds of raising and lowering leave the table as it was.
func TestManyRounds(t *testing.T) {
	r := newRig(t, families["IPv4"])
	for range 200 {
		must(t, r.g.Raise(false, false))
		must(t, r.g.Raise(false, true))
		must(t, r.g.Raise(false, false))
		must(t, r.g.Lower())
	}
	must(t, r.g.Lower())
	list := r.router.run("nft", "list", "table", "inet", tableName)
	if strings.Contains(list, "hook") || strings.Contains(list, "elements") && strings.Contains(list, "chain input") {
		t.Errorf("after the last round:\n%s", list)
	}
}

func BenchmarkRaiseAndLower(b *testing.B) {
	g, err := Open()
	if err != nil {
		b.Skip(err)
	}
	defer g.Close()
	_ = g.Protect([]netip.Addr{addr("192.0.2.254")}, []netip.Addr{addr("192.0.2.1")})
	for b.Loop() {
		if err := g.Raise(false, true); err != nil {
			b.Fatal(err)
		}
		if err := g.Lower(); err != nil {
			b.Fatal(err)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
