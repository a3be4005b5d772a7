package kernel

import (
	"context"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"golang.org/x/sys/unix"
)

// ApplyExpects writes changes of expectations as Apply writes those of flows,
// in the order of the batch. An Upsert takes the place of what the table has
// for the same packets and then counts as updated; if the kernel refuses it,
// the old one is gone all the same. A Delete of what is not there is no failure.
// Where a helper may expect only so much of a master, the oldest gives way.
func (c *Conn) ApplyExpects(ctx context.Context, batch []flow.ExpectChange) (done flow.Applied, err error) {
	err = c.inChunks(ctx, len(batch), func(first, end int) error {
		ch := expectChunk{w: c.apply, first: first, batch: batch[first:end], done: &done}
		return ch.run()
	})
	return done, err
}

// expectChunk is a run of changes small enough for one system call.
type expectChunk struct {
	w     *writer
	first int // its place in the whole batch
	batch []flow.ExpectChange
	done  *flow.Applied
}

// The messages of a change: all of an upsert, the first of a delete. Removing
// without a look at what is there keeps the batch in order, and the refusal to
// remove says that there was nothing.
const (
	stepRemove = iota
	stepCreate
	stepAge
	expectSteps
)

func (c *expectChunk) run() error {
	base := c.w.seq
	for i := range c.batch {
		x, seq := &c.batch[i].Expect, base+uint32(expectSteps*i)
		c.w.enc.removeExpect(seq+stepRemove, x)
		if c.batch[i].Op == flow.Upsert {
			c.w.enc.createExpect(seq+stepCreate, x)
			c.w.enc.ageExpect(seq+stepAge, x)
		}
	}
	refused := make([][expectSteps]unix.Errno, len(c.batch))
	err := c.w.transact(base, expectSteps*len(c.batch), func(k int, errno unix.Errno, _ *flow.Flow) {
		refused[k/expectSteps][k%expectSteps] = errno
	})
	if err != nil {
		return err
	}
	for i := range c.batch {
		c.count(i, refused[i])
	}
	return nil
}

func (c *expectChunk) count(i int, refused [expectSteps]unix.Errno) {
	removed, created := refused[stepRemove], refused[stepCreate]
	switch upsert := c.batch[i].Op == flow.Upsert; {
	case upsert && created != 0:
		c.fail(i, created)
	case upsert && removed != 0:
		c.done.Created++
	case upsert:
		c.done.Updated++
	case removed == 0:
		c.done.Deleted++
	case removed != unix.ENOENT:
		c.fail(i, removed)
	}
}

func (c *expectChunk) fail(i int, errno unix.Errno) {
	c.done.Failed = append(c.done.Failed, flow.Failure{
		Index: c.first + i, Reason: reason(errno, true, true), Err: errno,
	})
}

// createExpect writes the message that creates x. Newer kernels take the helper
// from the master and ignore the name.
func (e *encoder) createExpect(seq uint32, x *flow.Expect) {
	e.beginExpect(unix.NLM_F_CREATE|unix.NLM_F_EXCL, seq, x)
	if x.Has&flow.ExpectHasFlags != 0 {
		e.u32(expFlags, x.Flags)
	}
	if x.Has&flow.ExpectHasClass != 0 {
		e.u32(expClass, x.Class)
	}
	if x.Has&flow.ExpectHasHelper != 0 {
		e.name(expHelper, x.Helper[:])
	}
	if x.Has&flow.ExpectHasFunction != 0 {
		e.name(expFunction, x.Function[:])
	}
	e.expectNAT(x)
	e.end()
}

// ageExpect writes the message that sets the timeout of an expectation: one
// just created has its helper's, whatever the message said.
func (e *encoder) ageExpect(seq uint32, x *flow.Expect) {
	e.beginExpect(0, seq, x)
	e.end()
}

// beginExpect starts a message about x with what every one must have.
func (e *encoder) beginExpect(flags uint16, seq uint32, x *flow.Expect) {
	e.begin(subsystemExpect, msgNew, flags, seq, x.Tuple.Family)
	mask := x.Mask
	mask.Family, mask.Proto = x.Tuple.Family, x.Tuple.Proto // never masked: they say how to read the rest
	e.tuple(expMaster, &x.Master)
	e.tuple(expTuple, &x.Tuple)
	e.tuple(expMask, &mask)
	e.expectZone(x)
	timeout := max(x.Timeout, 1) // 0 would end it at once
	if x.Has&flow.ExpectHasTimeout == 0 {
		timeout = fallbackTimeout
	}
	e.u32(expTimeout, timeout)
}

// removeExpect names an expectation by its tuple.
func (e *encoder) removeExpect(seq uint32, x *flow.Expect) {
	e.begin(subsystemExpect, msgDelete, 0, seq, x.Tuple.Family)
	e.tuple(expTuple, &x.Tuple)
	e.expectZone(x)
	e.end()
}

func (e *encoder) expectZone(x *flow.Expect) {
	if x.Zone != 0 {
		e.u16(expZone, x.Zone)
	}
}

// expectNAT writes the translation, and zeros where there is none: Linux before
// 7.0 otherwise takes what the memory held before for one.
func (e *encoder) expectNAT(x *flow.Expect) {
	nat := flow.Tuple{Family: x.Master.Family, Proto: x.Master.Proto}
	if x.Has&flow.ExpectHasNATAddr != 0 {
		nat.Src = x.NAT.Src
	}
	if x.Has&flow.ExpectHasNATPort != 0 {
		nat.Sport = x.NAT.Sport
	}
	var dir uint32
	if x.Has&flow.ExpectHasNATDir != 0 {
		dir = x.NATDir
	}
	nest := e.open(expNAT)
	e.u32(expNATDir, dir)
	e.tuple(expNATTuple, &nat)
	e.close(nest)
}
