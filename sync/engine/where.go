package engine

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/cache"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

const (
	// whereMax is how many flows an answer names.
	whereMax = 64
	// askAgain is how long an answer is waited for before the question is sent
	// again, askFor how long in all: a peer reads its kernel's table for it.
	askAgain = 500 * time.Millisecond
	askFor   = 5 * time.Second
)

// found are the flows that match on one node, in the order in which they were
// found.
type found struct {
	keys   []flow.Key
	places map[flow.Key]*stats.Places
	more   bool
}

func (w *found) at(f *flow.Flow) *stats.Places {
	k := f.Key()
	p := w.places[k]
	if p == nil {
		if len(w.keys) == whereMax {
			w.more = true
			return nil
		}
		p = &stats.Places{}
		w.keys = append(w.keys, k)
		w.places[k] = p
	}
	return p
}

// Where says where the flows that match are, on this node and on the peers.
func (e *Engine) Where(ctx context.Context, q flow.Query) (stats.Where, error) {
	if !e.configured() {
		return stats.Where{}, errNotConfigured
	}
	local, err := e.search(ctx, &q)
	if err != nil {
		return stats.Where{}, err
	}
	asked, answers, err := e.askPeers(ctx, &q)
	if err != nil {
		return stats.Where{}, err
	}
	return e.whereabouts(q, local, asked, answers), nil
}

// search looks through caches and kernel.
func (e *Engine) search(ctx context.Context, q *flow.Query) (*found, error) {
	w := &found{places: map[flow.Key]*stats.Places{}}
	for at, more := cache.Ref(0), true; more; {
		at, more = e.searchSlice(w, q, at, true)
	}
	for at, more := cache.Ref(0), true; more; {
		at, more = e.searchSlice(w, q, at, false)
	}
	return w, e.kernel.Dump(ctx, func(flows []flow.Flow) error {
		e.searchKernel(w, q, flows)
		return nil
	})
}

func (e *Engine) searchSlice(w *found, q *flow.Query, at cache.Ref, internal bool) (cache.Ref, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.external
	if internal {
		t = e.internal
	}
	for range sweepSlice {
		if at = t.Next(at); at == 0 {
			break
		}
		t.Load(at, &e.scratch)
		if !q.Match(&e.scratch) {
			continue
		}
		f := e.scratch
		if p := w.at(&f); p != nil && internal {
			p.Internal = &f
		} else if p != nil {
			p.External = &f
		}
	}
	return at, at != 0
}

func (e *Engine) searchKernel(w *found, q *flow.Query, flows []flow.Flow) {
	for i := range flows {
		if !q.Match(&flows[i]) {
			continue
		}
		f := flows[i]
		p := w.at(&f)
		if p == nil {
			return
		}
		p.Kernel = &f
		e.mu.Lock()
		if c := e.filter.class(&f); c != classKeep {
			p.Filtered = c.String()
		}
		e.mu.Unlock()
	}
}

// question is one that was sent and whose answers are awaited.
type question struct {
	id    uint32
	body  wire.Question
	parts map[uint64][][]byte // by life
	wake  chan struct{}
}

// askPeers asks those that are heard, all at once, until all have answered.
func (e *Engine) askPeers(ctx context.Context, q *flow.Query) (asked map[uint64]*stats.Asked, answers map[uint64]*found, err error) {
	asked = e.askable()
	ask := &question{id: e.random(), parts: map[uint64][][]byte{}, wake: make(chan struct{}, 1)}
	ask.body = wire.Question{ID: ask.id, Query: *q}
	defer e.change(func() { delete(e.own.questions, ask.id) })
	e.change(func() { e.own.questions[ask.id] = ask })
	until := time.After(askFor)
	for again := time.NewTicker(askAgain); ; {
		if answers = e.collect(ask, asked); !e.pending(ask, asked) {
			return asked, answers, nil
		}
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-until:
			return asked, answers, nil
		case <-again.C:
			e.change(func() { e.sendQuestion(ask, asked) })
		case <-ask.wake:
		}
	}
}

func (e *Engine) change(fn func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fn()
}

// askable are the peers that can be asked, and those that cannot.
func (e *Engine) askable() map[uint64]*stats.Asked {
	e.mu.Lock()
	defer e.mu.Unlock()
	m, now := map[uint64]*stats.Asked{}, e.now()
	if !e.own.on {
		for _, p := range e.peers(now) {
			m[0] = &stats.Asked{Address: p.Address, Why: "conntrackd's protocol is spoken with it, which has no questions"}
		}
		return m
	}
	for id, l := range e.own.lives {
		a := &stats.Asked{Address: l.addr.String(), Role: roleName(l.role)}
		m[id] = a
		if p := e.own.session.Peer(id); p == nil || !p.Alive(now) {
			a.Why = "it is silent"
		}
	}
	return m
}

// pending sends the question the first time, and reports whether answers are
// missing.
func (e *Engine) pending(ask *question, asked map[uint64]*stats.Asked) bool {
	missing := slices.ContainsFunc(slices.Collect(maps.Values(asked)), func(a *stats.Asked) bool { return !a.Answered && a.Why == "" })
	if missing && ask.body.To == 0 {
		e.change(func() { e.sendQuestion(ask, asked) })
	}
	return missing
}

// sendQuestion asks who has not answered.
func (e *Engine) sendQuestion(ask *question, asked map[uint64]*stats.Asked) {
	now := e.now()
	for id, a := range asked {
		if a.Answered || a.Why != "" {
			continue
		}
		ask.body.To = id
		e.own.buf = wire.AppendQuestion(e.own.buf[:0], &ask.body)
		e.frameSized(now, wire.MsgQuestion, e.own.buf)
	}
	e.closeFrame(now)
	e.sendFrames(now)
}

// collect reads the answers that are whole.
func (e *Engine) collect(ask *question, asked map[uint64]*stats.Asked) map[uint64]*found {
	e.mu.Lock()
	defer e.mu.Unlock()
	answers := map[uint64]*found{}
	for id, parts := range ask.parts {
		a := asked[id]
		if a == nil || slices.ContainsFunc(parts, func(p []byte) bool { return p == nil }) {
			continue
		}
		a.Answered = true
		answers[id] = readEntries(parts)
	}
	return answers
}

func readEntries(parts [][]byte) *found {
	w := &found{places: map[flow.Key]*stats.Places{}}
	for _, b := range parts {
		for len(b) > 0 {
			x, rest, ok := wire.NextEntry(b)
			if !ok {
				break
			}
			b = rest
			if p := w.at(&x.Flow); p != nil {
				place(p, &x)
			}
		}
	}
	return w
}

func place(p *stats.Places, x *wire.Entry) {
	f := x.Flow
	switch x.Place {
	case wire.PlaceKernel:
		p.Kernel = &f
	case wire.PlaceInternal:
		p.Internal = &f
	case wire.PlaceExternal:
		p.External = &f
	case wire.PlaceFiltered:
		p.Kernel, p.Filtered = &f, x.Why
	}
}

// onAnswer takes a part of an answer.
func (e *Engine) onAnswer(from uint64, a *wire.Answer) {
	ask := e.own.questions[a.ID]
	if ask == nil || a.To != e.own.session.ID {
		return
	}
	parts := ask.parts[from]
	if len(parts) != int(a.Of) {
		parts = make([][]byte, a.Of)
		ask.parts[from] = parts
	}
	parts[a.Part] = append([]byte{}, a.Entries...)
	select {
	case ask.wake <- struct{}{}:
	default:
	}
}

// whereabouts joins what was found.
func (e *Engine) whereabouts(q flow.Query, local *found, asked map[uint64]*stats.Asked, answers map[uint64]*found) stats.Where {
	e.mu.Lock()
	defer e.mu.Unlock()
	w := stats.Where{Query: q, Role: e.role, Flows: []stats.Whereabouts{}, Peers: []stats.Asked{}, Truncated: local.more}
	ids := slices.SortedFunc(maps.Keys(asked), func(a, b uint64) int {
		return cmp.Compare(asked[a].Address, asked[b].Address)
	})
	keys := slices.Clone(local.keys)
	for _, id := range ids {
		a := asked[id]
		if !a.Answered && a.Why == "" {
			a.Why = "no answer; it may be of an older release"
		}
		w.Peers = append(w.Peers, *a)
		if r := answers[id]; r != nil {
			w.Truncated = w.Truncated || r.more
			for _, k := range r.keys {
				if !slices.Contains(keys, k) {
					keys = append(keys, k)
				}
			}
		}
	}
	for i := range keys {
		w.Flows = append(w.Flows, e.whereabout(&keys[i], local, ids, asked, answers))
	}
	return w
}

func (e *Engine) whereabout(k *flow.Key, local *found, ids []uint64, asked map[uint64]*stats.Asked, answers map[uint64]*found) (x stats.Whereabouts) {
	x.Peers = []stats.PeerPlace{}
	if p := local.places[*k]; p != nil {
		x.Here = *p
	}
	r := e.internal.Find(k)
	if r != 0 {
		x.Sent = new(!e.own.on || e.internal.Known(r))
	}
	all := []*stats.Places{&x.Here}
	for _, id := range ids {
		y := stats.PeerPlace{Address: asked[id].Address}
		if a := answers[id]; a != nil && a.places[*k] != nil {
			y.Places = *a.places[*k]
			all = append(all, a.places[*k])
		}
		if x.Sent != nil && *x.Sent {
			y.Acknowledged = e.acknowledged(id, k)
		}
		x.Peers = append(x.Peers, y)
	}
	for _, p := range all {
		for _, f := range []*flow.Flow{p.Kernel, p.Internal, p.External} {
			if f != nil {
				x.Flow = *f
				return x
			}
		}
	}
	return x
}

func (e *Engine) acknowledged(id uint64, k *flow.Key) *bool {
	if !e.own.on {
		return new(!e.session.Waits(k))
	}
	if p := e.own.session.Peer(id); p != nil && e.speaks() {
		return new(!e.own.session.Waits(p, k))
	}
	return nil
}
