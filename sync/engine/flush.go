package engine

import (
	"context"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/cache"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/ftfw"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

const (
	// arrivalGrace is how long after a commit a flush of both caches spares
	// what arrived since: the take-over sequence must not lose it.
	arrivalGrace = 5 * time.Second
	// flushGrace is how long after a flush of the internal cache a comparison
	// with the kernel is awaited before the peers are told that all is gone.
	flushGrace = 2 * time.Second
)

// Flush empties caches. Flushing a cache ends no flow, so the peers are not
// told at once: a comparison with the kernel that follows, as in every
// sequence, tells them what is really gone, and if none follows within 2 s they
// are told that everything is. A flush of both caches shortly after a commit
// keeps external entries the commit has not seen.
func (e *Engine) Flush(_ context.Context, t flow.Table) error {
	e.commitMu.Lock()
	defer e.commitMu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.settings == nil {
		return errNotConfigured
	}
	now := e.now()
	if t != flow.External {
		e.purge.armed = false
		e.unflush()
		e.abandonCopy()
		e.flushed = e.internal.Detach()
		e.exp.flushInternal(now)
		e.flushedAt = now
	}
	switch {
	case t == flow.External:
		e.external.Clear()
	case t == flow.Both:
		e.flushExternal(now)
	}
	if t != flow.Internal {
		e.exp.flushExternal(now)
		e.own.legacy = 0
	}
	return nil
}

// unflush undoes a flush that no comparison with the kernel has followed yet: its
// take-over was superseded. Whether these flows live is not known, so nobody is told
// of their ends, and what is heard of them meanwhile must find them here.
func (e *Engine) unflush() {
	old := e.flushed
	if old == nil {
		return
	}
	e.flushed = nil
	var f flow.Flow
	for r := old.First(); r != 0; r = old.Next(r) {
		old.Load(r, &f)
		e.restore(&f, old.Ended(r))
	}
}

// restore returns an entry to the internal cache that was taken out of it, unless it
// has come anew.
func (e *Engine) restore(f *flow.Flow, ended bool) {
	k := f.Key()
	if e.internal.Find(&k) != 0 {
		return
	}
	r, _, err := e.internal.Put(f, f.Since)
	if err != nil {
		e.drops.cacheFull++
		return
	}
	if ended {
		e.internal.End(r)
	}
}

func (e *Engine) flushExternal(now time.Time) {
	if e.external.DirtyCount() == 0 || e.wroteAt.IsZero() || now.Sub(e.wroteAt) > arrivalGrace {
		e.external.Clear()
		return
	}
	for r := e.external.First(); r != 0; r = e.external.Next(r) {
		if !e.external.Dirty(r) {
			e.external.Delete(r)
		}
	}
	e.log.Info("external entries that arrived after the commit are kept", "entries", e.external.Len())
}

// flushedDestroyed tells the peers of the end of a flow that is known only to
// have been flushed.
func (e *Engine) flushedDestroyed(f *flow.Flow) {
	if e.flushed == nil {
		return
	}
	k := f.Key()
	if r := e.flushed.Find(&k); r != 0 {
		e.flushed.Delete(r)
		e.out = append(e.out, ftfw.Out{Type: wire.CTDel, Key: k})
	}
}

// endFlush tells the peers of every flushed flow that did not come back.
func (e *Engine) endFlush() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.endFlushLocked(e.now())
}

func (e *Engine) expireFlush(now time.Time) {
	if e.flushed != nil && !e.fill.running && now.Sub(e.flushedAt) > flushGrace {
		e.endFlushLocked(now)
	}
}

func (e *Engine) endFlushLocked(now time.Time) {
	old := e.flushed
	if old == nil {
		return
	}
	e.flushed = nil
	e.endFlushExpects()
	for r := old.First(); r != 0; r = old.Next(r) {
		k := old.Key(r)
		if e.internal.Find(&k) != 0 {
			continue
		}
		e.out = append(e.out, ftfw.Out{Type: wire.CTDel, Key: k})
		if len(e.out) >= copySlice {
			e.transmit(now)
		}
	}
	e.transmit(now)
}

// Resync compares the internal cache with the kernel and mends it.
func (e *Engine) Resync(ctx context.Context) error {
	if !e.configured() {
		return errNotConfigured
	}
	return e.refill(ctx, true)
}

// Bulk begins to send the whole internal cache.
func (e *Engine) Bulk(context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.settings == nil {
		return errNotConfigured
	}
	e.endOpening()
	e.startCopyOut()
	return nil
}

// RequestResync asks the peer for its table.
func (e *Engine) RequestResync(context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.settings == nil {
		return errNotConfigured
	}
	e.copyIn.tries = 0
	e.askForCopy("requested")
	e.transmit(e.now())
	return nil
}

func (e *Engine) configured() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.settings != nil
}

// flowsSlice is how many entries Flows reads under one hold of the lock.
const flowsSlice = 512

// Flows hands the entries of a cache over in the cache's order.
func (e *Engine) Flows(ctx context.Context, t flow.Table, fn func([]flow.Flow) error) error {
	batch := make([]flow.Flow, 0, flowsSlice)
	for at := cache.Ref(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		batch, at = e.flowsSlice(t, at, batch[:0])
		if len(batch) == 0 {
			return nil
		}
		if err := fn(batch); err != nil {
			return err
		}
		if at == 0 {
			return nil
		}
	}
}

func (e *Engine) flowsSlice(t flow.Table, at cache.Ref, batch []flow.Flow) ([]flow.Flow, cache.Ref) {
	e.mu.Lock()
	defer e.mu.Unlock()
	tab := e.internal
	if t == flow.External {
		if tab = e.external; e.direct() {
			return batch, 0
		}
	}
	for len(batch) < cap(batch) {
		if at = tab.Next(at); at == 0 {
			break
		}
		batch = batch[:len(batch)+1]
		tab.Load(at, &batch[len(batch)-1])
	}
	return batch, at
}
