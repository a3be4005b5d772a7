package engine

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/cache"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

// takeover is what is known of a take-over. Its earliest sign is a virtual address
// that arrives here, some 20 ms before keepalived says MASTER: what the external
// cache holds is written at once, and again when more has come. The role's own
// commit then writes only what changed since. Where the role does not come, another
// one does or the address leaves again, what was written is removed.
type takeover struct {
	local  map[netip.Addr]bool // this host's addresses, nil before the first look
	here   bool                // a virtual one is among them
	stale  bool                // filter and guard were made of others
	window bool                // a virtual address is here, and not all is written
	opened time.Time           // the window
	// pending says that this node has become MASTER and has not committed yet.
	pending bool
	since   time.Time
	early   bool       // an address has come, the role has not
	whole   bool       // all entries were written once for it
	wrote   []flow.Key // of them those that were not in the kernel before
	gone    []flow.Key // ended since they were written
	undo    []flow.Key // written for a take-over that did not come about
	entries earlyCount
	cancel  context.CancelFunc // of the early commit that runs
	again   bool               // another address has come meanwhile
}

// earlyCount is what was written before the role.
type earlyCount struct {
	began                                time.Time
	entries, created, updated, recreated int
}

// takeoverPatience is how long the window stays open, and the guard up in a MASTER,
// when nothing that runs explains it.
const takeoverPatience = 5 * time.Second

// onAddrs takes this host's addresses, at first and whenever they changed.
func (e *Engine) onAddrs(local map[netip.Addr]bool) {
	e.mu.Lock()
	e.lookAtMoved()
	t := &e.takeover
	first := t.local == nil
	came := netip.Addr{}
	for _, a := range e.settings.Moves() {
		if local[a] && !t.local[a] {
			came = a
		}
	}
	t.stale = true
	t.local = maps.Clone(local)
	t.look(e.settings.Moves())
	switch {
	case first:
	case came.IsValid() && e.role != master:
		e.openWindow(came)
	case !t.here && t.early && e.role != master:
		e.log.Warn("the virtual addresses have left again without a take-over")
		e.abandon()
	}
	e.mu.Unlock()
	e.applyGuard()
}

// openWindow answers the arrival of a virtual address.
func (e *Engine) openWindow(came netip.Addr) {
	t := &e.takeover
	now := e.now()
	t.window, t.opened = true, now
	if t.cancel != nil {
		t.again = true
		return
	}
	e.log.Info("a virtual address has arrived, what the peer's flows are is written at once", "address", came, "entries", e.external.Len())
	if !t.early {
		t.early, t.entries = true, earlyCount{began: now}
	}
	ctx, cancel := context.WithCancel(e.life)
	t.cancel = cancel
	e.spawn(ctx, "early commit", func(ctx context.Context) error {
		defer cancel()
		return e.commitEarly(ctx)
	})
}

// look finds out whether one of the virtual addresses is here.
func (t *takeover) look(virtual []netip.Addr) {
	t.here = slices.ContainsFunc(virtual, func(a netip.Addr) bool { return t.local[a] })
}

// away says that no virtual address is here, as far as is known.
func (t *takeover) away() bool { return t.local != nil && !t.here }

// commitEarly writes until nothing is left to be written. Its context ends, under
// the engine's lock, when its take-over is abandoned: nothing of it counts then, and
// another one may have begun.
func (e *Engine) commitEarly(ctx context.Context) error {
	for {
		_, err := e.runCommit(ctx, earlySign)
		e.mu.Lock()
		t := &e.takeover
		if ctx.Err() != nil {
			e.mu.Unlock()
			return ctx.Err()
		}
		if errors.Is(err, errNoTakeover) {
			err = nil // the role's own commit was faster
		}
		again := t.again && err == nil
		t.again = false
		if !again {
			t.cancel, t.window = nil, false
		}
		e.mu.Unlock()
		e.applyGuard()
		if !again {
			return err
		}
	}
}

// turn is called before the role changes.
func (e *Engine) turn(role string) {
	t := &e.takeover
	now := e.now()
	switch {
	case role == master && e.role == master:
	case role == master:
		guarded := e.role != "" || t.window
		t.pending, t.since = guarded, now
		if guarded && !t.early {
			t.window, t.opened = true, now
		}
	default:
		t.pending, t.window = false, false
		if t.early {
			e.abandon()
		}
	}
}

// abandon ends a take-over that did not come about.
func (e *Engine) abandon() {
	t := &e.takeover
	if t.cancel != nil {
		t.cancel()
		t.cancel, t.again = nil, false
	}
	if len(t.wrote) > 0 && e.role != master {
		t.undo = append(t.undo, t.wrote...)
		e.spawn(e.life, "undoing an early commit", e.undo)
	}
	t.window = false
	t.forget()
}

// taken says that all is written in the role of a MASTER.
func (e *Engine) taken() {
	t := &e.takeover
	t.pending, t.window = false, false
	t.forget()
}

func (t *takeover) forget() {
	t.early, t.whole, t.wrote, t.gone, t.entries = false, false, nil, nil, earlyCount{}
}

// undo removes from the kernel what a take-over that did not come about had put
// there. A commit that begins first takes the matter over.
func (e *Engine) undo(ctx context.Context) error {
	removed := 0
	for {
		n, more, err := e.undoSlice(ctx)
		if err != nil {
			return err
		}
		removed += n
		if !more {
			break
		}
	}
	e.log.Info("what was written for a take-over that did not come about is removed again", "entries", removed)
	return nil
}

func (e *Engine) undoSlice(ctx context.Context) (removed int, more bool, err error) {
	e.commitMu.Lock()
	defer e.commitMu.Unlock()
	var batch []flow.Change
	e.mu.Lock()
	t := &e.takeover
	for _, k := range t.undo[:min(commitSlice, len(t.undo))] {
		batch = append(batch, removal(k))
	}
	t.undo = t.undo[len(batch):]
	more = len(t.undo) > 0
	e.mu.Unlock()
	if len(batch) == 0 {
		return 0, false, nil
	}
	done, err := e.kernel.Apply(ctx, batch)
	return done.Deleted, more, err
}

// ended remembers a flow of the peer's that ended although it was written already.
func (e *Engine) ended(r cache.Ref, k *flow.Key) {
	if t := &e.takeover; t.early && e.role != master && !e.external.Dirty(r) {
		t.gone = append(t.gone, *k)
	}
}

// watchTakeover closes what was left open, and brings the filter to the addresses.
func (e *Engine) watchTakeover(now time.Time) {
	t := &e.takeover
	if t.stale {
		t.stale = false
		e.spawn(e.life, "reading the addresses", func(context.Context) error {
			if err := e.refreshFilter(); err != nil {
				return err
			}
			e.configureGuard()
			return nil
		})
	}
	if e.committing() {
		t.since, t.opened = now, now
		return
	}
	if t.window && now.Sub(t.opened) > takeoverPatience || t.pending && now.Sub(t.since) > takeoverPatience {
		e.log.Warn("a take-over began and no commit followed: the guard is lowered")
		t.window, t.pending = false, false
	}
}
