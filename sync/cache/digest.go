package cache

import (
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/proof"
)

// Prove makes the table keep a digest of its entries from now on; it must be
// empty. It costs two hashes an insertion or change.
func (t *Table) Prove() { t.digest = &proof.Digest{} }

// Digest is the digest of the entries, nil without Prove. It is the table's own:
// read it before the next change.
func (t *Table) Digest() *proof.Digest { return t.digest }

// Bucket is the bucket of an entry.
func (t *Table) Bucket(r Ref) uint16 {
	var k flow.Key
	t.keyOf(t.at(r), &k)
	return proof.BucketOf(proof.KeyHash(&k))
}

// Known reports whether the entry was marked as known to the peers, whole, and
// only changed since in what an update by handle can carry.
func (t *Table) Known(r Ref) bool { return t.at(r).has&flagKnown != 0 }

// SetKnown marks it so.
func (t *Table) SetKnown(r Ref) { t.at(r).has |= flagKnown }

// hash64 are the hashes the digest is made of; zeros where it is not kept.
func (t *Table) hash64(rec *record) (key, state uint64) {
	if t.digest == nil {
		return 0, 0
	}
	var k flow.Key
	var reply flow.Tuple
	t.keyOf(rec, &k)
	t.replyOf(rec, &reply)
	key = proof.KeyHash(&k)
	return key, proof.StateHash(key, &reply, rec.status, rec.mark, rec.tcp.State)
}

// count and discount keep the digest.
func (t *Table) count(rec *record) {
	if t.digest != nil {
		t.digest.Add(t.hash64(rec))
	}
}

func (t *Table) discount(rec *record) {
	if t.digest != nil {
		t.digest.Remove(t.hash64(rec))
	}
}

// Live reports whether the Ref names an entry now, whose key's check is this one.
func (t *Table) Live(r Ref, check uint16) bool {
	if r == 0 || r >= t.next {
		return false
	}
	rec := t.at(r)
	if rec.has&flagUsed == 0 {
		return false
	}
	var k flow.Key
	t.keyOf(rec, &k)
	return proof.CheckOf(&k) == check
}
