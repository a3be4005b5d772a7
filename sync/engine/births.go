package engine

import (
	"context"
	"errors"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/cache"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// births is about events of new flows while much is written into the kernel. For
// each entry written the kernel makes such an event, in the time of the writer: that
// and reading them costs more than the writing. Nobody needs them, so a large commit
// does without. What is born of traffic meanwhile is heard of with its next event, or
// found in the kernel's table afterwards.
//
// A take-over's sequence compares with the whole table anyway. A commit that an
// operator orders of a BACKUP needs less: what was written is known here, and a flow
// that was born and then replied to has had an event for the reply, which is none of
// a new flow; only those without a reply are looked for.
type births struct {
	deaf    bool // no such event comes now
	unheard bool // nothing has looked since
	due     time.Time
	// absent are flows that were refused, or have ended since the commit began; nil
	// where the whole table is to be read.
	absent map[flow.Key]bool
}

const (
	// deafFrom is how many entries a commit without events of new flows has.
	deafFrom = 512
	// sequenceMax is how long the comparison of a take-over's sequence is awaited.
	sequenceMax = 2 * time.Second
	// absentMax is beyond what it is worth to remember.
	absentMax = 1 << 16
)

// deafen ends events of new flows for a commit of n entries; hear is called when it
// is through.
func (c *commit) deafen(n int) (hear func() error, err error) {
	e := c.engine
	if n < deafFrom {
		return func() error { return nil }, nil
	}
	come, err := e.kernel.Births(false)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.births.deaf, e.births.absent = !come, nil
	if !come && c.doc.Trigger == byOperator {
		e.births.absent = map[flow.Key]bool{}
	}
	return c.hear, err
}

func (c *commit) hear() error {
	e := c.engine
	come, err := e.kernel.Births(true)
	if err == nil && !come {
		err = errors.New("events of new flows do not come")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	b := &e.births
	b.unheard = b.unheard || b.deaf
	b.deaf, b.due = false, e.now()
	if c.doc.Trigger != byOperator {
		b.due = b.due.Add(sequenceMax)
	}
	return err
}

// miss notes that the kernel does not hold a flow, whatever was to be written.
func (b *births) miss(k flow.Key) {
	if b.absent == nil {
		return
	}
	if len(b.absent) == absentMax {
		b.absent = nil
		return
	}
	b.absent[k] = true
}

// watchBirths looks for what was born where no sequence has done so.
func (e *Engine) watchBirths(now time.Time) {
	b := &e.births
	if !b.unheard || now.Before(b.due) || e.committing() {
		return
	}
	b.unheard = false
	if b.absent == nil || e.role == "" || e.role == master || e.direct() || e.flushed != nil {
		b.absent = nil
		e.fill.wanted = birthsWanted
		return
	}
	of := e.commit
	e.spawn(e.life, "looking for flows that began while the commit ran", func(ctx context.Context) error {
		return e.lookForBirths(ctx, of)
	})
}

// birthsWanted is why the whole table is compared after a commit.
const birthsWanted = "flows may have begun while the commit ran"

// lookForBirths takes what a commit wrote into the internal cache, and what was born
// unheard. The peers are told of the latter.
func (e *Engine) lookForBirths(ctx context.Context, of *stats.Commit) error {
	e.cancelAudit()
	e.refillMu.Lock()
	defer e.refillMu.Unlock()
	e.beginFill(audit{})
	err := e.takeWritten(of)
	if err == nil {
		err = e.kernel.DumpUnreplied(ctx, func(flows []flow.Flow) error {
			e.fillSlice(flows, true)
			return nil
		})
	}
	e.endFill(false)
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		e.fill.wanted = birthsWanted
	}
	if errors.Is(err, errOvertaken) {
		return nil
	}
	return err
}

// errOvertaken is why what was written is not known any more: another commit has
// begun, or very much has ended.
var errOvertaken = errors.New("the account of what was written is out of date")

// takeWritten takes the external cache into the internal one, as it is in the kernel
// since the commit.
func (e *Engine) takeWritten(of *stats.Commit) (err error) {
	for at, more := cache.Ref(0), true; more && err == nil; more = at != 0 {
		at, err = e.takeSlice(at, of)
	}
	return err
}

func (e *Engine) takeSlice(at cache.Ref, of *stats.Commit) (cache.Ref, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := &e.births
	if e.commit != of || b.absent == nil {
		return 0, errOvertaken
	}
	var f flow.Flow
	for range sweepSlice {
		if at = e.external.Next(at); at == 0 {
			b.absent = nil
			break
		}
		k := e.external.Key(at)
		if e.external.Dirty(at) || b.absent[k] || e.internal.Find(&k) != 0 {
			continue
		}
		if e.loadCommittable(at, &f); e.filter.class(&f) == classKeep {
			e.insert(e.fill.began, &f)
		}
	}
	return at, nil
}

// committing reports whether a commit runs.
func (e *Engine) committing() bool { return e.commit != nil && e.commit.Running }
