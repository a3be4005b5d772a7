package engine

import (
	"context"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/cache"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

// purge is the timed removal of what this node's last reign left in its kernel.
type purge struct {
	armed bool
	due   time.Time
}

// ShortenTimers arms the purge. It removes kernel entries that are left from
// this node's last reign as MASTER and that the peer no longer holds, and
// nothing else; a node that never was MASTER has nothing to purge.
func (e *Engine) ShortenTimers(context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.settings == nil {
		return errNotConfigured
	}
	if e.purge.armed {
		return nil
	}
	e.purge = purge{armed: true, due: e.now().Add(e.settings.PurgeTimeout)}
	return nil
}

// watchPurge runs a purge that is due. It waits for a full copy on its way, or for
// proof, since that says what the peer holds.
func (e *Engine) watchPurge(now time.Time) {
	if !e.purge.armed || now.Before(e.purge.due) {
		return
	}
	if e.alive(now) && (e.copyIn.asked || e.own.on && !e.own.proof.fresh(now)) {
		return
	}
	e.purge.armed = false
	switch {
	case e.reign.IsZero() || e.role == master || e.role == "":
		return
	case !e.alive(now):
		e.log.Info("purge skipped: no peer says which flows are gone", "entries", e.internal.Len())
		return
	}
	e.spawn(e.life, "purge", e.runPurge)
}

func (e *Engine) runPurge(ctx context.Context) error {
	removed, refused := 0, 0
	var batch []flow.Change
	for at, more := cache.Ref(0), true; more; {
		batch, at = e.purgeSlice(at, batch[:0])
		more = at != 0
		if len(batch) == 0 {
			continue
		}
		done, err := e.kernel.Apply(ctx, batch)
		if err != nil {
			return err
		}
		removed += done.Deleted
		refused += len(done.Failed)
	}
	e.log.Info("purged what the last reign left", "entries", removed, "refused", refused)
	return nil
}

// purgeSlice collects entries of the last reign that the peer does not hold.
func (e *Engine) purgeSlice(at cache.Ref, batch []flow.Change) ([]flow.Change, cache.Ref) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.role == master {
		return batch, 0
	}
	for range sweepSlice {
		if at = e.internal.Next(at); at == 0 {
			break
		}
		k := e.internal.Key(at)
		if e.internal.Since(at) > e.reign.Unix() || e.external.Find(&k) != 0 {
			continue
		}
		c := flow.Change{Op: flow.Delete}
		e.internal.Load(at, &c.Flow)
		batch = append(batch, c)
	}
	return batch, at
}
