package cache

import "github.com/conntrack-sync/conntrack-sync/sync/flow"

// record is an entry: what nearly every flow has. What few have (helper,
// labels, master, ...) stands in an extra.
type record struct {
	key     flow.Key
	reply   flow.Tuple
	tcp     flow.TCP
	flags   uint8
	has     flow.Has
	status  uint32
	timeout uint32
	mark    uint32
	id      uint32
	since   uint32 // Unix seconds
	heard   uint32 // Unix seconds
	hash    uint32
	extra   uint32 // 0: none; of a free record the next free one
	gen     uint32
	note    uint32
}

const (
	flagUsed uint8 = 1 << iota
	flagDirty
	flagKnown
	flagEnded
)

const hasExtra = flow.HasSCTP | flow.HasDCCP | flow.HasMaster | flow.HasSeqAdj |
	flow.HasHelper | flow.HasLabels | flow.HasSynproxy

// compactHas are the attributes an update by handle can carry, and those that
// mean nothing to a peer.
const compactHas = flow.HasStatus | flow.HasTimeout | flow.HasMark | flow.HasTCPState | flow.HasTCPWScaleOrig |
	flow.HasTCPWScaleReply | flow.HasTCPFlags | flow.HasID

// store fills a fresh record from f.
func (t *Table) store(rec *record, f *flow.Flow) {
	rec.reply, rec.tcp = f.Reply, f.TCP
	rec.has = f.Has &^ flow.HasCounters
	rec.status, rec.timeout, rec.mark, rec.id = f.Status, f.Timeout, f.Mark, f.ID
	if f.Since != 0 {
		rec.since = uint32(f.Since)
	}
	if f.Has&hasExtra != 0 {
		rec.extra = t.extras.alloc()
		t.extras.at(rec.extra).merge(f)
	}
	t.touch(rec)
}

// Load copies the entry into f, every field of it.
func (t *Table) Load(r Ref, f *flow.Flow) {
	rec := t.at(r)
	*f = flow.Flow{
		Orig: rec.key.Tuple, Zone: rec.key.Zone, Reply: rec.reply, TCP: rec.tcp,
		Has: rec.has, Status: rec.status, Timeout: rec.timeout, Mark: rec.mark,
		ID: rec.id, Since: int64(rec.since),
	}
	if rec.extra != 0 {
		t.extras.at(rec.extra).load(f)
	}
}

// Merge overwrites the entry with what u knows, by the rules of
// flow.Flow.Merge, and makes it one of the current generation. changed says
// whether anything but the timeout and the id is different now; only then the
// entry becomes dirty.
func (t *Table) Merge(r Ref, u *flow.Flow) (changed bool) {
	rec := t.at(r)
	t.stats.Updated++
	before := *rec
	rec.mergeReply(u)
	if u.Has&flow.HasStatus != 0 {
		rec.status = u.Status
	}
	if u.Has&flow.HasTimeout != 0 {
		rec.timeout = u.Timeout
	}
	if u.Has&flow.HasMark != 0 {
		rec.mark = u.Mark
	}
	if u.Has&flow.HasID != 0 {
		rec.id = u.ID
	}
	rec.mergeTCP(u)
	rec.has |= u.Has &^ (flow.HasNAT | flow.HasReply | flow.HasCounters)
	extraChanged := t.mergeExtra(rec, u)
	changed = extraChanged || rec.status != before.status || rec.mark != before.mark ||
		rec.tcp != before.tcp || rec.reply != before.reply || rec.has != before.has
	if rec.status != before.status || rec.mark != before.mark || rec.tcp.State != before.tcp.State || rec.reply != before.reply {
		t.discount(&before)
		t.count(rec)
	}
	if extraChanged || rec.reply != before.reply || (rec.has^before.has)&^compactHas != 0 {
		rec.flags &^= flagKnown
	}
	if changed {
		t.touch(rec)
	}
	rec.gen = t.gen
	return changed
}

func (rec *record) mergeReply(u *flow.Flow) {
	if rec.has&flow.HasReply == 0 && u.Has&flow.HasReply != 0 {
		rec.reply = u.Reply
		rec.has = rec.has&^flow.HasNAT | u.Has&flow.HasNAT | flow.HasReply
	}
}

func (rec *record) mergeTCP(u *flow.Flow) {
	if u.Has&flow.HasTCPState != 0 {
		rec.tcp.State = u.TCP.State
	}
	if u.Has&flow.HasTCPWScaleOrig != 0 {
		rec.tcp.WScaleOrig = u.TCP.WScaleOrig
	}
	if u.Has&flow.HasTCPWScaleReply != 0 {
		rec.tcp.WScaleReply = u.TCP.WScaleReply
	}
	if u.Has&flow.HasTCPFlags != 0 {
		rec.tcp.FlagsOrig, rec.tcp.FlagsReply = u.TCP.FlagsOrig, u.TCP.FlagsReply
	}
}

func (t *Table) mergeExtra(rec *record, u *flow.Flow) (changed bool) {
	if u.Has&hasExtra == 0 {
		return false
	}
	if rec.extra == 0 {
		rec.extra = t.extras.alloc()
	}
	x := t.extras.at(rec.extra)
	before := *x
	x.merge(u)
	return *x != before
}

// touch makes the record one of the current generation, and dirty.
func (t *Table) touch(rec *record) {
	rec.gen = t.gen
	if rec.flags&flagDirty == 0 {
		rec.flags |= flagDirty
		t.dirty++
	}
}
