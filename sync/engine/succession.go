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
	dead   []flow.Flow // to be buried
}

// tellAfter is by how many seconds the kernel's word of what a reign wrote may come
// behind its end; births are known to the second.
const tellAfter = 2

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

// layOut takes what ended during another's reign out of the internal cache as one's
// own begins: nobody is to be told of it, though the kernel has it until the commit.
func (e *Engine) layOut() {
	e.heritage = e.inherit()
	if !e.heritage.due {
		return
	}
	e.transmit(e.now()) // no message waits for an entry then
	var f flow.Flow
	for at := e.internal.First(); at != 0; {
		r := at
		at = e.internal.Next(at)
		if e.dead(r) {
			e.internal.Load(r, &f)
			e.heritage.dead = append(e.heritage.dead, f)
			e.internal.Delete(r)
		}
	}
}

// endSuccession ends one; what was not buried is known as ended once more.
func (e *Engine) endSuccession() {
	dead := e.heritage.dead
	e.heritage = succession{}
	for i := range dead {
		e.restore(&dead[i], true)
	}
}

// bury removes from the kernel what ended during another's reign, once.
func (e *Engine) bury(ctx context.Context) (removed int, err error) {
	for {
		batch, reign := e.laidOut()
		if len(batch) == 0 {
			break
		}
		done, err := e.kernel.Apply(ctx, batch)
		if err != nil {
			return removed, err
		}
		removed += done.Deleted
		e.interred(len(batch), reign)
	}
	if removed > 0 {
		e.log.Info("entries of this node's former reign that ended since were removed from the kernel", "entries", removed)
	}
	return removed, nil
}

func (e *Engine) laidOut() (batch []flow.Change, reign time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, f := range e.heritage.dead[:min(sweepSlice, len(e.heritage.dead))] {
		batch = append(batch, flow.Change{Op: flow.Delete, Flow: f})
	}
	return batch, e.heritage.reign
}

// interred forgets the first n of those that a reign left.
func (e *Engine) interred(n int, reign time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if h := &e.heritage; h.reign.Equal(reign) {
		h.dead = h.dead[min(n, len(h.dead)):]
	}
}

// dead reports whether an entry of the former reign ended since.
func (e *Engine) dead(r cache.Ref) bool {
	b := &e.heritage
	born, ended := e.internal.Since(r), e.internal.Ended(r)
	switch {
	case ended:
		return born <= b.reign.Unix()+tellAfter
	case !b.proven || born > b.reign.Unix():
		return false
	}
	k := e.internal.Key(r)
	return e.external.Find(&k) == 0
}
