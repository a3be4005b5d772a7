// Package flow says what a connection-tracking flow is: tuples, attributes,
// events and changes to the kernel's table. A Flow and what it is made of hold
// no pointers, so slices of them can be reused for ever and are never walked by
// the garbage collector. The package opens nothing and reads no clock.
package flow

import (
	"fmt"
	"net/netip"
)

// Family is the address family of a tuple, with the kernel's numbers.
type Family uint8

// The two families conntrack knows.
const (
	IPv4 Family = 2  // AF_INET
	IPv6 Family = 10 // AF_INET6
)

// Layer-4 protocol numbers that have a meaning of their own here.
const (
	ProtoICMP    = 1
	ProtoTCP     = 6
	ProtoUDP     = 17
	ProtoDCCP    = 33
	ProtoGRE     = 47
	ProtoICMPv6  = 58
	ProtoVRRP    = 112
	ProtoSCTP    = 132
	ProtoUDPLite = 136
)

// Tuple is one direction of a flow. It is comparable with == and holds no
// padding, so it hashes as plain memory.
//
// The layer-4 key lives in Sport and Dport, both in host order:
//   - TCP, UDP, SCTP, DCCP, UDP-Lite: the ports;
//   - ICMP, ICMPv6: Sport is the identifier, Dport is type<<8 | code;
//   - GRE: the source and the destination key (RFC 2637 call ids);
//   - everything else: both zero.
type Tuple struct {
	Src, Dst     [16]byte // IPv4 in the first four bytes, the rest zero
	Sport, Dport uint16
	Proto        uint8
	Family       Family
}

// Key identifies a flow in a cache and in the kernel: the original tuple and
// the conntrack zone. It is 40 bytes without padding.
type Key struct {
	Tuple
	Zone uint16
}

// MakeTuple builds a tuple from addresses and the layer-4 key as Tuple
// describes it. IPv4-mapped IPv6 addresses are unmapped.
func MakeTuple(proto uint8, src, dst netip.Addr, sport, dport uint16) Tuple {
	t := Tuple{Proto: proto, Sport: sport, Dport: dport, Family: IPv4}
	src, dst = src.Unmap(), dst.Unmap()
	if src.Is6() || dst.Is6() {
		t.Family = IPv6
	}
	t.SetSrc(src)
	t.SetDst(dst)
	return t
}

// MakeICMP builds the tuple of an ICMP or ICMPv6 flow.
func MakeICMP(proto uint8, src, dst netip.Addr, typ, code uint8, id uint16) Tuple {
	return MakeTuple(proto, src, dst, id, uint16(typ)<<8|uint16(code))
}

// IsZero reports whether the tuple was never filled.
func (t *Tuple) IsZero() bool { return *t == Tuple{} }

// SetSrc stores the source address; an invalid one clears it.
func (t *Tuple) SetSrc(a netip.Addr) { t.Src = packAddr(a) }

// SetDst stores the destination address; an invalid one clears it.
func (t *Tuple) SetDst(a netip.Addr) { t.Dst = packAddr(a) }

func packAddr(a netip.Addr) (b [16]byte) {
	switch {
	case a.Is4():
		v := a.As4()
		copy(b[:], v[:])
	case a.Is6():
		b = a.As16()
	}
	return b
}

// UnpackAddr is the netip form of an address stored as Tuple stores it.
func UnpackAddr(b [16]byte, f Family) netip.Addr {
	if f == IPv6 {
		return netip.AddrFrom16(b)
	}
	return netip.AddrFrom4([4]byte(b[:4]))
}

// SrcAddr is the source address.
func (t *Tuple) SrcAddr() netip.Addr { return UnpackAddr(t.Src, t.Family) }

// DstAddr is the destination address.
func (t *Tuple) DstAddr() netip.Addr { return UnpackAddr(t.Dst, t.Family) }

// AddrLen is the length of the tuple's addresses in bytes, 4 or 16.
func (t *Tuple) AddrLen() int {
	if t.Family == IPv6 {
		return 16
	}
	return 4
}

// HasPorts reports whether Sport and Dport are ports.
func (t *Tuple) HasPorts() bool { return ProtoHasPorts(t.Proto) }

// ProtoHasPorts reports whether flows of the protocol are told apart by ports.
func ProtoHasPorts(p uint8) bool {
	switch p {
	case ProtoTCP, ProtoUDP, ProtoSCTP, ProtoDCCP, ProtoUDPLite:
		return true
	}
	return false
}

// IsICMP reports whether Sport and Dport hold identifier, type and code.
func (t *Tuple) IsICMP() bool { return t.Proto == ProtoICMP || t.Proto == ProtoICMPv6 }

// ICMP returns type, code and identifier of an ICMP or ICMPv6 tuple.
func (t *Tuple) ICMP() (typ, code uint8, id uint16) {
	return uint8(t.Dport >> 8), uint8(t.Dport), t.Sport
}

// Inverse is the tuple of the answer to t where nothing is translated: the
// addresses and ports swapped, ICMP queries mapped to their replies and back
// (the pairs the kernel's trackers know; another type is left as it is).
func (t *Tuple) Inverse() Tuple {
	r := Tuple{Src: t.Dst, Dst: t.Src, Sport: t.Dport, Dport: t.Sport, Proto: t.Proto, Family: t.Family}
	if t.IsICMP() {
		typ, code, id := t.ICMP()
		r.Sport, r.Dport = id, uint16(inverseICMP(t.Proto, typ))<<8|uint16(code)
	}
	return r
}

func inverseICMP(proto, typ uint8) uint8 {
	if proto == ProtoICMP {
		switch typ {
		case 8:
			return 0
		case 0:
			return 8
		case 13, 15, 17:
			return typ + 1
		case 14, 16, 18:
			return typ - 1
		}
		return typ
	}
	switch typ {
	case 128, 139:
		return typ + 1
	case 129, 140:
		return typ - 1
	}
	return typ
}

// String is for logs and test failures.
func (t Tuple) String() string {
	switch {
	case t.IsICMP():
		typ, code, id := t.ICMP()
		return fmt.Sprintf("%s %s > %s type %d code %d id %d", ProtoName(t.Proto), t.SrcAddr(), t.DstAddr(), typ, code, id)
	case t.HasPorts():
		return fmt.Sprintf("%s %s > %s", ProtoName(t.Proto),
			netip.AddrPortFrom(t.SrcAddr(), t.Sport), netip.AddrPortFrom(t.DstAddr(), t.Dport))
	case t.Proto == ProtoGRE:
		return fmt.Sprintf("gre %s > %s key %#x %#x", t.SrcAddr(), t.DstAddr(), t.Sport, t.Dport)
	}
	return fmt.Sprintf("%s[%d] %s > %s", ProtoName(t.Proto), t.Proto, t.SrcAddr(), t.DstAddr())
}

// ProtoName is the name conntrack tools print for a layer-4 protocol,
// "unknown" for those without one.
func ProtoName(p uint8) string {
	switch p {
	case ProtoTCP:
		return "tcp"
	case ProtoUDP:
		return "udp"
	case ProtoICMP:
		return "icmp"
	case ProtoICMPv6:
		return "icmpv6"
	case ProtoSCTP:
		return "sctp"
	case ProtoDCCP:
		return "dccp"
	case ProtoGRE:
		return "gre"
	case ProtoUDPLite:
		return "udplite"
	}
	return "unknown"
}
