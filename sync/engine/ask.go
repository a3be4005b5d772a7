package engine

import (
	"context"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/cache"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// ask is what the kernel is asked about single flows. A helper that changes the
// length of a segment changes the flow's sequence adjustment without an event;
// without it the connection stalls after a take-over. What helpers do shows in
// the expectations they make, and in a bit of the status with the next event.
type ask struct {
	due      map[flow.Key]time.Time // flows to ask about, and from when on
	adjusted map[flow.Key]bool      // those with an adjustment: asked again and again
	again    time.Time              // when
	running  bool
}

const (
	// askDelay lets the helper finish: it makes the expectation before it
	// changes the packet.
	askDelay = 50 * time.Millisecond
	askEvery = 5 * time.Second
	askSlice = 256
)

// askFor sees to it that the kernel is asked about a flow of ours.
func (e *Engine) askFor(now time.Time, k flow.Key) {
	if e.ask.due == nil {
		e.ask.due = map[flow.Key]time.Time{}
	}
	if _, ok := e.ask.due[k]; !ok {
		e.ask.due[k] = now.Add(askDelay)
	}
}

// watchAsks asks about what is due.
func (e *Engine) watchAsks(now time.Time) {
	a := &e.ask
	if len(a.adjusted) > 0 && now.Sub(a.again) >= askEvery {
		a.again = now
		for k := range a.adjusted {
			e.askFor(now, k)
		}
	}
	if len(a.due) == 0 || a.running {
		return
	}
	var keys []flow.Key
	for k, from := range a.due {
		if now.Before(from) {
			continue
		}
		delete(a.due, k)
		if keys = append(keys, k); len(keys) == askSlice {
			break
		}
	}
	if len(keys) == 0 {
		return
	}
	a.running = true
	e.spawn(e.life, "asking the kernel about flows", func(ctx context.Context) error {
		flows, err := e.kernel.Get(ctx, keys)
		e.answered(keys, flows, err)
		return err
	})
}

// answered takes what the kernel says of flows that were asked about. Where it said
// not all, it is asked again.
func (e *Engine) answered(keys []flow.Key, flows []flow.Flow, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	e.ask.running = false
	for _, k := range keys {
		delete(e.ask.adjusted, k)
		if err != nil {
			e.ask.due[k] = now.Add(askEvery)
		}
	}
	for i := range flows {
		f, k := &flows[i], flows[i].Key()
		r := e.internal.Find(&k)
		if r == 0 || !e.sameLife(r, f) {
			continue
		}
		e.keepAsking(k, f)
		if e.mergeDumped(r, f) {
			e.queueFlow(wire.CTUpd, r)
		}
	}
	e.transmit(now)
}

// keepAsking remembers a flow whose adjustment may change again.
func (e *Engine) keepAsking(k flow.Key, f *flow.Flow) {
	if f.Has&flow.HasSeqAdj == 0 || f.SeqAdjOrig == (flow.SeqAdj{}) && f.SeqAdjReply == (flow.SeqAdj{}) {
		return
	}
	if e.ask.adjusted == nil {
		e.ask.adjusted = map[flow.Key]bool{}
	}
	e.ask.adjusted[k] = true
}

// tellsLess reports whether an event leaves out an adjustment that its status
// speaks of and the entry has not got.
func (e *Engine) tellsLess(r cache.Ref, f *flow.Flow) bool {
	return r != 0 && f.Status&flow.StatusSeqAdjust != 0 && f.Has&flow.HasSeqAdj == 0 && !e.internal.Adjusted(r)
}
