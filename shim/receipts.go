package shim

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
)

const (
	receiptsKept = 20
	receiptsFile = "transitions.json"
	receiptTime  = "2006-01-02T15:04:05.000Z07:00"

	outcomeRunning = "running"
	outcomeDone    = "done"
)

// receipt is a Transition and when its time line begins.
type receipt struct {
	stats.Transition
	at    time.Time
	guard stats.Guard // before it
}

func (r *receipt) since(now time.Time) *float64 { return new(millis(now.Sub(r.at))) }

// end closes a receipt that is still running.
func (r *receipt) end(outcome string) {
	if r != nil && r.Outcome == outcomeRunning {
		r.Outcome = outcome
	}
}

// openReceipt begins the time line of a role; mu is held.
func (s *Shim) openReceipt(g *group, c vrrpwatch.Change, now time.Time) {
	g.receipt.end("superseded by " + string(c.State))
	g.receipt = &receipt{at: now, guard: g.guard, Transition: stats.Transition{
		Group: c.Group, State: string(c.State), Source: c.Source, At: now.Format(receiptTime),
		Outcome: outcomeRunning, Steps: []stats.TransitionStep{},
	}}
	s.receipts = append(s.receipts, g.receipt)
	if n := len(s.receipts) - receiptsKept; n > 0 {
		s.receipts = slices.Delete(s.receipts, 0, n)
	}
}

// note lets fn write into the receipt of the role with this serial, if it is still
// the group's last one.
func (s *Shim) note(g *group, serial int, fn func(r *receipt, now time.Time)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.receipt != nil && g.serial == serial {
		fn(g.receipt, s.opt.Now())
	}
}

// noteStep books a step that began at began.
func (s *Shim) noteStep(g *group, serial int, st *step, began time.Time, err error) {
	s.note(g, serial, func(r *receipt, now time.Time) {
		done := stats.TransitionStep{Name: st.name, AtMS: millis(began.Sub(r.at)), DurationMS: millis(now.Sub(began))}
		if err != nil {
			done.Error = err.Error()
		}
		r.Steps = append(r.Steps, done)
		if st.bulk && err == nil {
			r.BulkMS = r.since(now)
		}
	})
}

// noteCommit books what a commit of the sequence wrote.
func (s *Shim) noteCommit(g *group, serial int, began time.Time, c stats.Commit) {
	s.note(g, serial, func(r *receipt, now time.Time) {
		r.Commit = &c
		if c.Entries > 0 {
			r.LastEntryMS = r.since(now)
			first := millis(began.Sub(r.at)) + c.FirstMS
			if c.Early > 0 {
				first = millis(began.Sub(r.at)) - c.EarlyLeadMS // before the role
			}
			r.FirstEntryMS = new(first)
		}
	})
}

// noteEqual books the first proof of equality after the sequence.
func (s *Shim) noteEqual(g *group, serial int) {
	fresh := false
	s.note(g, serial, func(r *receipt, now time.Time) {
		if fresh = r.Outcome == outcomeDone && r.EqualMS == nil; fresh {
			r.EqualMS = r.since(now)
		}
	})
	if fresh {
		s.saveReceipts()
	}
}

// noteGuard books what the guard has dropped since the last look before the role.
func (s *Shim) noteGuard(g *group, serial int, now stats.Guard) {
	s.note(g, serial, func(r *receipt, _ time.Time) {
		if r.Outcome != outcomeDone || r.Guard != nil {
			return
		}
		r.Guard = &stats.Guard{State: now.State, Problem: now.Problem,
			InputDrops: grown(now.InputDrops, r.guard.InputDrops), ForwardDrops: grown(now.ForwardDrops, r.guard.ForwardDrops)}
	})
}

// grown is by how much a counter grew; one that was made anew meanwhile began at 0.
func grown(now, was uint64) uint64 {
	if now < was {
		return now
	}
	return now - was
}

// Transitions are the receipts of the last changes of role, oldest first.
func (s *Shim) Transitions() []stats.Transition {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]stats.Transition, len(s.receipts))
	for i, r := range s.receipts {
		list[i] = r.Transition
		list[i].Steps = slices.Clone(r.Steps)
	}
	return list
}

// saveReceipts keeps them for the next start of the daemon.
func (s *Shim) saveReceipts() {
	b, err := json.Marshal(s.Transitions())
	if err == nil {
		err = replaceFile(filepath.Join(s.opt.RunDir, receiptsFile), append(b, '\n'))
	}
	if err != nil {
		s.log.Warn("receipts of transitions are not kept", "err", err)
	}
}

// loadReceipts reads those of the daemon's former lives.
func (s *Shim) loadReceipts() {
	b, err := os.ReadFile(filepath.Join(s.opt.RunDir, receiptsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var list []stats.Transition
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err != nil {
		s.log.Warn("receipts of former transitions cannot be read", "err", err)
		return
	}
	for _, t := range list[max(0, len(list)-receiptsKept):] {
		r := &receipt{Transition: t}
		r.end("the daemon ended")
		s.receipts = append(s.receipts, r)
	}
}

// replaceFile writes a file that appears whole.
func replaceFile(path string, content []byte) error {
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(tmp, content, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
