package cache

import (
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/proof"
)

// Prove makes the table keep a digest of its entries from now on; it must be
// empty. It costs two hashes an entry that was inserted or changed, however often,
// since the digest was read.
func (t *Table) Prove() {
	t.digest = &proof.Digest{}
	t.uncounted = make([]Ref, 0, uncountedMost)
}

// Digest is the digest of the entries, nil without Prove. It is the table's own:
// read it before the next change.
func (t *Table) Digest() *proof.Digest {
	t.settle()
	return t.digest
}

// Bucket is the bucket of an entry.
func (t *Table) Bucket(r Ref) uint16 { return proof.BucketOf(t.keyHash(r)) }

// Known reports whether the entry was marked as known to the peers, whole, and
// only changed since in what an update by handle can carry.
func (t *Table) Known(r Ref) bool { return t.at(r).has&flagKnown != 0 }

// SetKnown marks it so.
func (t *Table) SetKnown(r Ref) { t.at(r).has |= flagKnown }

// hashed is the last key's hash and whose it is: what is said of a flow is checked
// against its key, and changes the digest twice.
type hashed struct {
	ref Ref
	key uint64
}

func (t *Table) keyHash(r Ref) uint64 {
	if t.hashed.ref != r {
		var k flow.Key
		t.keyOf(t.at(r), &k)
		t.hashed = hashed{r, proof.KeyHash(&k)}
	}
	return t.hashed.key
}

// proofHash is what the entry adds to its bucket.
func (t *Table) proofHash(r Ref) uint64 {
	rec := t.at(r)
	var reply flow.Tuple
	t.replyOf(rec, &reply)
	return proof.StateHash(t.keyHash(r), &reply, rec.status, rec.mark, rec.tcp.State)
}

// uncountedMost bounds how many entries are counted at once: some tenths of a
// millisecond. It holds what changes while a short TCP flow lives, some tenths of a
// second at 10,000 flows a second.
const uncountedMost = 4096

// count has the digest count the entry as it is when the digest is read, and discount,
// which goes before a change, takes it out as it was. What changes several times in
// between, or ends, is not counted each time.
func (t *Table) count(r Ref) {
	if t.digest == nil || t.at(r).has&flagUncounted != 0 {
		return
	}
	if len(t.uncounted) == uncountedMost {
		t.settle()
	}
	t.at(r).has |= flagUncounted
	t.uncounted = append(t.uncounted, r)
}

func (t *Table) discount(r Ref) {
	if t.digest != nil && t.at(r).has&flagUncounted == 0 {
		t.digest.Remove(t.keyHash(r), t.proofHash(r))
	}
}

// settle counts what waits for it. A Ref may stand there for an entry that has been
// deleted, and twice if another got it since.
func (t *Table) settle() {
	for _, r := range t.uncounted {
		if t.used(r) && t.at(r).has&flagUncounted != 0 {
			t.at(r).has &^= flagUncounted
			t.digest.Add(t.keyHash(r), t.proofHash(r))
		}
	}
	t.uncounted = t.uncounted[:0]
}

// Live reports whether the Ref names an entry now, whose key's check is this one.
func (t *Table) Live(r Ref, check uint16) bool {
	return t.used(r) && proof.CheckOfHash(t.keyHash(r)) == check
}
