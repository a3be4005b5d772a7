package kernel

import (
	"context"
	"errors"
	"fmt"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	dumpSize  = 64 << 10 // the kernel fills at most 32 KiB a read
	dumpBatch = 512
)

// Dump is the function Dump.
func (c *Conn) Dump(ctx context.Context, fn func([]flow.Flow) error) error { return Dump(ctx, fn) }

// Dump reads the whole table, both families, and hands it over in batches; the
// slice is reused. Entries that come or go meanwhile may be missing or there. It
// needs no Conn: an event socket that nobody reads would make the kernel keep
// flows that ended.
func Dump(ctx context.Context, fn func([]flow.Flow) error) error {
	return dumpTable(ctx, subsystem, nil, (*message).isFlow, (*message).decode, fn)
}

// DumpUnreplied is Dump for the flows that have seen no packet in reply. A kernel
// before 5.18 knows no filter by status and hands over all.
func (c *Conn) DumpUnreplied(ctx context.Context, fn func([]flow.Flow) error) error {
	var enc encoder
	enc.u32(ctaStatus, 0)
	enc.u32(ctaStatusMask, flow.StatusSeenReply)
	return dumpTable(ctx, subsystem, enc.buf, (*message).isFlow, (*message).decode, fn)
}

// DumpExpects is Dump for the table of expectations.
func (c *Conn) DumpExpects(ctx context.Context, fn func([]flow.Expect) error) error {
	return dumpTable(ctx, subsystemExpect, nil, (*message).isExpect, (*message).decodeExpect, fn)
}

// dumpTable reads what of a subsystem's table passes the filter, which is attributes;
// what is wanted of the answers is decoded into entries.
func dumpTable[T any](ctx context.Context, sub uint16, filter []byte, wanted func(*message) bool,
	decode func(*message, *decoder, *T) error, fn func([]T) error) error {
	nl, err := dial()
	if err != nil {
		return err
	}
	defer nl.Close()
	defer interrupt(ctx, nl)()
	_, err = nl.Send(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(sub<<8 | msgGet), Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{unix.AF_UNSPEC, 0, 0, 0}, filter...),
	})
	if err != nil {
		return fmt.Errorf("ask for the conntrack table: %w", err)
	}
	r, err := newReader(nl, 1, dumpSize)
	if err != nil {
		return err
	}
	d := dumper[T]{r: r, d: new(decoder), wanted: wanted, decode: decode, batch: make([]T, 0, dumpBatch), fn: fn}
	for {
		done, err := d.read()
		if err != nil {
			return cause(ctx, fmt.Errorf("read the conntrack table: %w", err))
		}
		if done {
			return d.flush()
		}
	}
}

type dumper[T any] struct {
	r      *reader
	d      *decoder
	wanted func(*message) bool
	decode func(*message, *decoder, *T) error
	m      message // here, so that handing it to a function allocates nothing
	batch  []T
	fn     func([]T) error
}

func (d *dumper[T]) read() (done bool, err error) {
	n, err := d.r.read(false)
	if err != nil || n == 0 {
		return false, err
	}
	b, cut := d.r.datagram(0)
	if cut {
		return false, errors.New("an answer is larger than the reader's buffer")
	}
	for {
		var ok bool
		if d.m, b, ok = nextMessage(b); !ok {
			return false, nil
		}
		switch {
		case d.m.typ == unix.NLMSG_DONE:
			return true, nil
		case d.m.typ == unix.NLMSG_ERROR:
			return false, d.m.failure()
		case d.wanted(&d.m):
			if err := d.add(); err != nil {
				return false, err
			}
		}
	}
}

func (d *dumper[T]) add() error {
	if len(d.batch) == cap(d.batch) {
		if err := d.flush(); err != nil {
			return err
		}
	}
	d.batch = d.batch[:len(d.batch)+1]
	return d.decode(&d.m, d.d, &d.batch[len(d.batch)-1])
}

func (d *dumper[T]) flush() error {
	if len(d.batch) == 0 {
		return nil
	}
	err := d.fn(d.batch)
	d.batch = d.batch[:0]
	return err
}
