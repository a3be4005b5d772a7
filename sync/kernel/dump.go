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

// Dump reads the whole table, both families, and hands it over in batches; the
// slice is reused. Entries that come or go meanwhile may be missing or there.
func (c *Conn) Dump(ctx context.Context, fn func([]flow.Flow) error) error {
	nl, err := dial()
	if err != nil {
		return err
	}
	defer nl.Close()
	defer interrupt(ctx, nl)()
	_, err = nl.Send(netlink.Message{
		Header: netlink.Header{Type: subsystem<<8 | msgGet, Flags: netlink.Request | netlink.Dump},
		Data:   []byte{unix.AF_UNSPEC, 0, 0, 0},
	})
	if err != nil {
		return fmt.Errorf("ask for the conntrack table: %w", err)
	}
	r, err := newReader(nl, 1, dumpSize)
	if err != nil {
		return err
	}
	d := dumper{r: r, d: newDecoder(), batch: make([]flow.Flow, 0, dumpBatch), fn: fn}
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

type dumper struct {
	r     *reader
	d     *decoder
	batch []flow.Flow
	fn    func([]flow.Flow) error
}

func (d *dumper) read() (done bool, err error) {
	n, err := d.r.read(false)
	if err != nil || n == 0 {
		return false, err
	}
	b, cut := d.r.datagram(0)
	if cut {
		return false, errors.New("an answer is larger than the reader's buffer")
	}
	for {
		m, rest, ok := nextMessage(b)
		if !ok {
			return false, nil
		}
		b = rest
		switch {
		case m.typ == unix.NLMSG_DONE:
			return true, nil
		case m.typ == unix.NLMSG_ERROR:
			return false, m.failure()
		case m.isFlow():
			if err := d.add(&m); err != nil {
				return false, err
			}
		}
	}
}

func (d *dumper) add(m *message) error {
	if len(d.batch) == cap(d.batch) {
		if err := d.flush(); err != nil {
			return err
		}
	}
	d.batch = d.batch[:len(d.batch)+1]
	return m.decode(d.d, &d.batch[len(d.batch)-1])
}

func (d *dumper) flush() error {
	if len(d.batch) == 0 {
		return nil
	}
	err := d.fn(d.batch)
	d.batch = d.batch[:0]
	return err
}
