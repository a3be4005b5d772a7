package udp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/gather"
)

// Send sends the datagrams in order. It waits once, at most 50 ms, for room in
// the socket; what cannot be sent is counted, and the first error returned. One Send at
// a time.
func (c *Conn) Send(datagrams [][]byte) error {
	var first error
	for len(datagrams) > 0 {
		c.pack(datagrams)
		k, err := c.out.write(!errors.Is(first, errFull))
		sent := 0
		for _, m := range c.out.msgs[:k] {
			for _, d := range m {
				c.count.bytesSent.Add(uint64(len(d)))
			}
			sent += len(m)
		}
		c.count.packetsSent.Add(uint64(sent))
		if err != nil {
			if len(c.out.msgs[0]) > 1 && !errors.Is(err, errFull) {
				c.noTrains = true // perhaps this kernel or device cannot
				continue
			}
			// The first of the rest is what failed; the others are tried on
			// their own.
			sent = len(c.out.msgs[0])
			c.count.errorsSent.Add(uint64(sent))
			if first == nil {
				first = fmt.Errorf("send to %s: %w", c.to, err)
			}
		}
		datagrams = datagrams[sent:]
	}
	return first
}

// Receive hands datagrams over until ctx ends or the link is closed. Under load they
// are left to gather for up to 2 ms, unless the link is prompt. batch and from are
// reused after fn returns; fn is called from one goroutine at a time. Call it once.
func (c *Conn) Receive(ctx context.Context, fn func(batch [][]byte, from []netip.AddrPort)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	errs := make([]error, len(c.recv))
	for i, r := range c.recv {
		stop := context.AfterFunc(ctx, func() { _ = r.gate.SetReadDeadline(time.Unix(1, 0)) })
		wg.Go(func() {
			defer cancel()
			defer stop()
			errs[i] = r.run(ctx, func(b [][]byte, f []netip.AddrPort) {
				mu.Lock()
				defer mu.Unlock()
				fn(b, f)
			})
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Drain returns when everything that had arrived was handed over.
func (c *Conn) Drain() {
	for _, r := range c.recv {
		_ = r.drain() // the receiver will come upon the same error
	}
}

// linkPace: a wake-up costs more than the datagrams it finds. Our own protocol sends
// what has gathered already, some datagrams at a time, which are read when they come up
// to 60,000 flows a second; conntrackd sends as many for a fourth of them.
var linkPace = gather.Pace{Busy: 2000, Enough: 4, Least: time.Millisecond, Most: 2 * time.Millisecond}

// receiver reads one socket with buffers of its own.
type receiver struct {
	c    *Conn
	f    *os.File
	gate *gather.Gate
	pace gather.Pace // of the receiving goroutine alone
	gone atomic.Bool // it was closed

	mu   sync.Mutex // held while something is read and handed over
	fn   func([][]byte, []netip.AddrPort)
	in   *incoming
	got  [][]byte
	from []netip.AddrPort
	n    int // datagrams read since the pace was told
}

// newReceiver makes one that owns f.
func newReceiver(c *Conn, f *os.File) (r *receiver, err error) {
	r = &receiver{c: c, f: f, pace: linkPace}
	if r.in, err = newIncoming(f, c.dev.Name); err != nil {
		return nil, err
	}
	if r.gate, err = gather.Open(r.in.raw); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *receiver) close() error {
	r.gone.Store(true)
	return errors.Join(r.gate.Close(), r.f.Close())
}

func (r *receiver) run(ctx context.Context, fn func([][]byte, []netip.AddrPort)) error {
	r.mu.Lock()
	r.fn = fn
	r.mu.Unlock()
	for {
		err := r.wait()
		if err == nil {
			err = r.drain()
		}
		switch {
		case ctx.Err() != nil || r.gone.Load():
			return ctx.Err()
		case err != nil:
			r.c.count.errorsRecv.Add(1)
			if !pause(ctx) {
				return ctx.Err()
			}
		}
	}
}

// wait returns when it is time to read.
func (r *receiver) wait() error {
	r.mu.Lock()
	n := r.n
	r.n = 0
	r.mu.Unlock()
	r.pace.Took(time.Now(), n, n)
	if d := r.pace.Gather(); d > 0 && !r.c.prompt() {
		return r.gate.Sleep(d)
	}
	return r.gate.Wait()
}

// drainMost is how many batches one drain takes: a flood must not hold up who waits
// for it.
const drainMost = 4096

// drain hands over everything that has arrived.
func (r *receiver) drain() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fn == nil {
		return nil
	}
	for range drainMost {
		n, err := r.in.read()
		if err != nil {
			return err
		}
		r.n += n
		r.got, r.from = r.got[:0], r.from[:0]
		for i := range n {
			r.take(r.in.datagram(i))
		}
		if len(r.got) > 0 {
			r.fn(r.got, r.from)
		}
		if n < batch {
			break
		}
	}
	return nil
}

// pause keeps a link whose reads fail, its interface gone perhaps, from
// turning into a busy loop.
func pause(ctx context.Context) bool {
	t := time.NewTimer(100 * time.Millisecond)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (r *receiver) take(b []byte, from netip.AddrPort, cut bool) {
	r.c.count.packetsRecv.Add(1)
	r.c.count.bytesRecv.Add(uint64(len(b)))
	if why, bad := r.c.refuse(from.Addr(), cut); bad {
		r.c.count.refused[why].Add(1)
		return
	}
	r.got = append(r.got, b)
	r.from = append(r.from, from)
}

// refuse judges a datagram by its source.
func (c *Conn) refuse(from netip.Addr, cut bool) (why refusal, bad bool) {
	if cut {
		return tooLarge, true
	}
	plain := from.WithZone("")
	for _, p := range c.local {
		if p.Addr() == plain {
			return ownDatagram, true
		}
	}
	if !c.multicast() {
		return foreignSource, plain != c.cfg.Peer
	}
	if plain.IsLinkLocalUnicast() {
		return 0, false
	}
	for _, p := range c.local {
		if p.Contains(plain) {
			return 0, false
		}
	}
	return foreignSource, true
}
