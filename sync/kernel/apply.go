package kernel

import (
	"context"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"golang.org/x/sys/unix"
)

// Apply writes changes in batches without an answer a message. A change that
// is not named in the result's Failed took effect. Upsert of an existing flow
// is an update in place when the reply tuples agree, else the old flow is
// deleted and a new one created.
//
// ctx is looked at between chunks of 100 changes; an error means that it is
// unknown what took effect beyond the last chunk.
func (c *Conn) Apply(ctx context.Context, batch []flow.Change) (done flow.Applied, err error) {
	err = c.inChunks(ctx, len(batch), func(first, end int) error {
		ch := chunk{w: c.apply, first: first, batch: batch[first:end], done: &done}
		return ch.run()
	})
	return done, err
}

// chunk is a run of changes small enough for one system call.
type chunk struct {
	w     *writer
	first int // its place in the whole batch
	batch []flow.Change
	done  *flow.Applied
	retry []retry
}

// retry is a change that found its flow already there, or its helper missing.
type retry struct {
	i        int
	found    *flow.Flow // the flow with our original tuple, nil if there is none
	blocker  *flow.Flow // another flow that holds one of our tuples
	noHelper bool
	update   bool
	errno    unix.Errno
}

// yields reports whether a flow that holds one of f's tuples may be deleted for
// it: one that began as f's reply, which a stray packet or the router's own
// stack made, or one that never was assured. An established flow stays, and f
// is refused.
func yields(blocker, f *flow.Flow) bool {
	return blocker.Orig == f.Reply || blocker.Status&flow.StatusAssured == 0
}

func (c *chunk) run() error {
	base := c.w.seq
	for i := range c.batch {
		f := &c.batch[i].Flow
		if c.batch[i].Op == flow.Delete {
			c.w.enc.remove(base+uint32(i), &f.Orig, f, true)
			continue
		}
		c.w.enc.create(base+uint32(i), f, true)
	}
	err := c.w.transact(base, len(c.batch), func(i int, errno unix.Errno, _ *flow.Flow) {
		if errno != 0 {
			c.refused(i, errno)
		}
	})
	if err != nil {
		return err
	}
	for i := range c.batch {
		if c.batch[i].Op == flow.Delete {
			c.done.Deleted++
		} else {
			c.done.Created++
		}
	}
	return c.again()
}

// refused takes the kernel's refusal of the first attempt.
func (c *chunk) refused(i int, errno unix.Errno) {
	ch := &c.batch[i]
	switch {
	case ch.Op == flow.Delete:
		c.done.Deleted--
		if errno != unix.ENOENT {
			c.fail(i, errno)
		}
	case errno == unix.EEXIST:
		c.done.Created--
		c.retry = append(c.retry, retry{i: i})
	case errno == unix.EOPNOTSUPP && ch.Flow.Has&flow.HasHelper != 0:
		// A flow without its helper is worth more than none.
		c.done.Created--
		c.retry = append(c.retry, retry{i: i, noHelper: true})
	default:
		c.done.Created--
		c.fail(i, errno)
	}
}

func (c *chunk) fail(i int, errno unix.Errno) {
	has := c.batch[i].Flow.Has
	c.done.Failed = append(c.done.Failed, flow.Failure{
		Index: c.first + i, Reason: reason(errno, has&flow.HasMaster != 0, has&flow.HasHelper != 0), Err: errno,
	})
}

// again looks at the flows that stand in the way and tries once more: update in
// place, or delete and create; what cannot be updated is deleted and created
// after all.
func (c *chunk) again() error {
	if len(c.retry) == 0 {
		return nil
	}
	if err := c.lookUp(); err != nil {
		return err
	}
	if err := c.rewrite(true); err != nil {
		return err
	}
	var rest []retry
	for _, r := range c.retry {
		switch {
		case r.errno == 0:
			c.count(&r)
		case r.update:
			r.update, r.errno = false, 0
			rest = append(rest, r)
		default:
			c.fail(r.i, r.errno)
		}
	}
	if c.retry = rest; len(rest) == 0 {
		return nil
	}
	if err := c.rewrite(false); err != nil {
		return err
	}
	for _, r := range c.retry {
		if r.errno != 0 {
			c.fail(r.i, r.errno)
			continue
		}
		c.count(&r)
	}
	return nil
}

func (c *chunk) count(r *retry) {
	switch {
	case r.update:
		c.done.Updated++
	case r.found != nil:
		c.done.Recreated++
	default:
		c.done.Created++
	}
}

// lookUp asks which flows hold the original and the reply tuple. The kernel
// finds a flow by either of its tuples, whichever it is asked for.
func (c *chunk) lookUp() error {
	base := c.w.seq
	for k, r := range c.retry {
		f := &c.batch[r.i].Flow
		c.w.enc.get(base+uint32(2*k), &f.Orig, f)
		c.w.enc.get(base+uint32(2*k+1), &f.Reply, f)
	}
	return c.w.transact(base, 2*len(c.retry), func(k int, errno unix.Errno, f *flow.Flow) {
		if f == nil {
			return
		}
		r, got := &c.retry[k/2], *f
		if got.Orig == c.batch[r.i].Flow.Orig {
			r.found = &got
		} else {
			r.blocker = &got
		}
	})
}

// rewrite writes the second attempt.
func (c *chunk) rewrite(updates bool) error {
	base := c.w.seq
	owner := make([]int, 0, 3*len(c.retry))
	next := func(k int) uint32 {
		owner = append(owner, k)
		return base + uint32(len(owner)-1)
	}
	for k := range c.retry {
		r := &c.retry[k]
		f := &c.batch[r.i].Flow
		if r.update = updates && r.found != nil && sameReply(f, r.found); r.update {
			c.w.enc.update(next(k), f, r.found.Status)
			continue
		}
		if r.blocker != nil {
			if !yields(r.blocker, f) {
				r.errno = unix.EEXIST
				continue
			}
			c.w.enc.remove(next(-1), &r.blocker.Orig, r.blocker, true)
		}
		if r.found != nil {
			c.w.enc.remove(next(-1), &f.Orig, r.found, true)
		}
		c.w.enc.create(next(k), f, !r.noHelper)
	}
	return c.w.transact(base, len(owner), func(i int, errno unix.Errno, _ *flow.Flow) {
		if k := owner[i]; k >= 0 {
			c.retry[k].errno = errno
		}
	})
}

// sameReply compares the reply tuples as far as they are known: a translated
// ICMP identifier and GRE keys do not travel with protocol 1, and look as if they
// were not translated.
func sameReply(want, have *flow.Flow) bool {
	if want.Has&flow.HasReply == 0 {
		return true
	}
	w, h := want.Reply, have.Reply
	if !want.Orig.HasPorts() && !otherID(want) {
		w.Sport, w.Dport, h.Sport, h.Dport = 0, 0, 0, 0
	}
	return w == h
}
