package engine

import (
	"context"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// answering is the peers' questions: one at a time is worked on, and the last
// answer is kept for who did not get all of it.
type answering struct {
	busy  bool
	to    uint64
	id    uint32
	parts [][]byte
	at    time.Time
}

// answerKept is how long an answer may be said again: it says how things were.
const answerKept = 3 * time.Second

// onQuestion answers a peer's question, in a while: the kernel's table is read
// for it. A question that comes while another is worked on is asked again.
func (e *Engine) onQuestion(now time.Time, from uint64, q *wire.Question) {
	a := &e.own.answering
	if q.To != e.own.session.ID || a.busy {
		return
	}
	if a.to == from && a.id == q.ID && now.Sub(a.at) < answerKept {
		e.frameAnswer(now)
		return
	}
	a.busy, a.to, a.id = true, from, q.ID
	query := q.Query
	e.spawn(e.life, "answering a peer's question", func(ctx context.Context) error {
		w, err := e.search(ctx, &query)
		e.mu.Lock()
		defer e.mu.Unlock()
		a.busy, a.at = false, e.now()
		if err != nil {
			return err
		}
		a.parts = e.partsOf(w)
		e.frameAnswer(e.now())
		return nil
	})
}

// partsOf divides an answer into parts that fit into frames.
func (e *Engine) partsOf(w *found) (parts [][]byte) {
	const room = 500 // what the largest entry and all heads may take
	part := []byte{}
	for _, k := range w.keys {
		for _, x := range entriesOf(w.places[k]) {
			if len(part) > max(0, e.link.MaxPayload()-room) && len(parts) < 254 {
				parts, part = append(parts, part), []byte{}
			}
			part = wire.AppendEntry(part, &x)
		}
	}
	return append(parts, part)
}

func entriesOf(p *stats.Places) (all []wire.Entry) {
	if p.Kernel != nil {
		x := wire.Entry{Place: wire.PlaceKernel, Flow: *p.Kernel}
		if p.Filtered != "" {
			x.Place, x.Why = wire.PlaceFiltered, p.Filtered
		}
		all = append(all, x)
	}
	if p.Internal != nil {
		all = append(all, wire.Entry{Place: wire.PlaceInternal, Flow: *p.Internal})
	}
	if p.External != nil {
		all = append(all, wire.Entry{Place: wire.PlaceExternal, Flow: *p.External})
	}
	return all
}

func (e *Engine) frameAnswer(now time.Time) {
	o := &e.own
	for i, b := range o.answering.parts {
		o.buf = wire.AppendAnswer(o.buf[:0], &wire.Answer{To: o.answering.to, ID: o.answering.id, Part: uint8(i), Of: uint8(len(o.answering.parts)), Entries: b})
		e.frameSized(now, wire.MsgAnswer, o.buf)
	}
	e.closeFrame(now)
	e.sendFrames(now)
}
