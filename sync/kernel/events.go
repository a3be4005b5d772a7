package kernel

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/gather"
	"golang.org/x/sys/unix"
)

const (
	eventReads = 64   // datagrams a system call
	eventSize  = 2048 // the largest event seen has some 500 bytes
	eventBatch = 1024 // events handed over at once
)

// eventPace: each wake-up costs more than the events it finds. What presses are new
// flows: those that gather are unknown to the standby when the router is lost.
var eventPace = gather.Pace{Busy: 2000, Enough: 50, Least: 2500 * time.Microsecond, Most: 8 * time.Millisecond}

// Events reads conntrack events until ctx ends and hands them over in the
// kernel's order, flows and expectations mixed: at once when there are few; under
// load, from 2,000 a second on, those of 2.5 to 8 ms, the less the more flows begin,
// and up to 1024 when the reader is behind. The slice is reused. Lost events come as flow.ErrOverrun, then reading
// goes on. Call it once.
//
// Of expectations, those that end with their master or make room for a newer
// one are nobody's own, whoever caused it: the kernel does not say.
func (c *Conn) Events(ctx context.Context, fn func(batch []flow.Event, err error)) error {
	r, err := newReader(c.events, eventReads, eventSize)
	if err != nil {
		return err
	}
	defer interrupt(ctx, c.events.gate)()
	l := &listener{conn: c, r: r, d: new(decoder), batch: make([]flow.Event, 0, eventBatch), own: c.apply.pid, pace: eventPace}
	for {
		if err := l.wait(); err != nil {
			return cause(ctx, fmt.Errorf("wait for conntrack events: %w", err))
		}
		err := l.fill()
		l.read = time.Now()
		l.pace.Took(l.read, len(l.batch), l.births)
		if len(l.batch) > 0 {
			fn(l.batch, nil)
		}
		switch {
		case errors.Is(err, unix.ENOBUFS):
			fn(nil, flow.ErrOverrun)
		case err != nil:
			return cause(ctx, fmt.Errorf("read conntrack events: %w", err))
		}
	}
}

type listener struct {
	conn  *Conn
	r     *reader
	d     *decoder
	batch []flow.Event
	own   uint32
	pace  gather.Pace
	read  time.Time // when the last batch was

	births int  // in the batch
	full   bool // the batch left something behind
}

// wait returns when events are to be read.
func (l *listener) wait() error {
	if l.full {
		return nil
	}
	d := l.pace.Gather()
	if d == 0 {
		return l.conn.events.gate.Wait()
	}
	if left := d - time.Since(l.read); left > 0 {
		return l.conn.events.gate.Sleep(left)
	}
	return nil
}

// fill takes what is there, as long as it fits.
func (l *listener) fill() error {
	l.batch, l.births, l.full = l.batch[:0], 0, false
	for len(l.batch)+eventReads <= cap(l.batch) {
		n, err := l.r.read(true)
		if err != nil {
			return err
		}
		for i := range n {
			l.take(i)
		}
		if n < eventReads {
			return nil
		}
	}
	l.full = true
	return nil
}

func (l *listener) take(i int) {
	b, cut := l.r.datagram(i)
	if cut {
		l.conn.truncated++
		l.conn.log.Error("a conntrack event is larger than the reader's buffer and was lost", "bytes", eventSize)
		return
	}
	for {
		m, rest, ok := nextMessage(b)
		if !ok {
			return
		}
		b = rest
		l.add(&m)
	}
}

// add appends the event m is, if it is one.
func (l *listener) add(m *message) {
	if !m.isFlow() && !m.isExpect() || len(l.batch) == cap(l.batch) {
		return
	}
	l.batch = l.batch[:len(l.batch)+1]
	ev := &l.batch[len(l.batch)-1]
	ev.Type, ev.Own, ev.Expect = m.event(), m.pid == l.own, nil
	if err := l.decode(m, ev); err != nil {
		l.batch = l.batch[:len(l.batch)-1]
		l.conn.log.Error("a conntrack event cannot be read", "err", err)
		return
	}
	if ev.Type == flow.EventNew {
		l.births++
	}
}

func (l *listener) decode(m *message, ev *flow.Event) error {
	if m.isFlow() {
		return m.decode(l.d, &ev.Flow)
	}
	ev.Flow, ev.Expect = flow.Flow{}, new(flow.Expect)
	return m.decodeExpect(l.d, ev.Expect)
}
