package engine

import (
	"context"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/cache"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// fill is the comparison of the internal cache with the kernel's table.
type fill struct {
	done    bool   // the first one has ended
	wanted  string // why another one is due
	running bool
	// buried are flows that ended while the table is being read: the dump may
	// still bring them.
	buried                   map[flow.Key]uint32
	missing, differing, gone int
	began, ended             time.Time
	audit                    audit
}

// bury remembers a destroyed flow while a dump is on its way.
func (f *fill) bury(fl *flow.Flow) {
	if f.running {
		f.buried[fl.Key()] = fl.ID
	}
}

// refill reads the kernel's table and mends the internal cache: what is
// missing comes in, what differs is updated, what is gone leaves. With tell
// the peers are sent exactly these differences. Live events go on meanwhile.
func (e *Engine) refill(ctx context.Context, tell bool) error {
	e.cancelAudit()
	e.refillMu.Lock()
	defer e.refillMu.Unlock()
	e.beginFill(audit{})
	e.hearBirths()
	err := e.kernel.Dump(ctx, func(flows []flow.Flow) error {
		e.fillSlice(flows, tell)
		return nil
	})
	if err == nil {
		err = e.fillExpects(ctx, tell)
	}
	if err == nil {
		e.sweepInternal(tell)
	}
	e.endFill(err == nil)
	return err
}

// hearBirths notes that a comparison begins, which finds what was born unheard.
func (e *Engine) hearBirths() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.births.deaf {
		e.births.unheard, e.births.absent = false, nil
	}
}

func (e *Engine) beginFill(a audit) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.internal.NewGeneration()
	e.fills++
	e.fill = fill{done: e.fill.done, running: true, began: e.now(), buried: map[flow.Key]uint32{}, audit: a}
}

func (e *Engine) fillSlice(flows []flow.Flow, tell bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	for i := range flows {
		e.fillFlow(now, &flows[i], tell)
	}
	e.transmit(now)
}

func (e *Engine) fillFlow(now time.Time, f *flow.Flow, tell bool) {
	if c := e.filter.class(f); c != classKeep {
		if !e.fill.done { // of what was there before us no event told
			e.filter.excluded[c]++
		}
		return
	}
	k := f.Key()
	if id, dead := e.fill.buried[k]; dead && id == f.ID {
		return
	}
	e.keepAsking(k, f)
	r := e.internal.Find(&k)
	kind := wire.CTUpd
	switch {
	case r == 0 && e.injected(&k):
		return
	case r != 0 && !e.internal.Old(r):
		// An event came since the reading began: what it said is as new as this.
		f.Has &^= e.internal.Has(r)
		e.internal.Merge(r, f)
		return
	case r == 0 && e.committed(&k):
		e.set(e.fill.began, 0, &k, f)
		return
	case r == 0:
		e.fill.missing++
		kind = wire.CTNew
		r = e.set(e.fill.began, 0, &k, f) // in whatever role the dump ends: it is as old as that
	case e.anotherLife(r, f):
		e.fill.differing++
		e.replace(now, r, f)
	case e.mergeDumped(r, f):
		e.fill.differing++
	default:
		return
	}
	if tell && r != 0 {
		e.queueFlow(kind, r)
	}
}

// committed reports whether a commit wrote the flow here for the peer, to whom it
// is no news.
func (e *Engine) committed(k *flow.Key) bool {
	r := e.external.Find(k)
	return r != 0 && !e.external.Dirty(r)
}

// mergeDumped merges an entry of a dump. Its timeout is what is left of the
// one the flow's last event brought, which is the one worth keeping while the
// state is the same. Labels that were all cleared are left out by the kernel, in
// events as in dumps; here that says something.
func (e *Engine) mergeDumped(r cache.Ref, f *flow.Flow) bool {
	if f.Has&flow.HasLabels == 0 && e.internal.Labelled(r) {
		f.Has |= flow.HasLabels
	}
	if f.Timeout < e.internal.Timeout(r) && f.TCP.State == e.internal.TCPState(r) {
		f.Has &^= flow.HasTimeout
	}
	return e.internal.Merge(r, f)
}

// sweepSlice is how many entries are looked at under one hold of the lock.
const sweepSlice = 4096

// sweepInternal removes what the dump did not bring.
func (e *Engine) sweepInternal(tell bool) {
	for r, more := cache.Ref(0), true; more; {
		r, more = e.sweepSlice(r, tell)
	}
	e.endFlush()
}

func (e *Engine) sweepSlice(r cache.Ref, tell bool) (at cache.Ref, more bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for range sweepSlice {
		if r = e.internal.Next(r); r == 0 {
			break
		}
		if !e.internal.Old(r) || e.moved.kept[e.internal.Key(r)] {
			continue
		}
		e.fill.gone++
		if tell {
			e.queueDelete(r)
		} else {
			e.internal.Delete(r)
		}
	}
	e.transmit(e.now())
	return r, r != 0
}

func (e *Engine) endFill(whole bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := &e.fill
	if whole && !f.began.Before(e.own.opened) {
		e.endOpening()
	}
	if f.done && f.missing+f.differing+f.gone > 0 {
		e.log.Info("internal cache compared with the kernel and mended",
			"missing", f.missing, "differing", f.differing, "gone", f.gone)
	}
	f.running, f.buried, f.ended = false, nil, e.now()
}

// watchFill starts a comparison that is due.
func (e *Engine) watchFill(now time.Time) {
	f := &e.fill
	switch {
	case e.committing(): // the kernel writes for one and reads for one at a time
	case !f.done || f.running && f.audit.cancel == nil:
	case f.wanted != "" && f.running:
		f.audit.cancel()
	case f.wanted != "":
		e.log.Info("comparing the internal cache with the kernel", "why", f.wanted)
		f.wanted = ""
		e.spawn(e.life, "comparison with the kernel", func(ctx context.Context) error {
			return e.refill(ctx, true)
		})
	case !f.running && e.flushed == nil && (e.role == master || e.role == "") && e.auditDue(now):
		f.ended = now
		e.spawn(e.life, "audit of the internal cache", e.runAudit)
	}
	e.expireFlush(now)
}

// overrun answers the loss of kernel events: more room, and a comparison that
// finds exactly what was missed.
func (e *Engine) overrun(err error) {
	e.drops.overruns++
	b := &e.buffer
	if size := min(2*b.size, b.limit); size > b.size {
		b.size = size
		e.setBuffer(size)
	}
	if e.fill.wanted == "" {
		e.log.Warn("kernel events were lost", "err", err, "buffer", b.size)
	}
	e.fill.wanted = "kernel events were lost"
}
