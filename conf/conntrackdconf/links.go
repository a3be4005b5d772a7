package conntrackdconf

import (
	"slices"
	"strings"
)

// link is a Multicast or UDP section.
type link struct {
	line      int
	multicast bool
	first     bool // marked Default
	name      string
	peer      string
	port      string
	local     string
	group     string
}

func (t *translator) link(s *statement) {
	l := link{line: s.line, multicast: s.name == "multicast"}
	for _, w := range s.args {
		l.first = l.first || strings.EqualFold(w, "default")
	}
	t.each("Sync "+s.shown, s.block, func(path string, s *statement) { t.linkSetting(path, s, &l) })
	switch {
	case l.name == "":
		t.problem(s.line, "Sync "+s.shown, "Interface is missing")
	case !l.multicast && l.peer == "":
		t.problem(s.line, "Sync "+s.shown, "the destination address is missing")
	}
	t.links = append(t.links, l)
}

func (t *translator) linkSetting(path string, s *statement, l *link) {
	switch s.name {
	case "interface":
		l.name = s.arg()
	case "group", "port":
		l.port = s.arg()
	case "ipv4_address", "ipv6_address":
		if l.multicast {
			t.mcast(path, s, l)
			return
		}
		l.local = s.arg()
	case "ipv4_destination_address", "ipv6_destination_address":
		l.peer = s.arg()
	case "sndsocketbuffer", "rcvsocketbuffer":
		t.gather(path, s, &t.buffer)
	case "checksum":
		if !t.on(path, s) {
			t.note(s.line, path+" "+s.shown, none+"datagrams always carry a checksum")
		}
	default:
		t.other(path, s)
	}
}

func (t *translator) mcast(path string, s *statement, l *link) {
	if s.name == "ipv6_address" {
		t.problem(s.line, path+" "+s.shown, none+"multicast runs over IPv4; use UDP with IPv6 addresses, on both nodes")
		return
	}
	l.group = s.arg()
}

// sameGroup leaves out the links that have another multicast group than the first:
// here one group serves all, and the other node may know no other.
func (t *translator) sameGroup(first link) {
	t.links = slices.DeleteFunc(t.links, func(l link) bool {
		other := first.multicast && l.multicast && l.group != first.group
		if other {
			t.note(l.line, "Sync Multicast", "interface "+printable(l.name)+" is left out, its group "+printable(l.group)+" is another than "+
				printable(first.group)+" and there is one mcast-group for all interfaces: give both the same, on both nodes")
		}
		return other
	})
}

// interfaces writes the links, the one marked Default first.
func (t *translator) interfaces() {
	slices.SortStableFunc(t.links, func(a, b link) int {
		switch {
		case a.first == b.first:
			return 0
		case a.first:
			return -1
		}
		return 1
	})
	if len(t.links) == 0 {
		return
	}
	first := t.links[0]
	t.sameGroup(first)
	for _, l := range t.links {
		t.set(l.line, "interface", l.name)
		if l.peer != "" {
			t.set(l.line, "interface", l.name, "peer", l.peer)
		}
		if l.port != "" && l.port != "3780" {
			t.set(l.line, "interface", l.name, "port", l.port)
		}
		if l.local != "" {
			t.set(l.line, "listen-address", l.local)
		}
	}
	if first.group != "" {
		t.set(first.line, "mcast-group", first.group)
	}
}
