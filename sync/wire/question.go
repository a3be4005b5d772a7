package wire

import (
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

// Question asks a node where the flows are that match.
type Question struct {
	To    uint64
	ID    uint32 // of the question, chosen by who asks
	Query flow.Query
}

// Places of a flow in an answer.
const (
	PlaceKernel = iota + 1
	PlaceInternal
	PlaceExternal
	PlaceFiltered // in the kernel, and not replicated
)

// Answer is one of several parts of an answer.
type Answer struct {
	To       uint64
	ID       uint32
	Part, Of uint8
	Entries  []byte // to be read with NextEntry
}

// Entry is a flow in one place of a node.
type Entry struct {
	Place uint8
	Why   string // it is not replicated, of PlaceFiltered
	Flow  flow.Flow
}

// AppendQuestion writes the body of a MsgQuestion.
func AppendQuestion(b []byte, q *Question) []byte {
	b = be.AppendUint32(be.AppendUint64(b, q.To), q.ID)
	t := flow.MakeTuple(q.Query.Proto, q.Query.Src, q.Query.Dst, q.Query.Sport, q.Query.Dport)
	b = append(b, byte(t.Family), t.Proto)
	n := t.AddrLen()
	b = append(append(b, t.Src[:n]...), t.Dst[:n]...)
	return be.AppendUint16(be.AppendUint16(b, t.Sport), t.Dport)
}

// ParseQuestion reads it.
func ParseQuestion(body []byte) (q Question, ok bool) {
	r := reader{b: body}
	q.To, q.ID = r.u64(), r.u32()
	t := flow.Tuple{Family: flow.Family(r.u8())}
	if t.Family != flow.IPv4 && t.Family != flow.IPv6 {
		return q, false
	}
	q.Query.Proto = r.u8()
	n := t.AddrLen()
	copy(t.Src[:], r.bytes(n))
	copy(t.Dst[:], r.bytes(n))
	q.Query.Src, q.Query.Dst = t.SrcAddr(), t.DstAddr()
	q.Query.Sport, q.Query.Dport = r.u16(), r.u16()
	return q, !r.short
}

// AppendAnswer writes the body of a MsgAnswer.
func AppendAnswer(b []byte, a *Answer) []byte {
	b = be.AppendUint32(be.AppendUint64(b, a.To), a.ID)
	return append(append(b, a.Part, a.Of), a.Entries...)
}

// ParseAnswer reads it; Entries aliases the body.
func ParseAnswer(body []byte) (a Answer, ok bool) {
	r := reader{b: body}
	a = Answer{To: r.u64(), ID: r.u32(), Part: r.u8(), Of: r.u8()}
	a.Entries = r.b
	return a, !r.short && a.Of > 0 && a.Part < a.Of
}

// AppendEntry writes an entry of an answer.
func AppendEntry(b []byte, e *Entry) []byte {
	why := e.Why[:min(len(e.Why), whyMax)]
	b = append(append(b, e.Place, byte(len(why))), why...)
	return AppendNativeFlow(b, 0, &e.Flow)
}

const whyMax = 64

// NextEntry reads the first entry of an answer and returns the rest; nothing is
// left at the end.
func NextEntry(b []byte) (e Entry, rest []byte, ok bool) {
	r := reader{b: b}
	e.Place = r.u8()
	why := r.bytes(int(r.u8()))
	if r.short || len(why) > whyMax {
		return e, nil, false
	}
	for _, c := range why {
		if c < ' ' || c > '~' {
			return e, nil, false
		}
	}
	e.Why = string(why)
	var m Native
	rest, err := NextNative(r.b, &m)
	if err != nil || m.Type != MsgFlow {
		return e, nil, false
	}
	e.Flow = m.Flow
	return e, rest, true
}
