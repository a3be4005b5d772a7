package cache

import "github.com/conntrack-sync/conntrack-sync/sync/flow"

// NewGeneration begins a comparison with the whole truth: from now on every
// entry that is put, merged or touched belongs to the new generation, and those
// that still are Old when the comparison ends were not in it.
func (t *Table) NewGeneration() { t.gen++ }

// Old reports whether the entry was not put, merged or touched since the last
// NewGeneration.
func (t *Table) Old(r Ref) bool { return t.at(r).gen != t.gen }

// Renew makes the entry one of the current generation.
func (t *Table) Renew(r Ref) { t.at(r).gen = t.gen }

// Dirty reports whether the entry changed since it was last cleaned.
func (t *Table) Dirty(r Ref) bool { return t.at(r).has&flagDirty != 0 }

// Clean marks the entry as written.
func (t *Table) Clean(r Ref) {
	if rec := t.at(r); rec.has&flagDirty != 0 {
		rec.has &^= flagDirty
		t.dirty--
	}
}

// DirtyCount is the number of dirty entries.
func (t *Table) DirtyCount() int { return t.dirty }

// End marks the entry as ended elsewhere, until Revive or a Put under its key.
func (t *Table) End(r Ref) { t.at(r).has |= flagEnded }

// Revive takes that back.
func (t *Table) Revive(r Ref) { t.at(r).has &^= flagEnded }

// Ended reports whether it is so marked.
func (t *Table) Ended(r Ref) bool { return t.at(r).has&flagEnded != 0 }

// Has says what is known of the entry.
func (t *Table) Has(r Ref) flow.Has { return t.at(r).has & hasMask }

// Contradicts reports whether u, read from the kernel, says anything else of the
// entry than is known, in what events tell of: not its timeout, and not what
// packets change without one. u is of a dump: the kernel leaves out labels that were
// all cleared, in events too, so that no labels say something here.
func (t *Table) Contradicts(r Ref, u *flow.Flow) bool {
	const silent = flow.StatusOffload | flow.StatusHWOffload | flow.StatusDying
	rec := t.at(r)
	var reply flow.Tuple
	t.replyOf(rec, &reply)
	return u.Has&flow.HasStatus != 0 && (u.Status^rec.status)&^silent != 0 ||
		u.Has&flow.HasMark != 0 && u.Mark != rec.mark ||
		u.Has&flow.HasTCPState != 0 && u.TCP.State != rec.tcp.State ||
		u.Has&flow.HasReply != 0 && u.Reply != reply ||
		u.Has&hasExtra&^rec.has != 0 || u.Labels != t.labels(rec)
}

// Note returns the owner's word about the entry, 0 at first.
func (t *Table) Note(r Ref) uint32 { return t.at(r).note }

// SetNote sets it. A Put under the same key clears it.
func (t *Table) SetNote(r Ref, n uint32) { t.at(r).note = n }

// Key returns the key of the entry.
func (t *Table) Key(r Ref) (k flow.Key) {
	t.keyOf(t.at(r), &k)
	return k
}

// ID returns the kernel's id of the entry; ok is false when it is not known.
func (t *Table) ID(r Ref) (id uint32, ok bool) {
	rec := t.at(r)
	return rec.id, rec.has&flow.HasID != 0
}

// Since is the time of the insertion in Unix seconds.
func (t *Table) Since(r Ref) int64 { return int64(t.at(r).since) }

// Hear notes when the flow was last spoken of, in Unix seconds; Put does, too. It is
// not kept of an entry whose ID is known: that is this node's own.
func (t *Table) Hear(r Ref, now int64) {
	if rec := t.at(r); rec.has&flow.HasID == 0 {
		rec.id = uint32(now)
	}
}

// Heard is when that was, or when the entry was made.
func (t *Table) Heard(r Ref) int64 {
	rec := t.at(r)
	if rec.has&flow.HasID != 0 {
		return int64(rec.since)
	}
	return int64(rec.id)
}

// Carries reports whether the flow seems to carry traffic: assured, and of TCP
// not closing.
func (t *Table) Carries(r Ref) bool {
	rec := t.at(r)
	closing := t.protoOf(rec) == flow.ProtoTCP && rec.tcp.State > flow.TCPEstablished
	return rec.status&flow.StatusAssured != 0 && !closing
}

// Used reports whether the Ref names an entry now; it may be a later one's.
func (t *Table) Used(r Ref) bool { return t.used(r) }

// Timeout is the last timeout that was merged, in seconds.
func (t *Table) Timeout(r Ref) uint32 { return t.at(r).timeout }

// TCPState is the state of a TCP entry.
func (t *Table) TCPState(r Ref) uint8 { return t.at(r).tcp.State }

// HasMaster reports whether the entry is the child of another flow.
func (t *Table) HasMaster(r Ref) bool { return t.at(r).has&flow.HasMaster != 0 }

// Labelled reports whether the entry has labels set.
func (t *Table) Labelled(r Ref) bool { return t.labels(t.at(r)) != [16]byte{} }

func (t *Table) labels(rec *record) (l [16]byte) {
	if rec.extra != 0 {
		l = t.extras.at(rec.extra).labels
	}
	return l
}

// Adjusted reports whether the entry's sequence adjustment is known.
func (t *Table) Adjusted(r Ref) bool { return t.at(r).has&flow.HasSeqAdj != 0 }

// Soil makes the entry dirty again: what was written did not take effect.
func (t *Table) Soil(r Ref) {
	if rec := t.at(r); rec.has&flagDirty == 0 {
		rec.has |= flagDirty
		t.dirty++
	}
}

// Detach empties the table, counts its entries as destroyed, and returns them
// as a table of their own.
func (t *Table) Detach() *Table {
	old := *t
	old.digest, old.uncounted = nil, nil
	t.Clear()
	return &old
}
