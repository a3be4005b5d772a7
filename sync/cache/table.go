// Package cache holds the internal and the external table: flows by their
// original tuple, in chunks of fixed-size records without a pointer, so that a
// million entries cost the garbage collector nothing. A Table belongs to one
// goroutine at a time; its owner locks. It reads no clock: whoever changes it
// passes the time.
package cache

import (
	"errors"

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
	secrets   secrets
	limit     int
	index     []slot // open addressing, linear probing, power of two
	chunks    [][]record
	free      Ref // head of the list of free records, linked by record.extra
	next      Ref // first record never used
	gen       uint16
	dirty     int
	extras    pool[extra]
	wides     pool[wide]
	stats     stats.Cache
	digest    *proof.Digest // nil: not kept
	hashed    hashed
	uncounted []Ref  // what the digest has to count, see settle
	warm      uint64 // keeps what Prefetch reads from being optimised away
}

// slot is a place of the index: the key's hash above the entry's Ref, so that a
// search touches the records of other keys hardly ever. 0 is free.
type slot uint64

func (s slot) hash() uint32 { return uint32(s >> 32) }
func (s slot) ref() Ref     { return Ref(s) }

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
	t := &Table{secrets: newSecrets(), limit: limit}
	t.reset()
	return t
}

func (t *Table) reset() {
	t.index = make([]slot, minIndex)
	t.chunks = nil
	t.free, t.next = 0, 1
	t.dirty = 0
	t.hashed, t.uncounted = hashed{}, t.uncounted[:0]
	t.extras, t.wides = pool[extra]{}, pool[wide]{}
}

// Len is the number of entries.
func (t *Table) Len() int { return int(t.stats.Active) }

// Stats counts what happened to the table since it was made.
func (t *Table) Stats() stats.Cache { return t.stats }

func (t *Table) at(r Ref) *record {
	return &t.chunks[r>>chunkBits][r&(chunkLen-1)]
}

// used reports whether the Ref names an entry now.
func (t *Table) used(r Ref) bool { return r != 0 && r < t.next && t.at(r).has&flagUsed != 0 }

// Find returns the entry with this key, 0 if there is none.
func (t *Table) Find(k *flow.Key) Ref {
	ends, ports, ok := narrow(k)
	if !ok {
		return t.findWide(k, t.secrets.wide(k))
	}
	h := t.secrets.narrow(ends, ports, k.Proto)
	mask := uint32(len(t.index) - 1)
	for i := h & mask; t.index[i] != 0; i = (i + 1) & mask {
		if t.index[i].hash() != h {
			continue
		}
		r := t.index[i].ref()
		rec := t.at(r)
		if rec.has&flagWide != 0 {
			return t.findWide(k, h) // whose reply is odd, perhaps
		}
		if rec.ends == ends && uint32(rec.ports>>32) == ports && rec.proto == k.Proto {
			return r
		}
	}
	return 0
}

// PrefetchKey reads the index where a search for the key will: a search waits for
// memory longer than it works, those of many keys wait at once.
func (t *Table) PrefetchKey(k *flow.Key) {
	t.warm += uint64(t.index[t.hash(k)&uint32(len(t.index)-1)])
}

// Prefetch reads an entry, if the Ref names one, before it is used.
func (t *Table) Prefetch(r Ref) {
	if r != 0 && r < t.next {
		t.warm += uint64(t.at(r).has)
	}
}

// PrefetchDelete reads the index where the entry stands in it, before it is deleted.
func (t *Table) PrefetchDelete(r Ref) {
	if t.used(r) {
		var k flow.Key
		t.keyOf(t.at(r), &k)
		t.PrefetchKey(&k)
	}
}

func (t *Table) findWide(k *flow.Key, h uint32) Ref {
	mask := uint32(len(t.index) - 1)
	var have flow.Key
	for i := h & mask; t.index[i] != 0; i = (i + 1) & mask {
		if t.index[i].hash() != h {
			continue
		}
		r := t.index[i].ref()
		if t.keyOf(t.at(r), &have); have == *k {
			return r
		}
	}
	return 0
}

// Put inserts the flow as a new entry of the current generation and replaces
// what stood under its key; replaced says so. now is Unix seconds. The entry is
// dirty until Clean.
func (t *Table) Put(f *flow.Flow, now int64) (r Ref, replaced bool, err error) {
	k := f.Key()
	at := t.Find(&k)
	r, err = t.Set(at, &k, f, now)
	return r, at != 0 && err == nil, err
}

// Set is Put where the caller has found the place: r is what Find returned for the
// flow's key, 0 for a new entry, and the table has not been changed since.
func (t *Table) Set(r Ref, k *flow.Key, f *flow.Flow, now int64) (Ref, error) {
	if r != 0 {
		rec := t.at(r)
		t.discount(r)
		t.stats.Destroyed++
		t.release(rec)
		if rec.has&flagDirty != 0 {
			t.dirty--
		}
	} else {
		if t.limit > 0 && t.Len() >= t.limit {
			t.stats.CreatedFailed++
			return 0, ErrFull
		}
		r = t.insert(k)
	}
	rec := t.at(r)
	*rec = record{since: uint32(now), id: uint32(now), has: flagUsed}
	t.setEnds(rec, k, &f.Reply)
	t.stats.Created++
	t.store(rec, f)
	t.count(r)
	return r, nil
}

// release gives back what stands outside the record.
func (t *Table) release(rec *record) {
	t.extras.release(rec.extra)
	t.dropEnds(rec)
}

// insert makes room for a key that is not there.
func (t *Table) insert(k *flow.Key) Ref {
	if 4*(t.Len()+1) > 3*len(t.index) {
		t.grow()
	}
	r := t.alloc()
	t.link(slot(t.hash(k))<<32 | slot(r))
	t.stats.Active++
	return r
}

func (t *Table) link(s slot) {
	mask := uint32(len(t.index) - 1)
	i := s.hash() & mask
	for t.index[i] != 0 {
		i = (i + 1) & mask
	}
	t.index[i] = s
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

// grow doubles the index. No record is read.
func (t *Table) grow() {
	old := t.index
	t.index = make([]slot, 2*len(old))
	for _, s := range old {
		if s != 0 {
			t.link(s)
		}
	}
}

// Delete removes the entry and counts it as destroyed.
func (t *Table) Delete(r Ref) {
	rec := t.at(r)
	t.discount(r)
	var k flow.Key
	t.keyOf(rec, &k)
	t.unlink(slot(t.hash(&k))<<32 | slot(r))
	t.release(rec)
	if rec.has&flagDirty != 0 {
		t.dirty--
	}
	t.hashed = hashed{}
	*rec = record{extra: uint32(t.free)}
	t.free = r
	t.stats.Active--
	t.stats.Destroyed++
	if t.stats.Active == 0 && len(t.chunks) > keepChunks {
		t.reset() // gives the memory back
	}
}

// unlink empties a place of the index and moves later ones of the same run back,
// so that no tombstones are needed.
func (t *Table) unlink(s slot) {
	mask := uint32(len(t.index) - 1)
	i := s.hash() & mask
	for t.index[i] != s {
		i = (i + 1) & mask
	}
	for j := i; ; {
		j = (j + 1) & mask
		if t.index[j] == 0 {
			break
		}
		home := t.index[j].hash() & mask
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
		if t.at(r).has&flagUsed != 0 {
			return r
		}
	}
	return 0
}
