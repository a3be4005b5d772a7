package cache

import "github.com/conntrack-sync/conntrack-sync/sync/flow"

// record is an entry: what nearly every flow has, in a line of the processor's
// cache. What few have stands elsewhere: helper, labels, master and the like in an
// extra, tuples that do not fit in a wide.
type record struct {
	ends    uint64   // original source and destination; or the number of the wide
	back    uint64   // the reply's
	ports   uint64   // original, reply
	has     flow.Has // and, above it, the flags
	status  uint32
	timeout uint32
	mark    uint32
	id      uint32 // the kernel's; where that is not known, when the flow was last spoken of
	since   uint32 // Unix seconds
	extra   uint32 // 0: none; of a free record the next free one
	note    uint32
	gen     uint16
	proto   uint8
	tcp     flow.TCP
}

const (
	flagUsed flow.Has = 1 << (24 + iota)
	flagDirty
	flagKnown
	flagEnded
	flagWide
	flagBare      // the reply tuple is zero
	flagUncounted // changed since the digest counted it, which does not hold it now
	hasMask       = flagUsed - 1
)

// Attributes must not reach into the flags.
var _ = [1]struct{}{}[flow.HasCounters/flagUsed]

const hasExtra = flow.HasSCTP | flow.HasDCCP | flow.HasMaster | flow.HasSeqAdj |
	flow.HasHelper | flow.HasLabels | flow.HasSynproxy

// compactHas are the attributes an update by handle can carry, and those that
// mean nothing to a peer.
const compactHas = flow.HasStatus | flow.HasTimeout | flow.HasMark | flow.HasTCPState | flow.HasTCPWScaleOrig |
	flow.HasTCPWScaleReply | flow.HasTCPFlags | flow.HasID

// store fills a fresh record from f.
func (t *Table) store(rec *record, f *flow.Flow) {
	rec.tcp = f.TCP
	rec.has |= f.Has &^ flow.HasCounters
	rec.status, rec.timeout, rec.mark = f.Status, f.Timeout, f.Mark
	if f.Has&flow.HasID != 0 {
		rec.id = f.ID
	}
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
		TCP: rec.tcp, Has: rec.has & hasMask, Status: rec.status, Timeout: rec.timeout, Mark: rec.mark,
		Since: int64(rec.since),
	}
	if rec.has&flow.HasID != 0 {
		f.ID = rec.id
	}
	var k flow.Key
	t.keyOf(rec, &k)
	f.Orig, f.Zone = k.Tuple, k.Zone
	t.replyOf(rec, &f.Reply)
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
	before, proven := *rec, rec.proves(u)
	if proven {
		t.discount(r)
	}
	replyChanged := t.mergeReply(rec, u)
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
	has := (rec.has ^ before.has) & hasMask
	changed = extraChanged || replyChanged || rec.status != before.status || rec.mark != before.mark ||
		rec.tcp != before.tcp || has != 0
	if proven {
		t.count(r)
	}
	if extraChanged || replyChanged || has&^compactHas != 0 {
		rec.has &^= flagKnown
	}
	if changed {
		t.touch(rec)
	}
	rec.gen = t.gen
	return changed
}

// proves reports whether u may change what proof covers.
func (rec *record) proves(u *flow.Flow) bool {
	return u.Has&flow.HasStatus != 0 && u.Status != rec.status || u.Has&flow.HasMark != 0 && u.Mark != rec.mark ||
		u.Has&flow.HasTCPState != 0 && u.TCP.State != rec.tcp.State || u.Has&flow.HasReply != 0 && rec.has&flow.HasReply == 0
}

// mergeReply fills in a reply tuple that was not known.
func (t *Table) mergeReply(rec *record, u *flow.Flow) (changed bool) {
	if rec.has&flow.HasReply != 0 || u.Has&flow.HasReply == 0 {
		return false
	}
	var was flow.Tuple
	t.replyOf(rec, &was)
	if changed = was != u.Reply; changed {
		t.setReply(rec, &u.Reply)
	}
	rec.has = rec.has&^flow.HasNAT | u.Has&flow.HasNAT | flow.HasReply
	return changed
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
	if rec.has&flagDirty == 0 {
		rec.has |= flagDirty
		t.dirty++
	}
}
