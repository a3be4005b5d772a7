package cache

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

// Nearly every flow is IPv4, in zone 0, and answered in the protocol it began in:
// its tuples fit into 25 bytes of the record. Those of all others stand in a wide.

type wide struct {
	key   flow.Key
	reply flow.Tuple
}

var be = binary.BigEndian

// narrow packs a key's addresses and ports; ok is false when it does not fit.
func narrow(k *flow.Key) (ends uint64, ports uint32, ok bool) {
	if k.Zone != 0 {
		return 0, 0, false
	}
	return narrowTuple(&k.Tuple)
}

func narrowTuple(t *flow.Tuple) (ends uint64, ports uint32, ok bool) {
	if t.Family != flow.IPv4 || be.Uint32(t.Src[4:])|be.Uint32(t.Dst[4:]) != 0 ||
		be.Uint64(t.Src[8:])|be.Uint64(t.Dst[8:]) != 0 {
		return 0, 0, false
	}
	return uint64(be.Uint32(t.Src[:]))<<32 | uint64(be.Uint32(t.Dst[:])), uint32(t.Sport)<<16 | uint32(t.Dport), true
}

func widen(t *flow.Tuple, ends uint64, ports uint32, proto uint8) {
	*t = flow.Tuple{Sport: uint16(ports >> 16), Dport: uint16(ports), Proto: proto, Family: flow.IPv4}
	be.PutUint32(t.Src[:], uint32(ends>>32))
	be.PutUint32(t.Dst[:], uint32(ends))
}

// secrets make the places of the index unpredictable: whoever sends packets chooses
// the tuples.
type secrets [4]uint64

func newSecrets() (s secrets) {
	for i := range s {
		s[i] = maphash.Bytes(maphash.MakeSeed(), nil) | 1
	}
	return s
}

func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

func (s *secrets) narrow(ends uint64, ports uint32, proto uint8) uint32 {
	h := fold(ends^s[0], (uint64(ports)<<8|uint64(proto))^s[1])
	return uint32(fold(h^s[2], s[3]))
}

func (s *secrets) wide(k *flow.Key) uint32 {
	h := fold(be.Uint64(k.Src[:])^s[0], be.Uint64(k.Src[8:])^s[1])
	h = fold(be.Uint64(k.Dst[:])^s[1]^h, be.Uint64(k.Dst[8:])^s[2])
	rest := uint64(k.Sport)<<48 | uint64(k.Dport)<<32 | uint64(k.Zone)<<16 | uint64(k.Proto)<<8 | uint64(k.Family)
	return uint32(fold(h^s[2]^rest, s[3]))
}

func (t *Table) hash(k *flow.Key) uint32 {
	if ends, ports, ok := narrow(k); ok {
		return t.secrets.narrow(ends, ports, k.Proto)
	}
	return t.secrets.wide(k)
}

// setEnds stores both tuples in a fresh record.
func (t *Table) setEnds(rec *record, k *flow.Key, reply *flow.Tuple) {
	ends, ports, ok := narrow(k)
	back, backPorts, okBack := narrowTuple(reply)
	bare := *reply == flow.Tuple{}
	if ok && (bare || okBack && reply.Proto == k.Proto) {
		rec.ends, rec.back, rec.ports, rec.proto = ends, back, uint64(ports)<<32|uint64(backPorts), k.Proto
		if bare {
			rec.has |= flagBare
		}
		return
	}
	i := t.wides.alloc()
	*t.wides.at(i) = wide{*k, *reply}
	rec.ends, rec.has = uint64(i), rec.has|flagWide
}

// setReply changes the reply tuple.
func (t *Table) setReply(rec *record, reply *flow.Tuple) {
	var k flow.Key
	t.keyOf(rec, &k)
	t.dropEnds(rec)
	t.setEnds(rec, &k, reply)
}

// dropEnds forgets both tuples.
func (t *Table) dropEnds(rec *record) {
	if rec.has&flagWide != 0 {
		t.wides.release(uint32(rec.ends))
	}
	rec.has &^= flagWide | flagBare
	rec.ends, rec.back, rec.ports, rec.proto = 0, 0, 0, 0
}

func (t *Table) keyOf(rec *record, k *flow.Key) {
	if rec.has&flagWide != 0 {
		*k = t.wides.at(uint32(rec.ends)).key
		return
	}
	k.Zone = 0
	widen(&k.Tuple, rec.ends, uint32(rec.ports>>32), rec.proto)
}

func (t *Table) replyOf(rec *record, r *flow.Tuple) {
	switch {
	case rec.has&flagWide != 0:
		*r = t.wides.at(uint32(rec.ends)).reply
	case rec.has&flagBare != 0:
		*r = flow.Tuple{}
	default:
		widen(r, rec.back, uint32(rec.ports), rec.proto)
	}
}

func (t *Table) protoOf(rec *record) uint8 {
	if rec.has&flagWide != 0 {
		return t.wides.at(uint32(rec.ends)).key.Proto
	}
	return rec.proto
}
