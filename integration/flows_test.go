package integration

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/integration/lab"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

// kind is a flow made of raw packets: what the client and the server say in
// turn to establish it, and a word of each direction for later.
type kind struct {
	name   string
	proto  uint8
	six    bool
	client [][]byte // what the client says; the server answers each
	server [][]byte
}

// ones is the Internet checksum of the pseudo header and the content.
func ones(src, dst netip.Addr, proto uint8, b []byte) uint16 {
	sum := uint32(0)
	add := func(b []byte) {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
		if len(b)%2 == 1 {
			sum += uint32(b[len(b)-1]) << 8
		}
	}
	add(src.AsSlice())
	add(dst.AsSlice())
	sum += uint32(proto) + uint32(len(b))
	add(b)
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// udp is a datagram of UDP or UDP-Lite (whose third field is the coverage, 0 for
// everything) with its checksum.
func udp(proto uint8, src, dst string, sport, dport uint16, n int) []byte {
	b := binary.BigEndian.AppendUint16(nil, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	if proto == 136 {
		b = append(b, 0, 0, 0, 0)
	} else {
		b = append(binary.BigEndian.AppendUint16(b, uint16(8+n)), 0, 0)
	}
	b = append(b, bytes.Repeat([]byte("x"), n)...)
	binary.BigEndian.PutUint16(b[6:], ones(netip.MustParseAddr(src), netip.MustParseAddr(dst), proto, b))
	return b
}

// sctp is a packet with one chunk and its CRC32c.
func sctp(sport, dport uint16, tag uint32, chunk byte, body []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	b = binary.BigEndian.AppendUint32(b, tag)
	b = append(b, 0, 0, 0, 0, chunk, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(4+len(body)))
	b = append(b, body...)
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// initChunk is the body of INIT and INIT ACK.
func initChunk(tag uint32) []byte {
	b := binary.BigEndian.AppendUint32(nil, tag)
	b = append(b, 0, 1, 0, 0, 0, 1, 0, 1)
	return append(b, 0, 0, 0, 1)
}

const clientTag, serverTag = 0x01020304, 0xa1b2c3d4

// sctpTalk is an association being set up and a heartbeat.
func sctpTalk(sport uint16) (client, server [][]byte) {
	beat := []byte{0, 1, 0, 8, 1, 2, 3, 4}
	return [][]byte{sctp(sport, 5000, 0, 1, initChunk(clientTag)), sctp(sport, 5000, serverTag, 10, []byte("cook")), sctp(sport, 5000, serverTag, 4, beat)},
		[][]byte{sctp(5000, sport, clientTag, 2, initChunk(serverTag)), sctp(5000, sport, clientTag, 11, nil), sctp(5000, sport, clientTag, 5, beat)}
}

func kinds() []kind {
	words := func(prefix string) [][]byte { return [][]byte{[]byte(prefix + "one."), []byte(prefix + "two.")} }
	sc, ss := sctpTalk(4000)
	sc6, ss6 := sctpTalk(4006)
	const c4, s4, v4 = lab.ClientAddr, lab.ServerAddr, lab.WANVirtual
	const c6, s6, v6 = "fd01::10", lab.ServerAddr6, lab.WANVirtual6
	pair := func(proto uint8, c, s, v string, sport, dport uint16, n int) ([][]byte, [][]byte) {
		a, b := udp(proto, c, s, sport, dport, n), udp(proto, s, v, dport, sport, n)
		return [][]byte{a, a}, [][]byte{b, b}
	}
	lc, ls := pair(136, c4, s4, v4, 6000, 6001, 10)
	uc, us := pair(17, c4, s4, v4, 7000, 7001, 10)
	fc, fs := pair(17, c4, s4, v4, 7002, 7003, 4000)
	fc6, fs6 := pair(17, c6, s6, v6, 7004, 7005, 4000)
	gre, keyed := "\x00\x00\x08\x00", "\x20\x00\x08\x00\x00\x00\x00\x07"
	return []kind{
		{name: "UDP", proto: 17, client: uc, server: us},
		{name: "UDP in fragments", proto: 17, client: fc, server: fs},
		{name: "UDP in fragments over IPv6", proto: 17, six: true, client: fc6, server: fs6},
		{name: "UDP-Lite", proto: 136, client: lc, server: ls},
		{name: "SCTP", proto: 132, client: sc, server: ss},
		{name: "SCTP over IPv6", proto: 132, six: true, client: sc6, server: ss6},
		{name: "DCCP by number", proto: 33, client: words("\x0b\xb8\x0b\xb9"), server: words("\x0b\xb9\x0b\xb8")},
		{name: "GRE", proto: 47, client: words(gre), server: words(gre)},
		{name: "GRE with a key over IPv6", proto: 47, six: true, client: words(keyed), server: words(keyed)},
		{name: "ESP", proto: 50, client: words("\x00\x00\x00\x09"), server: words("\x00\x00\x00\x08")},
		{name: "AH", proto: 51, client: words("\x32\x04\x00\x00"), server: words("\x32\x04\x00\x00")},
		{name: "ESP over IPv6", proto: 50, six: true, client: words("\x00\x00\x00\x09"), server: words("\x00\x00\x00\x08")},
		{name: "a protocol without a tracker", proto: 253, client: words("any "), server: words("any ")},
	}
}

// talk is a kind's two sockets.
type talk struct {
	kind
	c, s *lab.Raw
	to   netip.Addr
	back netip.Addr // whom the server sees
}

func open(t *testing.T, l *lab.Lab, k kind) *talk {
	t.Helper()
	to := netip.MustParseAddr(lab.ServerAddr)
	if k.six {
		to = netip.MustParseAddr(lab.ServerAddr6)
	}
	x := &talk{kind: k, to: to, c: must[*lab.Raw](t)(l.Client.OpenRaw(k.six, k.proto)), s: must[*lab.Raw](t)(l.Server.OpenRaw(k.six, k.proto))}
	t.Cleanup(x.c.Close)
	t.Cleanup(x.s.Close)
	return x
}

// exchange is one word of the client and the server's answer; both must arrive,
// from whom they should.
func (x *talk) exchange(i int) error {
	x.c.Drain()
	x.s.Drain()
	if err := x.c.Send(x.to, x.client[i]); err != nil {
		return err
	}
	p, err := x.await(x.s, len(x.client[i]))
	if err != nil {
		return fmt.Errorf("%s: the client's word: %w", x.name, err)
	}
	if want := [2]string{lab.WANVirtual, lab.WANVirtual6}[b2i(x.six)]; p.From.String() != want {
		return fmt.Errorf("%s: the server sees %s, not %s: not translated", x.name, p.From, want)
	}
	x.back = p.From
	if err := x.s.Send(x.back, x.server[i]); err != nil {
		return err
	}
	if p, err = x.await(x.c, len(x.server[i])); err != nil {
		return fmt.Errorf("%s: the server's word: %w", x.name, err)
	}
	if p.From != x.to {
		return fmt.Errorf("%s: the client sees %s", x.name, p.From)
	}
	return nil
}

// await skips packets of other talks of the same protocol.
func (x *talk) await(r *lab.Raw, size int) (lab.Packet, error) {
	for {
		p, err := r.Next()
		if err != nil || len(p.Content) == size {
			return p, err
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// everything is the seed's configuration for all protocols.
func everything() string {
	var kept []string
	for _, line := range strings.Split(lab.Seed, "\n") {
		if !strings.Contains(line, "accept-protocol") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}

// allow lets the LAN open flows of every protocol.
func allow(t *testing.T, l *lab.Lab) {
	t.Helper()
	for _, r := range l.R {
		must[string](t)(r.Input("add rule inet filter forward iifname \"lan0\" ct state new accept\n", "nft", "-f", "-"))
	}
}

// TestEveryProtocol: flows of every protocol the kernel tracks, and some it does
// not, are the same in the standby's cache, and packets of both directions pass
// the new router after the failover, translated.
func TestEveryProtocol(t *testing.T) {
	l := newLab(t, lab.Options{Config: [2]string{everything(), everything()}})
	allow(t, l)
	for _, r := range l.R {
		// Linux 6.18 takes every UDP-Lite packet for invalid while it verifies
		// checksums, those of its own sockets too.
		must[string](t)(r.Run("sysctl", "-qw", "net.netfilter.nf_conntrack_checksum=0"))
	}
	rs := startPair(t, l)
	var talks []*talk
	for _, k := range kinds() {
		x := open(t, l, k)
		for i := range x.client {
			if err := x.exchange(i); err != nil {
				t.Fatal(err)
			}
		}
		talks = append(talks, x)
	}
	of := func(flows []flow.Flow) map[string]string {
		m := map[string]string{}
		for i := range flows {
			f := flows[i]
			if f.Orig.Proto == flow.ProtoTCP || f.Orig.Proto == flow.ProtoICMP {
				continue
			}
			m[fmt.Sprintf("%v key %d %d", f.Orig, f.Orig.Sport, f.Orig.Dport)] = fmt.Sprintf("%v %s %+v status %#x mark %d", f.Reply, f.StateName(), f.SCTP, f.Status, f.Mark)
		}
		return m
	}
	// Two tunnels of PPTP between the same hosts, which differ in their call
	// identifier alone; the kernel sees them one way only without PPTP's helper.
	pptp := must[*lab.Raw](t)(l.Client.OpenRaw(false, flow.ProtoGRE))
	defer pptp.Close()
	for call := range byte(2) {
		if err := pptp.Send(netip.MustParseAddr(lab.ServerAddr), []byte{0x20, 0x01, 0x88, 0x0b, 0, 0, 0, call + 7}); err != nil {
			t.Fatal(err)
		}
	}
	want := len(talks) + 2
	var a map[string]string
	wait(t, "the standby's view", func() (bool, error) {
		a = of(must[[]flow.Flow](t)(l.R[0].Cache("internal")))
		b := of(must[[]flow.Flow](t)(l.R[1].Cache("external")))
		for k, v := range a {
			if b[k] != v {
				return false, fmt.Errorf("%s:\nactive  %s\nstandby %s", k, v, b[k])
			}
		}
		return len(a) == len(b) && len(a) == want, fmt.Errorf("%d and %d entries, want %d\n%v\n%v", len(a), len(b), want, a, b)
	})
	for k, v := range a {
		if strings.Contains(k, "132") && !strings.Contains(v, "ESTABLISHED") {
			t.Errorf("the association is not established: %s %s", k, v)
		}
	}
	_ = rs[0].keepalived.Stop()
	waitRole(t, l.R[1], "MASTER")
	wait(t, "the commit", func() (bool, error) {
		s, err := l.R[1].Status()
		return err == nil && s.Commit != nil && s.Commit.Entries >= want, err
	})
	if s, err := l.R[1].Status(); err != nil || len(s.Commit.Refused) > 0 {
		t.Errorf("refused: %+v, %v", s.Commit.Refused, err)
	}
	// From now on only what is established passes.
	must[string](t)(l.R[1].Input("flush chain inet filter forward\nadd rule inet filter forward ct state established,related accept\n", "nft", "-f", "-"))
	for _, x := range talks {
		if err := x.exchange(len(x.client) - 1); err != nil {
			t.Error(err)
		}
	}
}

// TestAcceptProtocol: with one protocol accepted its flows alone are on the
// standby, whichever it is; the word of the document for ICMPv6 too.
func TestAcceptProtocol(t *testing.T) {
	l := newLab(t, lab.Options{Config: [2]string{everything(), everything()}})
	allow(t, l)
	startPair(t, l)
	for _, k := range kinds() {
		if k.proto != flow.ProtoSCTP && k.proto != flow.ProtoDCCP {
			continue
		}
		x := open(t, l, k)
		for i := range x.client {
			if err := x.exchange(i); err != nil {
				t.Fatal(err)
			}
		}
	}
	h := must[*lab.Hold](t)(l.StartHold(2))
	defer h.Close()
	must[string](t)(l.Client.Run("ping", "-c", "1", lab.ServerAddr))
	must[string](t)(l.Client.Run("ping", "-6", "-c", "1", lab.ServerAddr6))
	for word, want := range map[string]string{"tcp": "6", "udp": "17", "icmp": "1", "icmp6": "58", "ipv6-icmp": "58", "sctp": "132 132", "dccp": "33"} {
		for _, r := range l.R {
			if err := os.WriteFile(r.ConfDir()+"/zz.conf", []byte("set service conntrack-sync accept-protocol "+word+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		wait(t, word+" alone on the standby", func() (bool, error) {
			flows, err := l.R[1].Cache("external")
			var protocols []string
			for _, f := range flows {
				protocols = append(protocols, fmt.Sprint(f.Orig.Proto))
			}
			return strings.Join(protocols, " ") == want, fmt.Errorf("%v %w", protocols, err)
		})
	}
}

// TestIgnoreAddress: flows whose real ends are ignored stay here: a client, a
// server behind destination NAT, a prefix of IPv6.
func TestIgnoreAddress(t *testing.T) {
	config := everything() + "set service conntrack-sync ignore-address 10.1.0.12\n" +
		"set service conntrack-sync ignore-address 203.0.113.96/27\nset service conntrack-sync ignore-address 2001:db8:9::/48\n"
	l := newLab(t, lab.Options{Config: [2]string{config, config}})
	allow(t, l)
	ip := func(n *lab.Node, args ...string) { must[string](t)(n.Run(append([]string{"ip"}, args...)...)) }
	ip(l.Client, "addr", "add", "10.1.0.12/24", "dev", "lan0")
	ip(l.Client, "addr", "add", "2001:db8:9::10/64", "dev", "lan0", "nodad")
	ip(l.Server, "addr", "add", "203.0.113.100/24", "dev", "wan0")
	for _, r := range l.R {
		must[string](t)(r.Input("add rule ip nat prerouting ip daddr 198.51.100.7 dnat to 203.0.113.100\n", "nft", "-f", "-"))
	}
	startPair(t, l)
	for _, ping := range [][]string{
		{"-I", "10.1.0.12", lab.ServerAddr}, // an ignored client
		{"198.51.100.7"},                    // translated to an ignored server
		{"203.0.113.100"},                   // the server itself
		{"-6", "-I", "2001:db8:9::10", "-W", "1", lab.ServerAddr6}, // an ignored prefix; there is no way back
		{lab.ServerAddr},
		{"-6", lab.ServerAddr6},
	} {
		_, _ = l.Client.Run(append([]string{"ping", "-c", "1"}, ping...)...)
	}
	wait(t, "the other two on the standby", func() (bool, error) {
		flows, err := l.R[1].Cache("external")
		return len(flows) == 2, fmt.Errorf("%d, %w", len(flows), err)
	})
	for _, f := range must[[]flow.Flow](t)(l.R[1].Cache("external")) {
		if src := f.Orig.SrcAddr().String(); src != lab.ClientAddr && src != "fd01::10" {
			t.Errorf("%v is replicated", f.Orig)
		}
	}
	s, err := l.R[0].Statistics()
	if err != nil || s.Excluded["ignore-address"] < 4 {
		t.Errorf("excluded %v, %v", s.Excluded, err)
	}
}

// TestExcludedClasses: what is never replicated is counted by class.
func TestExcludedClasses(t *testing.T) {
	l := newLab(t, lab.Options{Config: [2]string{everything(), everything()}})
	startPair(t, l)
	must[string](t)(l.R[0].Run("ping", "-c", "1", "127.0.0.1"))
	must[string](t)(l.R[0].Run("ping", "-c", "1", lab.ServerAddr)) // the router's own flow
	wait(t, "every class counted", func() (bool, error) {
		s, err := l.R[0].Statistics()
		x := s.Excluded
		return err == nil && x["vrrp"] > 0 && x["sync-link"] > 0 && x["loopback"] > 0 && x["link-local"] > 0 && x["router"] > 0, fmt.Errorf("%v %w", x, err)
	})
	for i, which := range []string{"internal", "external"} {
		if flows := must[[]flow.Flow](t)(l.R[i].Cache(which)); len(flows) != 0 {
			t.Errorf("%s cache of r%d: %v", which, i+1, flows)
		}
	}
	text := must[string](t)(l.R[0].Sync("show", "conntrack-sync", "status", "--detail"))
	if !strings.Contains(text, "not replicated        : ") || !strings.Contains(text, "vrrp ") {
		t.Errorf("status --detail:\n%s", text)
	}
}
