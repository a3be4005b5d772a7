package engine

import (
	"errors"
	"time"
)

// births is about events of new flows while much is written into the kernel. For
// each entry written the kernel makes such an event, in the time of the writer: that
// and reading them costs more than the writing. Nobody needs them, so a large commit
// does without. What is born of traffic meanwhile is heard of with its next event,
// or found by the comparison with the kernel that follows: the one of the take-over's
// sequence, or one of its own.
type births struct {
	deaf    bool // no such event comes now
	unheard bool // no comparison has begun since
	due     time.Time
}

const (
	// deafFrom is how many entries a commit without events of new flows has.
	deafFrom = 512
	// sequenceMax is how long the comparison of a take-over's sequence is awaited.
	sequenceMax = 2 * time.Second
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
	e.births.deaf = !come
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

// watchBirths asks for a comparison where no sequence has brought one.
func (e *Engine) watchBirths(now time.Time) {
	if b := &e.births; b.unheard && !now.Before(b.due) {
		b.unheard = false
		e.fill.wanted = "flows may have begun while the commit ran"
	}
}

// committing reports whether a commit runs.
func (e *Engine) committing() bool { return e.commit != nil && e.commit.Running }
