package engine

import (
	"net/netip"
	"sync"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// The guard stands while this node is not MASTER and, when it becomes MASTER,
// until the commit is done: before, the virtual addresses are not here and it does
// nothing; afterwards every flow is known. Its part for forwarded packets is armed
// while no virtual address is here, and has its window from the arrival of one
// until what is to be written is written; a node that has the addresses and all
// flows needs none of it, whatever its role. In an unknown role only the window
// raises it.

// guardState is how far the guard is up.
type guardState uint8

const (
	guardDown guardState = iota
	guardUp
	guardArmed
	guardWindow
)

func (s guardState) String() string { return [...]string{"down", "up", "armed", "window"}[s] }

// guard is the engine's handle on a Guard. Its lock is taken before the engine's.
type guard struct {
	mu     sync.Mutex
	g      Guard // nil: there is none
	is     guardState
	ticks  int
	failed string // why it does not do what it should
	// renewal: that is a renewal that failed; unmade: that it could not be had, or be
	// told its addresses.
	renewal, unmade bool
	tries           int // ticks since that was last tried
	closed          bool
}

// renewTicks is how many ticks pass between renewals: half a second.
const renewTicks = 5

// retryTicks is how many ticks pass until a guard that could not be had is tried again:
// five seconds.
const retryTicks = 50

// configureGuard opens the guard where virtual addresses are known and it is
// wanted, closes it where not, and tells it the addresses. A node without a guard
// goes on: its state says why there is none.
func (e *Engine) configureGuard() {
	g := &e.guard
	g.mu.Lock()
	virtual, spared, wanted := e.guarded()
	if !wanted && g.g != nil {
		e.guardFails(g.g.Close())
		g.g, g.is, g.failed = nil, guardDown, ""
		e.log.Info("take-over guard disabled")
	}
	var err error
	if wanted && g.g == nil && !g.closed {
		var opened Guard
		if opened, err = e.opt.OpenGuard(); err == nil {
			g.g = opened
			e.log.Info("take-over guard ready", "addresses", virtual)
		}
	}
	if g.g != nil {
		err = g.g.Protect(virtual, spared)
	}
	if e.guardFails(err); err == nil && g.unmade {
		g.failed = ""
	}
	g.unmade, g.tries = err != nil, 0
	g.mu.Unlock()
	e.applyGuard()
}

// guarded says what the guard is about: the virtual addresses, and this host's
// other ones, which do not move.
func (e *Engine) guarded() (virtual, spared []netip.Addr, wanted bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.opt.OpenGuard == nil || e.settings == nil || e.settings.DisableGuard || len(e.settings.Moves()) == 0 {
		return nil, nil, false
	}
	moves := map[netip.Addr]bool{}
	for _, a := range e.settings.VirtualAddresses {
		moves[a] = true
	}
	for a := range e.takeover.local {
		if !moves[a] {
			spared = append(spared, a)
		}
	}
	return e.settings.Moves(), spared, true
}

// guardFails notes that the guard could not be changed; mu of the guard is held.
func (e *Engine) guardFails(err error) {
	if err == nil {
		return
	}
	if e.guard.failed == "" {
		e.log.Error("the take-over guard does not work, the node goes on without", "err", err)
	}
	e.guard.failed = err.Error()
}

// applyGuard brings the guard to where it should be.
func (e *Engine) applyGuard() {
	g := &e.guard
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.g == nil {
		return
	}
	e.mu.Lock()
	want := e.wantGuard()
	e.mu.Unlock()
	if want == g.is {
		return
	}
	err := g.g.Lower
	if want != guardDown {
		err = func() error { return g.g.Raise(want == guardArmed, want == guardWindow) }
	}
	if err := err(); err != nil {
		e.guardFails(err)
		return
	}
	g.is, g.failed, g.renewal = want, "", false
}

// wantGuard says where the guard should be.
func (e *Engine) wantGuard() guardState {
	switch {
	case e.takeover.window:
		return guardWindow
	case e.role != master && e.role != "" && e.takeover.away():
		return guardArmed
	case e.role != master && e.role != "", e.takeover.pending:
		return guardUp
	}
	return guardDown
}

// keepGuard renews what is raised. It runs behind the tick, which has had the
// engine's lock: where the engine hangs the guard falls.
func (e *Engine) keepGuard() {
	if e.guard.retry() {
		e.configureGuard()
	}
	e.applyGuard()
	g := &e.guard
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ticks++; g.g == nil || g.is == guardDown || g.ticks < renewTicks {
		return
	}
	g.ticks = 0
	if err := g.g.Renew(); err != nil {
		e.guardFails(err)
		g.renewal = true
	} else if g.renewal {
		g.failed, g.renewal = "", false
		e.log.Info("the take-over guard works again")
	}
}

// retry reports whether it is time to try again what could not be done.
func (g *guard) retry() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tries++
	return g.unmade && g.tries >= retryTicks
}

func (g *guard) close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	if g.g == nil {
		return nil
	}
	err := g.g.Close()
	g.g = nil
	return err
}

// guardStatus is what an operator is told.
func (e *Engine) guardStatus() stats.Guard {
	g := &e.guard
	g.mu.Lock()
	defer g.mu.Unlock()
	s := stats.Guard{State: g.is.String(), Problem: g.failed}
	if g.g == nil {
		s.State = "absent"
		if _, _, wanted := e.guarded(); !wanted {
			s.State = "disabled"
		}
		return s
	}
	var err error
	if s.InputDrops, s.ForwardDrops, err = g.g.Drops(); err != nil {
		s.Problem = err.Error()
	}
	return s
}
