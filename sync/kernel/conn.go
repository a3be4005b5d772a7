// Package kernel is the ctnetlink edge: it reads conntrack events and tables
// into flows and expectations, and writes both into the kernel's tables. Sockets
// come from mdlayher/netlink; messages are read and written by this package, in
// batches, without an allocation per flow. All of it concerns the network
// namespace of the thread that called Open.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Conn is access to the tables of flows and of expectations. It needs CAP_NET_ADMIN.
type Conn struct {
	log    *slog.Logger
	events *eventSocket
	apply  *writer

	moves *moves

	truncated uint64
	filtered  bool
	mu        sync.Mutex // guards apply
}

// Open opens the sockets. Events are collected from then on, in a buffer that
// SetEventBuffer sizes; log may be nil.
func Open(log *slog.Logger) (*Conn, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	w, err := newWriter()
	if err != nil {
		return nil, err
	}
	ev, err := openEvents()
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	return &Conn{log: log, events: ev, apply: w}, nil
}

// OpenWriter opens access for changes alone: no events are collected.
func OpenWriter() (*Conn, error) {
	w, err := newWriter()
	if err != nil {
		return nil, err
	}
	return &Conn{log: slog.New(slog.DiscardHandler), apply: w}, nil
}

func dial() (*netlink.Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open a netfilter socket: %w", err)
	}
	return c, nil
}

// Close closes the sockets; Events and changes that run end with an error.
func (c *Conn) Close() error {
	if c.moves != nil {
		_ = c.moves.nl.Close()
	}
	if c.events == nil {
		return c.apply.close()
	}
	return errors.Join(c.events.Close(), c.apply.close())
}

// SetEventBuffer asks for room for events, in bytes of the kernel's accounting
// (some 1,280 an event), and returns what was given. The kernel doubles what
// it is asked for; both numbers here are before doubling.
func (c *Conn) SetEventBuffer(bytes int) (int, error) {
	if err := c.events.SetReadBuffer(bytes); err != nil {
		return 0, fmt.Errorf("set the event buffer to %d bytes: %w", bytes, err)
	}
	got, err := c.events.ReadBuffer()
	if err != nil {
		return 0, fmt.Errorf("read the size of the event buffer: %w", err)
	}
	return got / 2, nil
}

// Births turns events about new flows on, as they are at first, or off; come says
// which. The kernel makes such an event in the time of whoever adds the entry, and
// makes none when nobody listens. Later events of a flow born unheard come as usual.
func (c *Conn) Births(wanted bool) (come bool, err error) {
	if err := c.events.births(wanted); err != nil {
		return !wanted, fmt.Errorf("turn events of new flows on or off: %w", err)
	}
	return wanted, nil
}

// interrupt makes the end of ctx unblock a read of nl; the returned function
// undoes it.
func interrupt(ctx context.Context, nl interface{ SetReadDeadline(time.Time) error }) (stop func()) {
	s := context.AfterFunc(ctx, func() { _ = nl.SetReadDeadline(time.Unix(1, 0)) })
	return func() { s() }
}

// cause prefers the end of the context to the error it provoked.
func cause(ctx context.Context, err error) error {
	if e := ctx.Err(); e != nil {
		return e
	}
	return err
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

// reader reads datagrams of one socket in batches into buffers of its own.
type reader struct {
	raw  syscall.RawConn
	hdrs []mmsghdr
	iovs []unix.Iovec
	bufs [][]byte
}

// newReader makes a reader of n datagrams of at most size bytes a call.
func newReader(nl syscall.Conn, n, size int) (*reader, error) {
	raw, err := nl.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	r := &reader{raw: raw, hdrs: make([]mmsghdr, n), iovs: make([]unix.Iovec, n), bufs: make([][]byte, n)}
	room := make([]byte, n*size)
	for i := range r.bufs {
		r.bufs[i] = room[i*size : (i+1)*size]
		r.iovs[i].Base = &r.bufs[i][0]
		r.iovs[i].SetLen(size)
		r.hdrs[i].hdr.Iov = &r.iovs[i]
		r.hdrs[i].hdr.SetIovlen(1)
	}
	return r, nil
}

// read waits for at least one datagram, unless poll is set, and returns how
// many there are. Errors are errno values, or those of a closed socket or a
// deadline.
func (r *reader) read(poll bool) (n int, err error) {
	var errno unix.Errno
	rerr := r.raw.Read(func(fd uintptr) bool {
		k, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.hdrs[0])), uintptr(len(r.hdrs)), unix.MSG_DONTWAIT, 0, 0)
		n, errno = int(k), e
		if e == unix.EINTR {
			n, errno = 0, 0
		}
		return poll || e != unix.EAGAIN
	})
	switch {
	case rerr != nil:
		return 0, rerr
	case errno == unix.EAGAIN:
		return 0, nil
	case errno != 0:
		return 0, errno
	}
	return n, nil
}

// datagram returns the i-th of the last read; cut says that it did not fit.
func (r *reader) datagram(i int) (b []byte, cut bool) {
	h := &r.hdrs[i]
	return r.bufs[i][:h.n], h.hdr.Flags&unix.MSG_TRUNC != 0
}
