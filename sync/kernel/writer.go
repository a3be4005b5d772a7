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
	applyChunk   = 100 // changes a system call; more gains nothing
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
	return &writer{nl: nl, r: r, d: new(decoder), pid: nl.PID(), seq: 1}, nil
}

func (w *writer) close() error { return w.nl.Close() }

// inChunks calls write for runs of n changes that are small enough for one
// system call, one caller at a time, and looks at ctx in between.
func (c *Conn) inChunks(ctx context.Context, n int, write func(first, end int) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for first := 0; first < n; first += applyChunk {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := write(first, min(first+applyChunk, n)); err != nil {
			return fmt.Errorf("write to the conntrack table: %w", err)
		}
	}
	return nil
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

// reason puts the kernel's error number into the words of flow.Reason, for a
// change that names a master or a helper, or neither.
func reason(errno unix.Errno, master, helper bool) flow.Reason {
	switch {
	case errno == unix.EEXIST:
		return flow.ReasonClash
	case errno == unix.ENOENT && master:
		return flow.ReasonNoMaster
	case errno == unix.EINVAL, errno == unix.ERANGE:
		return flow.ReasonInvalid
	case errno == unix.EOPNOTSUPP && helper:
		return flow.ReasonHelper
	case errno == unix.ENOMEM, errno == unix.ENOSPC, errno == unix.EMFILE:
		return flow.ReasonFull
	case errno == unix.EBUSY, errno == unix.EALREADY:
		return flow.ReasonBusy
	}
	return flow.ReasonOther
}
