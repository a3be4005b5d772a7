// Package cache holds the internal and the external table: flows by their
// original tuple, in chunks of fixed-size records without a pointer, so that a
// million entries cost the garbage collector nothing. A Table belongs to one
// goroutine at a time; its owner locks. It reads no clock: whoever changes it
// passes the time.
package cache

import (
	"errors"
	"hash/maphash"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/proof"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// ErrFull says that the table holds as many entries as it may.
var ErrFull = errors.New("cache is full")

// Ref names an entry of a Table until it is deleted; 0 names none. A deleted
// entry's Ref is given to a later one.
type Ref uint32

// Table is a set of flows. Make one with New.
type Table struct {
	seed   maphash.Seed
	limit  int
	index  []Ref // open addressing, linear probing, power of two
	chunks [][]record
	free   Ref // head of the list of free records, linked by record.extra
	next   Ref // first record never used
	gen    uint32
	dirty  int
	extras extras
	stats  stats.Cache
	digest *proof.Digest // nil: not kept
}

const (
	chunkBits = 10
	chunkLen  = 1 << chunkBits
	minIndex  = 1 << 10
	// keepChunks is what an emptied table keeps, so that a quiet router does not
	// make and drop memory with every flow.
	keepChunks = 16
)

// New makes an empty table for at most limit entries; 0 means no limit.
func New(limit int) *Table {
	t := &Table{seed: maphash.MakeSeed(), limit: limit}
	t.reset()
	return t
}

func (t *Table) reset() {
	t.index = make([]Ref, minIndex)
	t.chunks = nil
	t.free, t.next = 0, 1
	t.dirty = 0
	t.extras = extras{}
}

// Len is the number of entries.
func (t *Table) Len() int { return int(t.stats.Active) }

// Stats counts what happened to the table since it was made.
func (t *Table) Stats() stats.Cache { return t.stats }

func (t *Table) at(r Ref) *record {
	return &t.chunks[r>>chunkBits][r&(chunkLen-1)]
}

func (t *Table) hash(k *flow.Key) uint32 {
	return uint32(maphash.Comparable(t.seed, *k))
}

// Find returns the entry with this key, 0 if there is none.
func (t *Table) Find(k *flow.Key) Ref {
	h := t.hash(k)
	mask := uint32(len(t.index) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		r := t.index[i]
		if r == 0 {
			return 0
		}
		if rec := t.at(r); rec.hash == h && rec.key == *k {
			return r
		}
	}
}

// Put inserts the flow as a new entry of the current generation and replaces
// what stood under its key; replaced says so. now is Unix seconds. The entry is
// dirty until Clean.
func (t *Table) Put(f *flow.Flow, now int64) (r Ref, replaced bool, err error) {
	k := f.Key()
	if r = t.Find(&k); r != 0 {
		replaced = true
		t.discount(t.at(r))
		t.stats.Destroyed++
		t.extras.release(t.at(r).extra)
	} else {
		if t.limit > 0 && t.Len() >= t.limit {
			t.stats.CreatedFailed++
			return 0, false, ErrFull
		}
		r = t.insert(&k)
	}
	rec := t.at(r)
	wasDirty := rec.flags&flagDirty != 0
	*rec = record{key: k, hash: rec.hash, since: uint32(now), heard: uint32(now), flags: flagUsed}
	if wasDirty {
		t.dirty--
	}
	t.stats.Created++
	t.store(rec, f)
	t.count(rec)
	return r, replaced, nil
}

// insert makes room for a key that is not there.
func (t *Table) insert(k *flow.Key) Ref {
	if 4*(t.Len()+1) > 3*len(t.index) {
		t.grow()
	}
	r := t.alloc()
	h := t.hash(k)
	*t.at(r) = record{key: *k, hash: h, flags: flagUsed}
	t.link(r, h)
	t.stats.Active++
	return r
}

func (t *Table) link(r Ref, h uint32) {
	mask := uint32(len(t.index) - 1)
	i := h & mask
	for t.index[i] != 0 {
		i = (i + 1) & mask
	}
	t.index[i] = r
}

func (t *Table) alloc() Ref {
	if r := t.free; r != 0 {
		t.free = Ref(t.at(r).extra)
		return r
	}
	r := t.next
	if int(r>>chunkBits) == len(t.chunks) {
		t.chunks = append(t.chunks, make([]record, chunkLen))
	}
	t.next++
	return r
}

// grow doubles the index. Records are visited in the order of memory; their
// hashes are stored, so no key is read.
func (t *Table) grow() {
	t.index = make([]Ref, 2*len(t.index))
	for r := t.First(); r != 0; r = t.Next(r) {
		t.link(r, t.at(r).hash)
	}
}

// Delete removes the entry and counts it as destroyed.
func (t *Table) Delete(r Ref) {
	rec := t.at(r)
	t.discount(rec)
	t.unlink(r, rec.hash)
	t.extras.release(rec.extra)
	if rec.flags&flagDirty != 0 {
		t.dirty--
	}
	*rec = record{extra: uint32(t.free)}
	t.free = r
	t.stats.Active--
	t.stats.Destroyed++
	if t.stats.Active == 0 && len(t.chunks) > keepChunks {
		t.reset() // gives the memory back
	}
}

// unlink empties the index position of r and moves later ones of the same run
// back, so that no tombstones are needed.
func (t *Table) unlink(r Ref, h uint32) {
	mask := uint32(len(t.index) - 1)
	i := h & mask
	for t.index[i] != r {
		i = (i + 1) & mask
	}
	for j := i; ; {
		j = (j + 1) & mask
		if t.index[j] == 0 {
			break
		}
		home := t.at(t.index[j]).hash & mask
		if (j-home)&mask >= (j-i)&mask {
			t.index[i] = t.index[j]
			i = j
		}
	}
	t.index[i] = 0
}

// Clear removes everything and counts it as destroyed.
func (t *Table) Clear() {
	t.stats.Destroyed += t.stats.Active
	t.stats.Active = 0
	if t.digest != nil {
		*t.digest = proof.Digest{}
	}
	t.reset()
}

// First returns the first entry in the table's order, 0 if it is empty. The
// order is stable while entries come and go: a walk that is interrupted may go
// on with Next from an entry that was deleted meanwhile.
func (t *Table) First() Ref { return t.Next(0) }

// Next returns the entry after r, 0 at the end.
func (t *Table) Next(r Ref) Ref {
	for r++; r < t.next; r++ {
		if t.at(r).flags&flagUsed != 0 {
			return r
		}
	}
	return 0
}
