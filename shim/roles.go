package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/conntrack-sync/conntrack-sync/plugin/contract"
	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
)

// onRole records a change and leaves the work to follow. The record comes
// first: it is the time the transition began.
func (s *Shim) onRole(c vrrpwatch.Change) {
	first, known := false, false
	s.view(func() { first, known = s.first().name == c.Group, s.groups[c.Group] != nil })
	if !known {
		return
	}
	host, _ := os.Hostname()
	s.log.Info(fmt.Sprintf("%s transitioning to %s state for VRRP sync-group [%s]", host, c.State, c.Group), "source", c.Source)
	if first {
		if err := s.recordTransition(c); err != nil {
			s.log.Error("record the transition", "err", err)
		}
	}
	s.change(func() {
		if g := s.groups[c.Group]; g != nil {
			g.role, g.since = c, s.opt.Now()
			g.serial++
			s.openReceipt(g, c, g.since)
		}
	})
}

// lastTransition is a file of one line, VyOS's.
const lastTransition = "last-transition"

func (s *Shim) recordTransition(c vrrpwatch.Change) error {
	line := fmt.Sprintf("%s at %s", c.State, s.opt.Now().Format("Mon Jan _2 15:04:05 MST 2006"))
	s.view(func() { s.transition = line })
	return replaceFile(filepath.Join(s.opt.RunDir, lastTransition), []byte(line+"\n"))
}

// loadTransition reads that of the daemon's former lives.
func (s *Shim) loadTransition() {
	b, err := os.ReadFile(filepath.Join(s.opt.RunDir, lastTransition))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("the last transition is not known", "err", err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	s.view(func() { s.transition = line })
}

// followGroup brings the engine into the state the group's role asks for: the
// last role wins. A newer role cancels the sequence that runs; an engine that died
// during one gets it again after its restart.
func (s *Shim) followGroup(ctx context.Context, g *group) {
	served := 0 // serial of the engine that knows the role
	for ctx.Err() == nil {
		var (
			engine       contract.Engine
			serial, want int
			role         vrrpwatch.Change
			done         bool
		)
		wake := s.view(func() {
			engine, serial, want, role = s.engineOf(g), s.serial, g.serial, g.role
			done = g.done == want
		})
		if engine != nil && want > 0 && (!done || served != serial) {
			if s.runSequence(ctx, g, serial, want, s.sequence(engine, g, want, role, done)) {
				served = serial
				s.change(func() { g.done = want })
			}
			continue
		}
		select {
		case <-ctx.Done():
		case <-wake:
		}
	}
}

// step is one call of a sequence.
type step struct {
	name   string
	call   func(context.Context) error
	serves bool // when it has ended, this node serves the peer's flows
	bulk   bool // it sends everything to the peers
	bound  bool // a newer role does not part it from the step before
	long   bool // a newer role cuts it short; the others are waited for
}

// sequence is what a role asks of the engine. repeated says that the role's
// work was done already, by an engine that is gone. A role from before our
// start is met by an engine that holds nothing to commit.
func (s *Shim) sequence(e contract.Engine, g *group, serial int, role vrrpwatch.Change, repeated bool) []step {
	setRole := step{name: "tell the role", call: func(ctx context.Context) error { return e.SetRole(ctx, role.Group, string(role.State)) }}
	bulk := step{name: "send everything to the peers", call: e.Bulk, bulk: true}
	resync := step{name: "refill the internal cache from the kernel", long: true, call: e.Resync}
	ask := step{name: "ask the peers for their tables", call: e.RequestResync}
	purge := step{name: "start the timed purge", call: e.ShortenTimers}
	switch {
	case role.State == vrrpwatch.Master && repeated:
		setRole.serves = true // by the former engine
		return []step{setRole, bulk}
	case role.State == vrrpwatch.Master && role.Stamp.Before(s.start):
		setRole.serves = true // for long
		return []step{setRole, resync, bulk}
	case role.State == vrrpwatch.Master:
		commit := step{name: "commit the external cache", serves: true, long: true, call: func(ctx context.Context) error {
			began := s.opt.Now()
			c, err := s.commit(ctx, e)
			s.noteCommit(g, serial, began, c)
			return err
		}}
		flush := step{name: "flush both caches", call: func(ctx context.Context) error { return e.Flush(ctx, contract.Both) }}
		// With its internal cache half empty a BACKUP would not notice which of its
		// former flows end elsewhere.
		resync.bound = true
		return []step{setRole, commit, flush, resync, bulk}
	case repeated:
		return []step{setRole, ask}
	case role.State == vrrpwatch.Backup:
		return []step{setRole, purge, ask}
	case role.State == vrrpwatch.Fault:
		return []step{setRole, purge}
	}
	return []step{setRole}
}

// runSequence runs the steps; a step that fails is logged and the next one
// runs. ended is false when a newer role or the engine's end cut it short.
func (s *Shim) runSequence(ctx context.Context, g *group, serial, want int, steps []step) (ended bool) {
	alive, ctx, cancel := s.whileCurrent(ctx, g, serial, want)
	defer cancel()
	began := s.opt.Now()
	for _, st := range steps {
		// A call that is given up may still be carried out, behind those of a
		// newer role: the last one must win.
		run := alive
		if st.long && !st.bound {
			run = ctx
		}
		if !st.bound && !s.current(g, serial, want) {
			s.log.Info("sequence cut short", "before", st.name)
			return false
		}
		at := s.opt.Now()
		err := st.call(run)
		if run.Err() != nil {
			s.log.Info("sequence cut short", "at", st.name)
			return false
		}
		if errors.Is(err, contract.ErrGone) {
			s.noteStep(g, want, &st, at, err)
			<-alive.Done() // the supervisor will say so
			return false
		}
		s.noteStep(g, want, &st, at, err)
		if st.serves {
			s.change(func() { g.taken = want })
		}
		if err != nil {
			s.log.Error("step failed, going on", "step", st.name, "err", err)
			continue
		}
		s.log.Info("step done", "step", st.name, "ms", millis(s.opt.Now().Sub(at)))
	}
	s.log.Info("sequence done", "ms", millis(s.opt.Now().Sub(began)))
	s.note(g, want, func(r *receipt, now time.Time) {
		r.end(outcomeDone)
		if r.DoneMS == nil {
			r.DoneMS = r.since(now)
		}
	})
	s.saveReceipts()
	return true
}

// current reports whether engine and role are still those of a sequence.
func (s *Shim) current(g *group, serial, want int) (yes bool) {
	s.view(func() { yes = s.serial == serial && g.serial == want })
	return yes
}

// whileCurrent makes two contexts of one: alive ends with the engine of this
// serial, current also when a newer role than want is known.
func (s *Shim) whileCurrent(ctx context.Context, g *group, serial, want int) (alive, current context.Context, cancel func()) {
	alive, end := context.WithCancel(ctx)
	current, cut := context.WithCancel(alive)
	go func() {
		for {
			var gone, newer bool
			wake := s.view(func() { gone, newer = s.serial != serial, g.serial != want })
			if newer {
				cut()
			}
			if gone {
				end()
				return
			}
			select {
			case <-alive.Done():
				return
			case <-wake:
			}
		}
	}()
	return alive, current, func() { cut(); end() }
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
