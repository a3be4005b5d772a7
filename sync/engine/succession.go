package engine

import (
	"context"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/cache"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

// succession is what a node that becomes MASTER once more does about its kernel's
// entries of its former reign: those that ended while another was MASTER must
// not come back to life with it.
type succession struct {
	due   bool
	reign time.Time // end of the former reign
	// proven: the view was equal to the last MASTER's table once, so that what is
	// not in it was not there.
	proven bool
}

// inherit says what there is to bury for a reign that begins.
func (e *Engine) inherit() succession {
	return succession{due: !e.reign.IsZero(), reign: e.reign, proven: e.own.on && e.own.proof.epoch > e.own.epoch}
}

// endedElsewhere remembers of an entry of the former reign whether the present
// MASTER says that it ended.
func (e *Engine) endedElsewhere(k *flow.Key, ended bool) {
	if e.role == master || e.reign.IsZero() {
		return
	}
	r := e.internal.Find(k)
	switch {
	case r == 0:
	case ended:
		e.internal.End(r)
	default:
		e.internal.Revive(r)
	}
}

// bury removes from the kernel what ended during another's reign, once.
func (e *Engine) bury(ctx context.Context) (removed int, err error) {
	var batch []flow.Change
	for at, more := cache.Ref(0), true; more; {
		batch, at = e.burySlice(at, batch[:0])
		more = at != 0
		if len(batch) == 0 {
			continue
		}
		done, err := e.kernel.Apply(ctx, batch)
		if err != nil {
			return removed, err
		}
		removed += done.Deleted
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.heritage = succession{}
	if removed > 0 {
		e.log.Info("entries of this node's former reign that ended since were removed from the kernel", "entries", removed)
	}
	return removed, nil
}

func (e *Engine) burySlice(at cache.Ref, batch []flow.Change) ([]flow.Change, cache.Ref) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if b := &e.heritage; !b.due || e.role != master {
		return batch, 0
	}
	for range sweepSlice {
		if at = e.internal.Next(at); at == 0 {
			break
		}
		if e.dead(at) {
			c := flow.Change{Op: flow.Delete}
			e.internal.Load(at, &c.Flow)
			batch = append(batch, c)
		}
	}
	return batch, at
}

// dead reports whether an entry of the former reign ended since.
func (e *Engine) dead(r cache.Ref) bool {
	b := &e.heritage
	if e.internal.Since(r) > b.reign.Unix() {
		return false
	}
	if e.internal.Ended(r) || !b.proven {
		return e.internal.Ended(r)
	}
	k := e.internal.Key(r)
	return e.external.Find(&k) == 0
}
