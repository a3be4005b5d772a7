package engine

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

// class says why a flow is replicated or not.
type class uint8

// The classes in the order in which they are looked for. Only the last two are
// the operator's wish; the others are never replicated.
const (
	classKeep class = iota
	classVRRP
	classLoopback
	classLinkLocal
	classSyncLink
	classRouter
	classProtocol
	classAddress
	classes
)

func (c class) String() string {
	return [...]string{"keep", "vrrp", "loopback", "link-local", "sync-link", "router", "accept-protocol", "ignore-address"}[c]
}

type address struct {
	addr   [16]byte
	family flow.Family
}

func packAddress(a netip.Addr) address {
	t := flow.MakeTuple(0, a, a, 0, 0)
	return address{t.Src, t.Family}
}

// filter decides which flows are replicated. A flow's real ends are its
// original source and its reply source; translated addresses do not count.
type filter struct {
	made     bool
	accept   [256]bool // used when all is false
	all      bool
	ignore   []netip.Prefix
	own      map[address]class
	group    address
	ends     map[end]bool     // of the sync link, former ones too
	excluded *[classes]uint64 // flows seen, by class
}

// end is where datagrams of the sync link are sent. The kernel keeps their flows
// for a while when the link moved elsewhere.
type end struct {
	address
	port uint16
}

// inherit remembers the ends the link had under an earlier configuration.
func (f *filter) inherit(old *filter) {
	for at := range old.ends {
		f.ends[at] = true
	}
}

// newFilter makes the filter of the settings on a host with these addresses,
// of which syncAddrs are those of the sync interfaces; excluded goes on counting where it is given.
func newFilter(s *settings, local, syncAddrs []netip.Addr, excluded *[classes]uint64) filter {
	if excluded == nil {
		excluded = new([classes]uint64)
	}
	f := filter{made: true, all: len(s.AcceptProtocols) == 0, ignore: s.IgnoreAddresses,
		own: map[address]class{}, ends: map[end]bool{}, excluded: excluded}
	for _, p := range s.AcceptProtocols {
		f.accept[p] = true
	}
	if len(s.VirtualAddresses) > 0 {
		for _, a := range local {
			f.own[packAddress(a)] = classRouter
		}
		for _, a := range s.VirtualAddresses {
			delete(f.own, packAddress(a))
		}
	}
	for _, a := range syncAddrs {
		f.own[packAddress(a)] = classSyncLink
	}
	for _, i := range s.Interfaces {
		if i.Peer.IsValid() {
			f.own[packAddress(i.Peer)] = classSyncLink
			f.ends[end{packAddress(i.Peer), i.Port}] = true
		} else {
			f.ends[end{packAddress(s.McastGroup), i.Port}] = true
		}
		for _, a := range syncAddrs {
			f.ends[end{packAddress(a), i.Port}] = true
		}
	}
	if s.Multicast() {
		f.group = packAddress(s.McastGroup)
	}
	return f
}

func (f *filter) equal(o *filter) bool {
	return f.made == o.made && f.accept == o.accept && f.all == o.all && f.group == o.group &&
		slices.Equal(f.ignore, o.ignore) && maps.Equal(f.own, o.own) && maps.Equal(f.ends, o.ends)
}

// class puts the flow into its class without counting it.
func (f *filter) class(fl *flow.Flow) class {
	if fl.Orig.Proto == flow.ProtoVRRP {
		return classVRRP
	}
	src := address{fl.Orig.Src, fl.Orig.Family}
	dst := address{fl.Orig.Dst, fl.Orig.Family}
	real := dst
	if fl.Has&flow.HasReply != 0 {
		real.addr = fl.Reply.Src
	}
	for _, a := range [...]address{src, dst, real} {
		if c := special(a); c != classKeep {
			return c
		}
	}
	if dst == f.group || fl.Orig.Proto == flow.ProtoUDP && f.ends[end{dst, fl.Orig.Dport}] {
		return classSyncLink
	}
	if c, ok := f.own[src]; ok {
		return c
	}
	if c, ok := f.own[real]; ok {
		return c
	}
	if !f.all && !f.accept[fl.Orig.Proto] {
		return classProtocol
	}
	if len(f.ignore) > 0 && (f.ignored(src) || f.ignored(real)) {
		return classAddress
	}
	return classKeep
}

// special recognises loopback and link-local addresses, among them the
// multicast groups that never leave a link.
func special(a address) class {
	b := &a.addr
	if a.family == flow.IPv4 {
		switch {
		case b[0] == 127:
			return classLoopback
		case b[0] == 169 && b[1] == 254, b[0] == 224 && b[1] == 0 && b[2] == 0:
			return classLinkLocal
		}
		return classKeep
	}
	switch {
	case *b == [16]byte{15: 1}:
		return classLoopback
	case b[0] == 0xfe && b[1]&0xc0 == 0x80, b[0] == 0xff && b[1]&0x0f <= 2:
		return classLinkLocal
	}
	return classKeep
}

func (f *filter) ignored(a address) bool {
	addr := flow.UnpackAddr(a.addr, a.family)
	for _, p := range f.ignore {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
