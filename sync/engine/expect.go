package engine

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/sync/cache"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/ftfw"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// expects is what the engine keeps of expectations.
type expects struct {
	internal, external *cache.Expects
	flushed            []flow.Key // left the internal cache by a flush
	filling            bool
	buried             map[flow.Key]bool // ended while the kernel's table is being read
	ignored            uint64            // the peer's, of helpers nobody asked for
	orphans            uint64            // ours, of masters that are not replicated
}

//lint:ignore ST1005 the text is VyOS's, which operators and scripts know
var errNoExpectSync = errors.New("expect-sync is not configured!")

// burial is how long the content of an ended expectation is kept: as long as
// a peer may ask for the message about its end.
const burial = time.Minute

func newExpects() expects {
	return expects{internal: cache.NewExpects(), external: cache.NewExpects()}
}

// syncsExpects reports whether expectations are replicated at all.
func (s *settings) syncsExpects() bool { return len(s.ExpectSync) > 0 }

// wants reports whether the helper of an expectation is one the operator named.
// The kernel may add a port to a helper's name ("sip-5060").
func (s *settings) wants(x *flow.Expect) bool {
	if s.ExpectAll() {
		return true
	}
	name := x.Helper.String()
	for _, word := range s.ExpectSync {
		for _, h := range conf.HelperNames(word) {
			if len(name) >= len(h) && strings.EqualFold(name[:len(h)], h) {
				return true
			}
		}
	}
	return false
}

// captureExpect takes a kernel event about an expectation.
func (e *Engine) captureExpect(now time.Time, ev *flow.Event) {
	x, k := ev.Expect, ev.Expect.Key()
	if ev.Type == flow.EventDestroy {
		e.endExpect(now, k)
		return
	}
	master := flow.Key{Tuple: x.Master, Zone: x.Zone}
	ours := e.internal.Find(&master) != 0
	if ours {
		e.askFor(now, master)
	}
	if !e.settings.wants(x) {
		return
	}
	if !ours {
		e.exp.orphans++
		return
	}
	e.exp.internal.Put(x, now.Unix())
	if !ev.Own {
		e.queueExpect(wire.ExpNew, k)
	}
}

// endExpect removes an expectation of ours and sees to it that the peers are
// told.
func (e *Engine) endExpect(now time.Time, k flow.Key) {
	if e.exp.filling {
		e.exp.buried[k] = true
	}
	if e.exp.internal.Bury(k, now.Unix()) {
		e.queueExpect(wire.ExpDel, k)
	}
}

func (e *Engine) queueExpect(t wire.Type, k flow.Key) {
	e.out = append(e.out, ftfw.Out{Type: t, Key: k})
}

// sendable reports whether a queued message about an expectation still has a
// content.
func (e *Engine) sendable(m *ftfw.Out) bool {
	x, live := e.exp.internal.Find(m.Key)
	return x != nil && (live || m.Type == wire.ExpDel)
}

// resendExpect queues what became of an expectation whose message was lost.
func (e *Engine) resendExpect(k flow.Key) {
	if _, live := e.exp.internal.Find(k); live {
		e.queueExpect(wire.ExpNew, k)
		return
	}
	e.queueExpect(wire.ExpDel, k)
}

// deliverExpect applies the peer's message about an expectation.
func (e *Engine) deliverExpect(now time.Time, m *wire.Message) {
	var x flow.Expect
	if err := wire.ParseExpect(m.Body, &x); err != nil {
		e.drops.payload++
		return
	}
	switch {
	case m.Type == wire.ExpDel:
		e.exp.external.Bury(x.Key(), now.Unix())
	case !e.settings.wants(&x):
		e.exp.ignored++
		return
	default:
		e.exp.external.Put(&x, now.Unix())
	}
	e.injectExpect(m.Type, &x)
}

// fillExpects compares the expectations with the kernel's, as refill does with
// the flows.
func (e *Engine) fillExpects(ctx context.Context, tell bool) error {
	if !e.beginFillExpects() {
		return nil
	}
	var found []flow.Expect
	err := e.kernel.DumpExpects(ctx, func(b []flow.Expect) error {
		found = append(found, b...)
		return nil
	})
	e.mu.Lock()
	defer e.mu.Unlock()
	e.exp.filling = false
	if err != nil {
		return err
	}
	now := e.now()
	for i := range found {
		x := &found[i]
		k, master := x.Key(), flow.Key{Tuple: x.Master, Zone: x.Zone}
		if e.exp.buried[k] || !e.settings.wants(x) || e.internal.Find(&master) == 0 {
			continue
		}
		if e.exp.internal.Put(x, now.Unix()) && tell {
			e.queueExpect(wire.ExpNew, k)
		}
	}
	for _, k := range e.exp.internal.Old() {
		e.exp.internal.Bury(k, now.Unix())
		if tell {
			e.queueExpect(wire.ExpDel, k)
		}
	}
	e.transmit(now)
	return nil
}

func (e *Engine) beginFillExpects() (wanted bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.settings.syncsExpects() {
		return false
	}
	e.exp.internal.NewGeneration()
	e.exp.filling, e.exp.buried = true, map[flow.Key]bool{}
	return true
}

// flushInternal empties the internal cache of expectations; endFlush tells the
// peers of those that did not come back.
func (x *expects) flushInternal(now time.Time) {
	for _, one := range x.internal.All() {
		k := one.Key()
		x.flushed = append(x.flushed, k)
		x.internal.Bury(k, now.Unix())
	}
}

func (x *expects) flushExternal(now time.Time) {
	for _, one := range x.external.All() {
		x.external.Bury(one.Key(), now.Unix())
	}
}

func (e *Engine) endFlushExpects() {
	for _, k := range e.exp.flushed {
		if _, live := e.exp.internal.Find(k); !live {
			e.queueExpect(wire.ExpDel, k)
		}
	}
	e.exp.flushed = nil
}

// copyExpects queues all expectations, the end of a full copy.
func (e *Engine) copyExpects() (n int) {
	for _, x := range e.exp.internal.All() {
		e.queueExpect(wire.ExpNew, x.Key())
		n++
	}
	return n
}

func (e *Engine) sweepExpects(now time.Time) (n int) {
	for _, k := range e.exp.external.Old() {
		e.exp.external.Bury(k, now.Unix())
		e.injectExpect(wire.ExpDel, &flow.Expect{Tuple: k.Tuple, Zone: k.Zone})
		n++
	}
	return n
}

// commitExpects writes the peer's expectations, after the flows they belong to.
func (c *commit) commitExpects(ctx context.Context) error {
	e := c.engine
	var batch []flow.ExpectChange
	e.mu.Lock()
	for _, x := range e.exp.external.All() {
		batch = append(batch, flow.ExpectChange{Expect: installable(x)})
	}
	e.mu.Unlock()
	if len(batch) == 0 {
		return nil
	}
	done, err := e.kernel.ApplyExpects(ctx, batch)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c.doc.Expects = len(batch)
	c.doc.ExpectsWritten = done.Created + done.Updated + done.Recreated
	for _, f := range done.Failed {
		c.refuseExpect(f, &batch[f.Index].Expect)
	}
	return nil
}

// installable gives an expectation the least time a committed entry gets.
func installable(x flow.Expect) flow.Expect {
	x.Timeout = max(x.Timeout, minTimeout)
	x.Has |= flow.ExpectHasTimeout
	return x
}

// Expects returns the expectations of one cache.
func (e *Engine) Expects(_ context.Context, t flow.Table) ([]flow.Expect, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.settings == nil:
		return nil, errNotConfigured
	case !e.settings.syncsExpects():
		return nil, errNoExpectSync
	case t == flow.External && e.settings.DisableExternalCache:
		return nil, nil
	case t == flow.External:
		return e.exp.external.All(), nil
	}
	return e.exp.internal.All(), nil
}

// dropUnwanted removes expectations that expect-sync does not name any more;
// the comparison that follows brings what it names now.
func (e *Engine) dropUnwanted() {
	now := e.now()
	for _, x := range e.exp.internal.All() {
		if !e.settings.wants(&x) {
			e.endExpect(now, x.Key())
		}
	}
	for _, x := range e.exp.external.All() {
		if !e.settings.wants(&x) {
			e.exp.external.Bury(x.Key(), now.Unix())
		}
	}
	e.transmit(now)
}
