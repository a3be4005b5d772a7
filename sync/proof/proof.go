// Package proof is how two nodes find out that their tables are equal, or which
// parts of them are not: every flow adds a hash to the sum of its bucket, and sums
// are compared. It is pure; docs/PROTOCOL.md specifies the bytes that are hashed.
package proof

import (
	"encoding/binary"
	"math/bits"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/zeebo/xxh3"
)

var be = binary.BigEndian

// Buckets of the digest. A flow's bucket and its check follow from its key.
const (
	Buckets   = 4096
	Groups    = 64
	GroupSize = Buckets / Groups
)

const (
	keyBytes   = 40
	stateBytes = 38 + 9
)

// Sums are 64-bit sums, one a group of buckets or one a bucket of a group.
type Sums [Groups]uint64

// Digest is the sums of a table, kept up to date flow by flow. Addition makes the
// order of flows irrelevant. The zero value is that of an empty table.
type Digest struct {
	buckets [Buckets]uint64
	groups  Sums
}

// Add counts a flow in: its key's hash and its state's.
func (d *Digest) Add(key, state uint64) {
	b := BucketOf(key)
	d.buckets[b] += state
	d.groups[b/GroupSize] += state
}

// Remove counts it out again.
func (d *Digest) Remove(key, state uint64) {
	b := BucketOf(key)
	d.buckets[b] -= state
	d.groups[b/GroupSize] -= state
}

// Groups are the sums of all groups.
func (d *Digest) Groups() *Sums { return &d.groups }

// Group returns the sums of a group's buckets.
func (d *Digest) Group(g int) (s Sums) {
	copy(s[:], d.buckets[g*GroupSize:])
	return s
}

// Set is a set of buckets.
type Set [Buckets / 64]uint64

// All is the set of all buckets.
func All() (s Set) {
	for i := range s {
		s[i] = ^uint64(0)
	}
	return s
}

// Add puts a bucket in.
func (s *Set) Add(i uint16) { s[i/64] |= 1 << (i % 64) }

// Has reports whether it is in.
func (s *Set) Has(i uint16) bool { return s[i/64]&(1<<(i%64)) != 0 }

// Join puts everything in that is in o.
func (s *Set) Join(o *Set) {
	for i := range s {
		s[i] |= o[i]
	}
}

// Len is the number of buckets in the set.
func (s *Set) Len() (n int) {
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

// KeyHash is XXH3-64 of a key in 40 bytes: source, destination (16 each, IPv4 in
// the first four), both ports, protocol, family, zone; numbers big-endian.
func KeyHash(k *flow.Key) uint64 {
	var b [keyBytes]byte
	putKey(&b, k)
	return xxh3.Hash(b[:])
}

func putKey(b *[keyBytes]byte, k *flow.Key) {
	putTuple(b[:38], &k.Tuple)
	be.PutUint16(b[38:], k.Zone)
}

func putTuple(b []byte, t *flow.Tuple) {
	copy(b, t.Src[:])
	copy(b[16:], t.Dst[:])
	be.PutUint16(b[32:], t.Sport)
	be.PutUint16(b[34:], t.Dport)
	b[36], b[37] = t.Proto, byte(t.Family)
}

// BucketOf is the bucket of a key with this hash.
func BucketOf(hash uint64) uint16 { return uint16(hash >> 52) }

// CheckOf is what an update by handle says of the key.
func CheckOf(k *flow.Key) uint16 { return CheckOfHash(KeyHash(k)) }

// CheckOfHash is CheckOf the key with this hash.
func CheckOfHash(hash uint64) uint16 { return uint16(hash) }

// StateHash is XXH3-64 of what proof covers of a flow: the reply tuple, status,
// mark and TCP state, seeded with the key's hash. What is not known counts as
// zero.
func StateHash(key uint64, reply *flow.Tuple, status, mark uint32, tcpState uint8) uint64 {
	var b [stateBytes]byte
	putTuple(b[:38], reply)
	be.PutUint32(b[38:], status)
	be.PutUint32(b[42:], mark)
	b[46] = tcpState
	return xxh3.HashSeed(b[:], key)
}
