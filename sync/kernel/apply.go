package kernel

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	applyChunk   = 100 // messages a system call; more gains nothing
	answerWait   = 5 * time.Second
	answerBuffer = 4 << 20
	answerReads  = 32
	answerSize   = 4096
)

// writer is the socket that changes the table. The events it causes carry its
// port id.
type writer struct {
	nl  *netlink.Conn
	r   *reader
	d   *decoder
	enc encoder
	pid uint32
	seq uint32
}

func newWriter() (*writer, error) {
	nl, err := dial()
	if err != nil {
		return nil, err
	}
	err = errors.Join(nl.SetOption(netlink.CapAcknowledge, true),
		nl.SetReadBuffer(answerBuffer), nl.SetWriteBuffer(answerBuffer))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare a socket for changes: %w", err), nl.Close())
	}
	r, err := newReader(nl, answerReads, answerSize)
	if err != nil {
		return nil, errors.Join(err, nl.Close())
	}
	return &writer{nl: nl, r: r, d: newDecoder(), pid: nl.PID(), seq: 1}, nil
}

func (w *writer) close() error { return w.nl.Close() }

// Apply writes changes in batches without an answer a message. A change that
// is not named in the result's Failed took effect. Upsert of an existing flow
// is an update in place when the reply tuples agree, else the old flow is
// deleted and a new one created.
//
// ctx is looked at between chunks of 100 changes; an error means that it is
// unknown what took effect beyond the last chunk.
func (c *Conn) Apply(ctx context.Context, batch []flow.Change) (flow.Applied, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var done flow.Applied
	for start := 0; start < len(batch); start += applyChunk {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		ch := chunk{w: c.apply, first: start, batch: batch[start:min(start+applyChunk, len(batch))], done: &done}
		if err := ch.run(); err != nil {
			return done, fmt.Errorf("write to the conntrack table: %w", err)
		}
	}
	return done, nil
}

// transact sends what was encoded, numbered base and up, behind it a barrier,
// and hands each answer with its index to fn: an error number, or a flow.
func (w *writer) transact(base uint32, n int, fn func(i int, errno unix.Errno, f *flow.Flow)) error {
	last := base + uint32(n)
	w.enc.barrier(last)
	w.seq = last + 1
	if err := w.send(); err != nil {
		return err
	}
	if err := w.nl.SetReadDeadline(time.Now().Add(answerWait)); err != nil {
		return err
	}
	for {
		k, err := w.r.read(false)
		if err != nil {
			return fmt.Errorf("read the answers: %w", err)
		}
		for i := range k {
			b, _ := w.r.datagram(i)
			if w.answers(b, base, last, fn) {
				return nil
			}
		}
	}
}

// answers handles the messages of a datagram; ended says that the barrier's
// was among them.
func (w *writer) answers(b []byte, base, last uint32, fn func(int, unix.Errno, *flow.Flow)) (ended bool) {
	for {
		m, rest, ok := nextMessage(b)
		if !ok {
			return false
		}
		b = rest
		i := int(int32(m.seq - base))
		switch {
		case m.seq == last:
			return true
		case i < 0 || m.seq-base > last-base:
			// the late answer of a chunk that was given up
		case m.typ == unix.NLMSG_ERROR:
			fn(i, m.failure(), nil)
		case m.isFlow():
			var f flow.Flow
			if m.decode(w.d, &f) == nil {
				fn(i, 0, &f)
			}
		}
	}
}

func (w *writer) send() error {
	raw := w.r.raw
	var err error
	werr := raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), w.enc.buf, unix.MSG_DONTWAIT, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return err != unix.EAGAIN
	})
	w.enc.buf = w.enc.buf[:0]
	if err = errors.Join(werr, err); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
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
	c.done.Failed = append(c.done.Failed, flow.Failure{
		Index: c.first + i, Reason: reason(errno, &c.batch[i].Flow), Err: errno,
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
// ICMP identifier and GRE keys do not travel with protocol 1.
func sameReply(want, have *flow.Flow) bool {
	if want.Has&flow.HasReply == 0 {
		return true
	}
	w, h := want.Reply, have.Reply
	if !want.Orig.HasPorts() {
		w.Sport, w.Dport, h.Sport, h.Dport = 0, 0, 0, 0
	}
	return w == h
}

// reason puts the kernel's error number into the words of flow.Reason.
func reason(errno unix.Errno, f *flow.Flow) flow.Reason {
	switch errno {
	case unix.EEXIST:
		return flow.ReasonClash
	case unix.ENOENT:
		if f.Has&flow.HasMaster != 0 {
			return flow.ReasonNoMaster
		}
	case unix.EINVAL, unix.ERANGE:
		return flow.ReasonInvalid
	case unix.EOPNOTSUPP:
		if f.Has&flow.HasHelper != 0 {
			return flow.ReasonHelper
		}
	case unix.ENOMEM, unix.ENOSPC:
		return flow.ReasonFull
	case unix.EBUSY:
		return flow.ReasonBusy
	}
	return flow.ReasonOther
}
