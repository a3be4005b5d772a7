package engine

import (
	"context"
	"slices"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// Announce says on the link what became of this node's routes, from now on and
// with every beat. A node that has stopped being MASTER is not settled any more,
// whatever its host said last.
func (e *Engine) Announce(_ context.Context, words []stats.RouteWord) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if slices.Equal(e.own.words, words) {
		return nil
	}
	e.own.words = slices.Clone(words)
	if !e.own.on {
		return nil
	}
	now := e.now()
	e.transmit(now)
	e.frameRoutes(now)
	e.closeFrame(now)
	e.sendFrames(now)
	return nil
}

// unsettle takes back what was said of a reign that is over.
func (e *Engine) unsettle() {
	for i := range e.own.words {
		e.own.words[i].Settled = false
	}
}

func (e *Engine) frameRoutes(now time.Time) {
	o := &e.own
	if len(o.words) == 0 {
		return
	}
	o.buf = o.buf[:0]
	for _, w := range o.words {
		o.buf = wire.AppendRouteWord(o.buf, wire.RouteWord{Group: wire.GroupHash(w.Group), Settled: w.Settled, Raised: w.Raised, Generation: w.Generation})
	}
	e.frameSized(now, wire.MsgRoutes, o.buf)
}

// wordsOf are a peer's words about the groups this node has words about.
func (o *spoken) wordsOf(l *life) (words []stats.RouteWord) {
	for _, w := range l.routes {
		i := slices.IndexFunc(o.words, func(ours stats.RouteWord) bool { return wire.GroupHash(ours.Group) == w.Group })
		if i >= 0 {
			words = append(words, stats.RouteWord{Group: o.words[i].Group, Settled: w.Settled, Raised: w.Raised, Generation: w.Generation})
		}
	}
	return words
}
