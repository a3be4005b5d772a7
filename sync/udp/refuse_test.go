package udp

import (
	"net/netip"
	"testing"
)

// TestRefuse: who is heard, and why others are not.
func TestRefuse(t *testing.T) {
	addr := netip.MustParseAddr
	local := []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("fd77::1/64"), netip.MustParsePrefix("fe80::1/64")}
	group4, group6 := Config{Group: addr("225.0.0.50")}, Config{Group: addr("ff02::50")}
	peer4, peer6, remote := Config{Peer: addr("192.0.2.2")}, Config{Peer: addr("fe80::2")}, Config{Peer: addr("203.0.113.2")}
	for _, tt := range []struct {
		name string
		cfg  Config
		from string
		cut  bool
		want string // "": it is heard
	}{
		{"group, of the link", group4, "192.0.2.2", false, ""},
		{"group, not of the link", group4, "198.51.100.2", false, "foreign_source"},
		{"group, our own", group4, "192.0.2.1", false, "own_datagram"},
		{"group, cut", group4, "192.0.2.2", true, "too_large"},
		{"group, cut and foreign", group4, "198.51.100.2", true, "too_large"},
		{"IPv6 group, of the link", group6, "fd77::2", false, ""},
		{"IPv6 group, link-local", group6, "fe80::2%sync0", false, ""},
		{"IPv6 group, not of the link", group6, "fd78::2", false, "foreign_source"},
		{"IPv6 group, our own", group6, "fe80::1%sync0", false, "own_datagram"},
		{"the peer", peer4, "192.0.2.2", false, ""},
		{"not the peer", peer4, "192.0.2.3", false, "foreign_source"},
		{"unicast, our own", peer4, "192.0.2.1", false, "own_datagram"},
		{"the peer, cut", peer4, "192.0.2.2", true, "too_large"},
		{"IPv6 peer", peer6, "fe80::2%sync0", false, ""},
		{"not the IPv6 peer", peer6, "fe80::3%sync0", false, "foreign_source"},
		{"a peer beyond the link", remote, "203.0.113.2", false, ""},
	} {
		c := Conn{cfg: tt.cfg, local: local, count: &Counters{}}
		r := receiver{c: &c}
		r.take([]byte("datagram"), netip.AddrPortFrom(addr(tt.from), 40000), tt.cut)
		if heard := len(r.got) == 1; heard != (tt.want == "") {
			t.Errorf("%s: heard %v", tt.name, heard)
		}
		for why, n := range c.Stats().Refused {
			if (n == 1) != (why == tt.want) || n > 1 {
				t.Errorf("%s: %s is %d", tt.name, why, n)
			}
		}
	}
}
