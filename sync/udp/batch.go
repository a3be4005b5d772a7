package udp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
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
		n := min(len(datagrams), len(c.msgs))
		for i := range n {
			c.msgs[i].Buffers[0] = datagrams[i]
		}
		k, err := c.out.WriteBatch(c.msgs[:n], 0)
		k = max(k, 0)
		for i := range k {
			c.count.bytesSent.Add(uint64(len(datagrams[i])))
		}
		c.count.packetsSent.Add(uint64(k))
		if err != nil && k == 0 {
			// The first of the rest is the one that failed; the others are
			// tried on their own.
			c.count.errorsSent.Add(1)
			k = 1
			if first == nil {
				first = fmt.Errorf("send to %s: %w", c.to, err)
			}
		}
		datagrams = datagrams[k:]
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
		r := newReceiver(c, s)
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
	in   batchConn
	msgs []ipv4.Message
	got  [][]byte
	from []netip.AddrPort
}

func newReceiver(c *Conn, s *net.UDPConn) *receiver {
	r := &receiver{c: c, msgs: make([]ipv4.Message, batch)}
	r.in = ipv4.NewPacketConn(s)
	if !c.target().Is4() {
		r.in = ipv6.NewPacketConn(s)
	}
	for i := range r.msgs {
		r.msgs[i].Buffers = [][]byte{make([]byte, datagram)}
	}
	return r
}

func (r *receiver) run(ctx context.Context, fn func([][]byte, []netip.AddrPort)) error {
	for {
		n, err := r.in.ReadBatch(r.msgs, 0)
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
			r.take(&r.msgs[i])
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

func (r *receiver) take(m *ipv4.Message) {
	ua, ok := m.Addr.(*net.UDPAddr)
	if !ok {
		return
	}
	from := ua.AddrPort()
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	r.c.count.packetsRecv.Add(1)
	r.c.count.bytesRecv.Add(uint64(m.N))
	if why, bad := r.c.refuse(from.Addr(), m.Flags&unix.MSG_TRUNC != 0); bad {
		r.c.count.refused[why].Add(1)
		return
	}
	r.got = append(r.got, m.Buffers[0][:m.N])
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
