// Package udptest is a sync link in memory: two ends or more without sockets,
// between which datagrams are lost, repeated and overtaken as a test wishes.
package udptest

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// Faults are what happens to datagrams on their way to each receiver;
// probabilities from 0 to 1.
type Faults struct {
	Drop, Duplicate, Reorder float64
}

// Link is one end. It fits the engine's Link.
type Link struct {
	addr netip.AddrPort

	recvMu sync.Mutex // held while something is handed over
	fn     func([][]byte, []netip.AddrPort)
	hold   atomic.Bool

	mu     sync.Mutex
	others []*Link
	rng    *rand.Rand
	faults Faults
	cut    bool
	held   map[*Link][]byte // overtaken by the next
	batch  [][]byte
	from   []netip.AddrPort
	wake   chan struct{}
	closed chan struct{}
	once   sync.Once
	stats  stats.Channel
}

// Pair makes two ends joined by a link with these faults in both directions.
func Pair(seed uint64, f Faults) (a, b *Link) {
	ends := Group(2, seed, f)
	return ends[0], ends[1]
}

// Group makes the ends of a link of n nodes.
func Group(n int, seed uint64, f Faults) (ends []*Link) {
	for i := range n {
		ends = append(ends, end(byte(i+1), seed+uint64(i), f))
	}
	Join(ends...)
	return ends
}

func end(n byte, seed uint64, f Faults) *Link {
	return &Link{addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, n}), 3780), faults: f, held: map[*Link][]byte{},
		rng: rand.New(rand.NewPCG(seed, 1)), wake: make(chan struct{}, 1), closed: make(chan struct{}),
		stats: stats.Channel{Type: "multicast", Device: "test"}}
}

// Join makes ends the ends of one link, as when a node is replaced.
func Join(ends ...*Link) {
	for _, l := range ends {
		l.mu.Lock()
		l.others = nil
		for _, o := range ends {
			if o != l {
				l.others = append(l.others, o)
			}
		}
		l.mu.Unlock()
	}
}

// SetFaults changes what happens to datagrams this end sends.
func (l *Link) SetFaults(f Faults) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = f
}

// Cut loses everything this end sends, or stops doing so.
func (l *Link) Cut(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = on
}

// Send delivers to the other ends what the faults leave of it.
func (l *Link) Send(batch [][]byte) error {
	l.mu.Lock()
	out := map[*Link][][]byte{}
	for _, d := range batch {
		l.stats.PacketsSent++
		l.stats.BytesSent += uint64(len(d))
		if l.cut {
			continue
		}
		d = bytes.Clone(d)
		for _, to := range l.others {
			out[to] = append(out[to], l.fate(to, d)...)
		}
	}
	l.mu.Unlock()
	for to, ds := range out {
		to.take(ds, l.addr)
	}
	return nil
}

// fate is what arrives in the place of a datagram.
func (l *Link) fate(to *Link, d []byte) (out [][]byte) {
	if l.rng.Float64() < l.faults.Drop {
		return nil
	}
	if l.held[to] == nil && l.rng.Float64() < l.faults.Reorder {
		l.held[to] = d
		return nil
	}
	out = append(out, d)
	if l.rng.Float64() < l.faults.Duplicate {
		out = append(out, d)
	}
	if h := l.held[to]; h != nil {
		out = append(out, h)
		delete(l.held, to)
	}
	return out
}

func (l *Link) take(batch [][]byte, from netip.AddrPort) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range batch {
		l.stats.PacketsRecv++
		l.stats.BytesRecv += uint64(len(d))
		l.batch, l.from = append(l.batch, d), append(l.from, from)
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Receive hands over what arrives until ctx ends or the end is closed.
func (l *Link) Receive(ctx context.Context, fn func([][]byte, []netip.AddrPort)) error {
	l.recvMu.Lock()
	l.fn = fn
	l.recvMu.Unlock()
	for {
		if !l.hold.Load() {
			l.Drain()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.closed:
			return errors.New("link closed")
		case <-l.wake:
		}
	}
}

// Hold leaves what arrives from now on to Drain.
func (l *Link) Hold() { l.hold.Store(true) }

// SetPrompt changes nothing: what comes is handed over.
func (l *Link) SetPrompt(bool) {}

// Drain hands over what has arrived.
func (l *Link) Drain() {
	l.recvMu.Lock()
	defer l.recvMu.Unlock()
	if l.fn == nil {
		return
	}
	l.mu.Lock()
	batch, from := l.batch, l.from
	l.batch, l.from = nil, nil
	l.mu.Unlock()
	if len(batch) > 0 {
		l.fn(batch, from)
	}
}

// MaxPayload is that of an Ethernet link.
func (l *Link) MaxPayload() int { return 1472 }

// Stats counts what was sent and received.
func (l *Link) Stats() stats.Channel {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats
}

// Links is the one interface there is.
func (l *Link) Links() []stats.Link {
	return []stats.Link{{Interface: "test", State: "up", Active: true, Channel: l.Stats()}}
}

// Close ends Receive.
func (l *Link) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}
