package cache

import (
	"github.com/conntrack-sync/conntrack-sync/sync/proof"
)

// Prove makes the table keep a digest of its entries from now on; it must be
// empty. It costs two hashes an insertion or change.
func (t *Table) Prove() { t.digest = &proof.Digest{} }

// Digest is the digest of the entries, nil without Prove. It is the table's own:
// read it before the next change.
func (t *Table) Digest() *proof.Digest { return t.digest }

// Bucket is the bucket of an entry.
func (t *Table) Bucket(r Ref) uint16 { return proof.BucketOf(proof.KeyHash(&t.at(r).key)) }

// Known reports whether the entry was marked as known to the peers, whole, and
// only changed since in what an update by handle can carry.
func (t *Table) Known(r Ref) bool { return t.at(r).flags&flagKnown != 0 }

// SetKnown marks it so.
func (t *Table) SetKnown(r Ref) { t.at(r).flags |= flagKnown }

func (rec *record) hash64() (key, state uint64) {
	key = proof.KeyHash(&rec.key)
	return key, proof.StateHash(key, &rec.reply, rec.status, rec.mark, rec.tcp.State)
}

// count and discount keep the digest.
func (t *Table) count(rec *record) {
	if t.digest != nil {
		t.digest.Add(rec.hash64())
	}
}

func (t *Table) discount(rec *record) {
	if t.digest != nil {
		t.digest.Remove(rec.hash64())
	}
}

// Live reports whether the Ref names an entry now, whose key's check is this one.
func (t *Table) Live(r Ref, check uint16) bool {
	if r == 0 || r >= t.next {
		return false
	}
	rec := t.at(r)
	return rec.flags&flagUsed != 0 && proof.CheckOf(&rec.key) == check
}
