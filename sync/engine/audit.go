package engine

import (
	"context"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/cache"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

// audit compares the internal cache with the kernel's table although nothing asks
// for it: an event that was lost without a word would never be found otherwise.
// What differs may only be on its way as an event, so it is a suspect first, and
// believed when no event about it has come for a while.
type audit struct {
	cancel   context.CancelFunc // not nil while one runs
	suspects []flow.Flow        // missing or different in the cache
	gone     []flow.Key         // in the cache alone
}

const (
	// An audit takes a hundredth of the time at most: reading an entry takes some
	// 2 microseconds. The kernel takes 25 nanoseconds more for each bucket of its table,
	// entries or none, which auditLeast bounds: a million of them are 25 ms.
	auditPause = 200 * time.Microsecond // an entry
	auditLeast = 3 * time.Second
	auditMost  = 5 * time.Minute
	// While more than auditBusy events a second come it takes auditRare times its turn:
	// a router under load has better use for the time, and events renew most entries.
	auditBusy = 2000
	auditRare = 10
	// auditDoubt is how long an event may be on its way.
	auditDoubt = time.Second
	// suspectsMax is beyond what an audit is for: everything is compared then.
	suspectsMax = 1 << 13
)

// cancelAudit ends an audit that runs; a comparison that was asked for goes first.
func (e *Engine) cancelAudit() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.fill.audit.cancel; c != nil {
		c()
	}
}

func (e *Engine) runAudit(ctx context.Context) error {
	mine, cancel := context.WithCancel(ctx)
	defer cancel()
	e.refillMu.Lock()
	defer e.refillMu.Unlock()
	e.beginFill(audit{cancel: cancel})
	err := e.kernel.Dump(mine, func(flows []flow.Flow) error {
		e.auditSlice(flows)
		return mine.Err()
	})
	if err == nil {
		e.suspectGone()
		select {
		case <-mine.Done():
		case <-time.After(auditDoubt):
			e.believe()
		}
		e.endAudit()
		return ctx.Err()
	}
	e.endAudit()
	if mine.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (e *Engine) endAudit() {
	e.endFill(false)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fill.audit = audit{}
	e.audits++
}

// load is how many events come.
type load struct {
	at     time.Time
	events uint64 // until then
	busy   bool   // in the second before
}

func (l *load) look(now time.Time, events uint64) {
	if d := now.Sub(l.at); d >= time.Second {
		l.busy = float64(events-l.events) > auditBusy*d.Seconds()
		l.at, l.events = now, events
	}
}

// auditDue reports whether it is time for one, by what it would have to read.
func (e *Engine) auditDue(now time.Time) bool {
	e.load.look(now, e.events)
	pause := min(max(time.Duration(e.internal.Len())*auditPause, auditLeast), auditMost)
	if e.load.busy {
		pause *= auditRare
	}
	return now.Sub(e.fill.ended) >= pause
}

func (e *Engine) auditSlice(flows []flow.Flow) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range flows {
		e.auditFlow(&flows[i])
	}
}

func (e *Engine) auditFlow(f *flow.Flow) {
	k := f.Key()
	r := e.internal.Find(&k)
	switch {
	case e.filter.class(f) != classKeep, e.buried(f):
	case r == 0 && e.injected(&k):
	case r != 0 && !e.internal.Old(r): // an event came meanwhile
	case r != 0 && !e.anotherLife(r, f) && !e.internal.Contradicts(r, f):
		e.internal.Renew(r)
	case len(e.fill.audit.suspects) == suspectsMax:
		e.fill.wanted = "an audit found very many flows to differ"
	default:
		e.fill.audit.suspects = append(e.fill.audit.suspects, *f)
	}
}

// buried reports whether the flow ended while the table was read.
func (e *Engine) buried(f *flow.Flow) bool {
	id, dead := e.fill.buried[f.Key()]
	return dead && id == f.ID
}

// suspectGone collects what the kernel's table did not bring.
func (e *Engine) suspectGone() {
	suspected := map[flow.Key]bool{}
	for i := range e.fill.audit.suspects { // of this goroutine's alone
		suspected[e.fill.audit.suspects[i].Key()] = true
	}
	for at, more := cache.Ref(0), true; more; {
		at, more = e.suspectSlice(at, suspected)
	}
}

func (e *Engine) suspectSlice(at cache.Ref, suspected map[flow.Key]bool) (cache.Ref, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	a := &e.fill.audit
	for range sweepSlice {
		if at = e.internal.Next(at); at == 0 {
			break
		}
		if k := e.internal.Key(at); !e.internal.Old(at) || suspected[k] || e.moved.kept[k] {
			continue
		}
		if len(a.gone) == suspectsMax {
			e.fill.wanted = "an audit found very many flows to differ"
			return 0, false
		}
		a.gone = append(a.gone, e.internal.Key(at))
	}
	return at, at != 0
}

// believe mends what is still as the audit found it.
func (e *Engine) believe() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.flushed != nil {
		return // a comparison is about to fill the cache anew
	}
	now, f := e.now(), &e.fill
	for i := range f.audit.suspects {
		s := &f.audit.suspects[i]
		k := s.Key()
		r := e.internal.Find(&k)
		if e.buried(s) || r != 0 && !e.internal.Old(r) {
			continue
		}
		e.auditRepairs++
		e.fillFlow(now, s, true)
	}
	for i := range f.audit.gone {
		if r := e.internal.Find(&f.audit.gone[i]); r != 0 && e.internal.Old(r) {
			f.gone++
			e.auditRepairs++
			e.queueDelete(r)
		}
	}
	e.transmit(now)
}
