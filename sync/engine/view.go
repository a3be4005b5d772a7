package engine

import (
	"slices"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/cache"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// onData applies a message about a flow to the external cache.
func (e *Engine) onData(now time.Time, l *life, m *wire.Native) {
	o := &e.own
	switch m.Type {
	case wire.MsgFlow:
		l.bind(m.Handle, e.applyWhole(now, &m.Flow))
	case wire.MsgUpdate, wire.MsgEnd:
		r := l.ref(m.Handle)
		if !e.external.Live(r, m.Check) {
			o.unknown++ // the message that named it was lost: it comes again
			return
		}
		k := e.external.Key(r)
		if m.Type == wire.MsgEnd {
			e.applyAt(now, wire.CTDel, nil, &k, r)
			return
		}
		m.Flow.Orig, m.Flow.Zone = k.Tuple, k.Zone
		e.applyAt(now, wire.CTUpd, &m.Flow, &k, r)
	case wire.MsgEndKey:
		e.apply(now, wire.CTDel, &m.Flow)
	default:
		t := wire.ExpNew
		if m.Type == wire.MsgExpectEnd {
			t = wire.ExpDel
		}
		e.deliverExpect(now, &wire.Message{Type: t, Body: m.Body})
	}
}

// applyWhole takes a whole flow: it replaces what is known of it where that is
// different, so that nothing of an earlier life stays. It returns the entry.
func (e *Engine) applyWhole(now time.Time, f *flow.Flow) cache.Ref {
	k := f.Key()
	r := e.external.Find(&k)
	if r == 0 {
		e.differs(now, "missing", f)
		return e.applyAt(now, wire.CTNew, f, &k, 0)
	}
	have := &e.own.spare
	e.external.Load(r, have)
	have.Timeout, have.Since, have.ID = f.Timeout, f.Since, f.ID
	have.Has = have.Has&^(flow.HasTimeout|flow.HasID) | f.Has&(flow.HasTimeout|flow.HasID)
	if *have == *f {
		return e.applyAt(now, wire.CTUpd, f, &k, r)
	}
	if have.Status != f.Status || have.TCP.State != f.TCP.State || have.Reply != f.Reply || have.Mark != f.Mark {
		e.differs(now, "differing", f)
	}
	return e.applyAt(now, wire.CTNew, f, &k, r)
}

// differs remembers what a repair found.
func (e *Engine) differs(now time.Time, kind string, f *flow.Flow) {
	p := &e.own.proof
	if !e.own.incoming.running {
		return
	}
	p.repairs++
	if len(p.found) == foundLimit {
		p.found = slices.Delete(p.found, 0, foundLimit/10)
	}
	p.found = append(p.found, stats.Difference{At: now.Format(time.RFC3339), Kind: kind, Flow: *f})
}

// handlesMax bounds what a peer can make us hold for its handles.
const handlesMax = 1 << 25

func (l *life) bind(handle uint32, r cache.Ref) {
	if handle >= handlesMax {
		return
	}
	for int(handle) >= len(l.handles) {
		l.handles = append(l.handles, make([]cache.Ref, max(1024, len(l.handles)))...)
	}
	l.handles[handle] = r
}

func (l *life) ref(handle uint32) cache.Ref {
	if int(handle) >= len(l.handles) {
		return 0
	}
	return l.handles[handle]
}
