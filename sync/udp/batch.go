package udp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// Send sends the datagrams in order. It waits at most 50 ms for room in the
// socket; what cannot be sent is counted, and the first error returned. One
// Send at a time.
func (c *Conn) Send(datagrams [][]byte) error {
	var first error
	if err := c.send.SetWriteDeadline(time.Now().Add(sendWait)); err != nil {
		return err
	}
	for len(datagrams) > 0 {
		c.pack(datagrams)
		k, err := c.out.write()
		sent := 0
		for _, m := range c.out.msgs[:k] {
			for _, d := range m {
				c.count.bytesSent.Add(uint64(len(d)))
			}
			sent += len(m)
		}
		c.count.packetsSent.Add(uint64(sent))
		if err != nil {
			if len(c.out.msgs[0]) > 1 && !errors.Is(err, os.ErrDeadlineExceeded) {
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

// Receive hands datagrams over until ctx ends or the link is closed. batch and
// from are reused after fn returns; fn is called from one goroutine at a time.
func (c *Conn) Receive(ctx context.Context, fn func(batch [][]byte, from []netip.AddrPort)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	errs := make([]error, len(c.recv))
	for i, s := range c.recv {
		r, err := newReceiver(c, s)
		if err != nil {
			return errors.Join(err, ctx.Err())
		}
		stop := context.AfterFunc(ctx, func() { _ = s.SetReadDeadline(time.Unix(1, 0)) })
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

// receiver reads one socket with buffers of its own.
type receiver struct {
	c    *Conn
	in   *incoming
	got  [][]byte
	from []netip.AddrPort
}

func newReceiver(c *Conn, s *net.UDPConn) (*receiver, error) {
	in, err := newIncoming(s, c.dev.Name)
	return &receiver{c: c, in: in}, err
}

func (r *receiver) run(ctx context.Context, fn func([][]byte, []netip.AddrPort)) error {
	for {
		n, err := r.in.read()
		switch {
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return ctx.Err()
		case err != nil:
			r.c.count.errorsRecv.Add(1)
			if !pause(ctx) {
				return ctx.Err()
			}
			continue
		}
		r.got, r.from = r.got[:0], r.from[:0]
		for i := range n {
			r.take(r.in.datagram(i))
		}
		if len(r.got) > 0 {
			fn(r.got, r.from)
		}
	}
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
