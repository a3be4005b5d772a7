package engine

import (
	"context"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/cache"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// inject is direct injection, disable-external-cache: the peer's flows go
// straight into the kernel. The external table then is the book of what was
// injected: it says what a full copy did not renew, and when an entry must be
// armed again. A flow is alive until its DESTROY arrives, but the standby's
// kernel sees none of its packets and would let it run out.
//
// A MASTER is never injected into: its own table is the truth. What arrives
// meanwhile waits in the book until it is MASTER no more.
type inject struct {
	queue   []flow.Key // to be brought into line with the book
	again   []flow.Key // to be armed again
	expects []flow.ExpectChange
	wake    chan struct{}
	cursor  cache.Ref // of the walk that looks for what runs out
	logged  time.Time

	flows, expectations stats.Cache
	rearmed, recreated  uint64
	refused             map[flow.Reason]uint64 // by why, expectations among them
}

const (
	injectSlice = 1024
	// armedWalk is the least number of entries one tick looks at for being near
	// their end; a whole walk takes 5 s at most.
	armedWalk  = 64
	armedTicks = 50
	// injectRetry is how long to wait after the kernel could not be written to.
	injectRetry = time.Second
)

// direct reports whether the external cache is disabled.
func (e *Engine) direct() bool { return e.settings != nil && e.settings.DisableExternalCache }

// injecting reports whether the peer's flows go into the kernel now.
func (e *Engine) injecting() bool { return e.direct() && e.role != master }

// injectFlow sees to it that the kernel follows what the book says of a flow.
func (e *Engine) injectFlow(k flow.Key) {
	if !e.injecting() {
		return
	}
	e.inject.queue = append(e.inject.queue, k)
	e.wakeInjector()
}

func (e *Engine) injectExpect(t wire.Type, x *flow.Expect) {
	if !e.injecting() {
		return
	}
	c := flow.ExpectChange{Op: flow.Upsert, Expect: installable(*x)}
	if t == wire.ExpDel {
		c.Op = flow.Delete
	}
	e.inject.expects = append(e.inject.expects, c)
	e.wakeInjector()
}

func (e *Engine) wakeInjector() {
	select {
	case e.inject.wake <- struct{}{}:
	default:
	}
}

// injectAll queues every entry of the book that the kernel has not got yet.
func (e *Engine) injectAll() {
	if !e.injecting() {
		return
	}
	for r := e.external.First(); r != 0; r = e.external.Next(r) {
		if e.external.Dirty(r) {
			e.inject.queue = append(e.inject.queue, e.external.Key(r))
		}
	}
	e.wakeInjector()
}

// disown takes a flow the peer speaks for out of the internal cache without a
// word to anybody: this node is a BACKUP and holds it from an earlier life.
func (e *Engine) disown(k *flow.Key) {
	if !e.injecting() || e.role == "" {
		return
	}
	r := e.internal.Find(k)
	if r == 0 {
		return
	}
	if n := e.internal.Note(r); n != 0 {
		e.out[n-1].Ref = 0
	}
	e.internal.Delete(r)
}

// injected reports whether a flow of the kernel's is one we put there for the
// peer; it is not this node's own.
func (e *Engine) injected(k *flow.Key) bool { return e.injecting() && e.external.Find(k) != 0 }

func (e *Engine) injectLoop(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-e.inject.wake:
		}
		if err := e.drainInjections(ctx); err != nil && ctx.Err() == nil {
			e.log.Error("the kernel cannot be written to, tried again", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(injectRetry):
				e.wakeInjector()
			}
		}
	}
}

// drainInjections writes what is queued until nothing is left.
func (e *Engine) drainInjections(ctx context.Context) error {
	e.injectMu.Lock()
	defer e.injectMu.Unlock()
	for {
		batch, rearmed, more := e.takeInjections()
		if !more {
			return e.drainExpects(ctx)
		}
		if len(batch) == 0 {
			continue
		}
		done, err := e.kernel.Apply(ctx, batch)
		if err != nil {
			e.putBack(batch)
			return err
		}
		e.accountInjected(batch, &done, rearmed)
	}
}

// takeInjections takes a slice of what is to be injected, and when that is
// empty of what is to be armed again.
func (e *Engine) takeInjections() (batch []flow.Change, rearmed, more bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	q := &e.inject
	if !e.direct() {
		q.queue, q.again = nil, nil
	}
	now := uint32(e.now().Unix())
	if n := min(len(q.queue), injectSlice); n > 0 {
		for _, k := range q.queue[:n] {
			batch = e.injection(batch, k, now)
		}
		q.queue = rest(q.queue, n)
		return batch, false, true
	}
	n := min(len(q.again), injectSlice)
	for _, k := range q.again[:n] {
		if r := e.external.Find(&k); r != 0 {
			batch = e.upsertion(batch, r, now)
		}
	}
	q.again = rest(q.again, n)
	return batch, true, n > 0
}

// rest keeps the room of a queue that was emptied.
func rest(q []flow.Key, n int) []flow.Key {
	if n == len(q) {
		return q[:0]
	}
	return q[n:]
}

// injection adds what brings the kernel into line with the book. A flow that is
// not in it has ended; one that is clean was written by an earlier place in the
// queue.
func (e *Engine) injection(batch []flow.Change, k flow.Key, now uint32) []flow.Change {
	r := e.external.Find(&k)
	switch {
	case r == 0:
		c := flow.Change{Op: flow.Delete, Flow: flow.Flow{Orig: k.Tuple, Zone: k.Zone}}
		if k.Zone != 0 {
			c.Flow.Has = flow.HasZone
		}
		return append(batch, c)
	case e.external.Dirty(r):
		return e.upsertion(batch, r, now)
	}
	return batch
}

func (e *Engine) upsertion(batch []flow.Change, r cache.Ref, now uint32) []flow.Change {
	batch = append(batch, flow.Change{Op: flow.Upsert})
	e.loadCommittable(r, &batch[len(batch)-1].Flow)
	e.external.Clean(r)
	e.external.SetNote(r, now)
	return batch
}

// putBack queues again what the kernel has not got.
func (e *Engine) putBack(batch []flow.Change) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range batch {
		k := batch[i].Flow.Key()
		if r := e.external.Find(&k); r != 0 {
			e.external.Soil(r)
		}
		e.inject.queue = append(e.inject.queue, k)
	}
}

func (e *Engine) accountInjected(batch []flow.Change, done *flow.Applied, rearmed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := &e.inject.flows
	e.inject.recreated += uint64(done.Recreated)
	if rearmed {
		e.inject.rearmed += uint64(len(batch) - len(done.Failed))
	} else {
		c.Created += uint64(done.Created)
		c.Updated += uint64(done.Updated + done.Recreated)
		c.Destroyed += uint64(done.Deleted)
	}
	for _, f := range done.Failed {
		e.refusedInjection(c, batch[f.Index].Op, f, batch[f.Index].Flow.Orig)
	}
}

// refusedInjection counts a refusal and says so once a minute. An entry refused
// is tried again when it would have to be armed again.
func (e *Engine) refusedInjection(c *stats.Cache, op flow.Op, f flow.Failure, t flow.Tuple) {
	if op == flow.Delete {
		c.DestroyedFailed++
	} else {
		c.CreatedFailed++
	}
	if e.inject.refused == nil {
		e.inject.refused = map[flow.Reason]uint64{}
	}
	e.inject.refused[f.Reason]++
	if now := e.now(); now.Sub(e.inject.logged) >= time.Minute {
		e.inject.logged = now
		e.log.Warn("the kernel refuses an entry of the peer", "reason", f.Reason, "entry", t, "err", f.Err)
	}
}

func (e *Engine) drainExpects(ctx context.Context) error {
	e.mu.Lock()
	batch := e.inject.expects
	e.inject.expects = nil
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
	c := &e.inject.expectations
	c.Created += uint64(done.Created)
	c.Updated += uint64(done.Updated + done.Recreated)
	c.Destroyed += uint64(done.Deleted)
	for _, f := range done.Failed {
		e.refusedInjection(c, batch[f.Index].Op, f, batch[f.Index].Expect.Tuple)
	}
	return nil
}

// watchArmed queues injected entries whose timeout is half over. One that this
// node's own traffic keeps up is left alone.
func (e *Engine) watchArmed(now time.Time) {
	if !e.injecting() || e.external.Len() == 0 {
		return
	}
	for range max(armedWalk, e.external.Len()/armedTicks) {
		r := e.external.Next(e.inject.cursor)
		e.inject.cursor = r
		if r == 0 {
			break
		}
		timeout := max(e.external.Timeout(r), minTimeout)
		armed := e.external.Note(r)
		if armed == 0 || uint32(now.Unix())-armed < timeout/2 || e.external.Dirty(r) {
			continue
		}
		k := e.external.Key(r)
		if e.internal.Find(&k) != 0 {
			continue
		}
		e.external.SetNote(r, uint32(now.Unix()))
		e.inject.again = append(e.inject.again, k)
		e.wakeInjector()
	}
}

// changeMode follows a change of disable-external-cache or of the role: what the
// book holds goes into the kernel now, or not any more.
func (e *Engine) changeMode(was bool) {
	if !e.injecting() || was {
		return
	}
	for r := e.external.First(); r != 0; r = e.external.Next(r) {
		e.external.Soil(r)
	}
	e.injectAll()
}
