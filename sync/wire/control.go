package wire

import (
	"encoding/binary"

	"github.com/conntrack-sync/conntrack-sync/sync/proof"
)

// FlagContent in a frame says that it carries flows: it is reported within a
// tenth of a second, others within one.
const FlagContent = 2

// Range is a row of numbers, both ends included.
type Range struct{ From, To uint32 }

// Report says what arrived of the datagrams From..Upto of the node To.
type Report struct {
	To         uint64
	From, Upto uint32
	Missing    []Range
}

// AppendReport writes the body of a MsgReport.
func AppendReport(b []byte, r *Report) []byte {
	b = be.AppendUint64(b, r.To)
	b = be.AppendUint32(be.AppendUint32(b, r.From), r.Upto)
	b = binary.AppendUvarint(b, uint64(len(r.Missing)))
	for _, m := range r.Missing {
		b = be.AppendUint32(be.AppendUint32(b, m.From), m.To)
	}
	return b
}

// ParseReport reads it; ok is false when it makes no sense.
func ParseReport(body []byte) (r Report, ok bool) {
	x := reader{b: body}
	r.To = x.u64()
	r.From, r.Upto = x.u32(), x.u32()
	n := x.uvarint(16)
	if x.short || n*8 > uint64(len(x.b)) {
		return r, false
	}
	least := r.From // the ranges stand in order: nothing is named twice
	for range n {
		m := Range{x.u32(), x.u32()}
		if int32(m.To-m.From) < 0 || int32(m.From-least) < 0 || int32(r.Upto-m.To) < 0 {
			return r, false
		}
		least = m.To + 1
		r.Missing = append(r.Missing, m)
	}
	return r, !x.short
}

// Beat says who is there: at least once a second.
type Beat struct {
	Advert
	Ready    bool   // the node would carry the traffic now
	MaxEpoch uint32 // the highest epoch it knows of
	// Of the node it follows: whether its view was proven equal, how many buckets
	// differed at the last comparison, and at which number that was.
	Follows   uint64
	InSync    bool
	Differing uint16
	Proven    uint32
	Entries   uint32 // of its view
}

const (
	beatReady  = 1
	beatInSync = 2
)

// AppendBeat writes the body of a MsgBeat.
func AppendBeat(b []byte, x *Beat) []byte {
	flags := byte(0)
	if x.Ready {
		flags |= beatReady
	}
	if x.InSync {
		flags |= beatInSync
	}
	b = be.AppendUint32(append(b, flags), x.MaxEpoch)
	b = be.AppendUint16(be.AppendUint64(b, x.Follows), x.Differing)
	b = be.AppendUint32(be.AppendUint32(b, x.Proven), x.Entries)
	return AppendAdvert(b, &x.Advert)
}

// ParseBeat reads it; what a later release adds behind is skipped.
func ParseBeat(body []byte) (x Beat, ok bool) {
	r := reader{b: body}
	flags := r.u8()
	x.Ready, x.InSync = flags&beatReady != 0, flags&beatInSync != 0
	x.MaxEpoch = r.u32()
	x.Follows, x.Differing = r.u64(), r.u16()
	x.Proven, x.Entries = r.u32(), r.u32()
	low, high, release, ok := ParseAdvert(r.b)
	if r.short || !ok {
		return x, false
	}
	x.Low, x.High, x.Release = low, high, string(release)
	return x, true
}

func (r *reader) u64() uint64 {
	if v := r.bytes(8); v != nil {
		return be.Uint64(v)
	}
	return 0
}

// AppendDigest writes the body of a MsgDigest: the groups' digests and the
// number of flows they are of.
func AppendDigest(b []byte, entries uint32, d *proof.Sums) []byte {
	b = be.AppendUint32(b, entries)
	for _, v := range d {
		b = be.AppendUint64(b, v)
	}
	return b
}

// ParseDigest reads it.
func ParseDigest(body []byte, d *proof.Sums) (entries uint32, ok bool) {
	r := reader{b: body}
	entries = r.u32()
	for i := range d {
		d[i] = r.u64()
	}
	return entries, !r.short
}

// AppendAskBuckets writes the body of a MsgAskBuckets: to which node, and a bit
// for each group.
func AppendAskBuckets(b []byte, to uint64, groups uint64) []byte {
	return be.AppendUint64(be.AppendUint64(b, to), groups)
}

// ParseAskBuckets reads it.
func ParseAskBuckets(body []byte) (to, groups uint64, ok bool) {
	r := reader{b: body}
	to, groups = r.u64(), r.u64()
	return to, groups, !r.short
}

// AppendBuckets writes the body of a MsgBuckets: the digests of a group.
func AppendBuckets(b []byte, group uint8, d *proof.Sums) []byte {
	b = append(b, group)
	for _, v := range d {
		b = be.AppendUint64(b, v)
	}
	return b
}

// ParseBuckets reads it.
func ParseBuckets(body []byte, d *proof.Sums) (group uint8, ok bool) {
	r := reader{b: body}
	group = r.u8()
	for i := range d {
		d[i] = r.u64()
	}
	return group, !r.short && group < proof.Groups
}

// AppendBucketSet writes a set: where all are in one byte, else 512.
func AppendBucketSet(b []byte, s *proof.Set) []byte {
	full := true
	for _, w := range s {
		full = full && w == ^uint64(0)
	}
	if full {
		return append(b, 1)
	}
	b = append(b, 0)
	for _, w := range s {
		b = be.AppendUint64(b, w)
	}
	return b
}

func (r *reader) bucketSet(s *proof.Set) {
	full := r.u8() == 1
	for i := range s {
		if full {
			s[i] = ^uint64(0)
		} else {
			s[i] = r.u64()
		}
	}
}

// AppendAskCopy writes the body of a MsgAskCopy: to which node, and for which
// buckets.
func AppendAskCopy(b []byte, to uint64, s *proof.Set) []byte {
	return AppendBucketSet(be.AppendUint64(b, to), s)
}

// ParseAskCopy reads it.
func ParseAskCopy(body []byte, s *proof.Set) (to uint64, ok bool) {
	r := reader{b: body}
	to = r.u64()
	r.bucketSet(s)
	return to, !r.short
}

// AppendCopyMark writes the body of a MsgCopyStart or MsgCopyEnd: the copy's
// number and the buckets it is of.
func AppendCopyMark(b []byte, id uint32, s *proof.Set) []byte {
	return AppendBucketSet(be.AppendUint32(b, id), s)
}

// ParseCopyMark reads it.
func ParseCopyMark(body []byte, s *proof.Set) (id uint32, ok bool) {
	r := reader{b: body}
	id = r.u32()
	r.bucketSet(s)
	return id, !r.short
}
