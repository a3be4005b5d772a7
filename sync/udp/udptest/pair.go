// Package udptest is a sync link in memory: two ends without sockets, between
// which datagrams are lost, repeated and overtaken as a test wishes.
package udptest

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// Faults are what happens to datagrams in one direction; probabilities from 0
// to 1.
type Faults struct {
	Drop, Duplicate, Reorder float64
}

// Link is one end. It fits the engine's Link.
type Link struct {
	addr netip.AddrPort
	peer *Link

	mu     sync.Mutex
	rng    *rand.Rand
	faults Faults
	cut    bool
	queue  [][]byte
	held   []byte // overtaken by the next
	wake   chan struct{}
	closed chan struct{}
	once   sync.Once
	stats  stats.Channel
}

// Pair makes two ends joined by a link with these faults in both directions.
func Pair(seed uint64, f Faults) (a, b *Link) {
	a, b = end(1, seed, f), end(2, seed+1, f)
	a.peer, b.peer = b, a
	return a, b
}

func end(n byte, seed uint64, f Faults) *Link {
	return &Link{addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, n}), 3780), faults: f,
		rng: rand.New(rand.NewPCG(seed, 1)), wake: make(chan struct{}, 1), closed: make(chan struct{}),
		stats: stats.Channel{Type: "multicast", Device: "test"}}
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

// Send delivers to the other end what the faults leave of it.
func (l *Link) Send(batch [][]byte) error {
	l.mu.Lock()
	var out [][]byte
	for _, d := range batch {
		l.stats.PacketsSent++
		l.stats.BytesSent += uint64(len(d))
		if l.cut || l.rng.Float64() < l.faults.Drop {
			continue
		}
		d = bytes.Clone(d)
		if l.held == nil && l.rng.Float64() < l.faults.Reorder {
			l.held = d
			continue
		}
		out = append(out, d)
		if l.rng.Float64() < l.faults.Duplicate {
			out = append(out, d)
		}
		if l.held != nil {
			out, l.held = append(out, l.held), nil
		}
	}
	peer := l.peer
	l.mu.Unlock()
	peer.take(out)
	return nil
}

func (l *Link) take(batch [][]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range batch {
		l.stats.PacketsRecv++
		l.stats.BytesRecv += uint64(len(d))
	}
	l.queue = append(l.queue, batch...)
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Receive hands over what arrives until ctx ends or the end is closed.
func (l *Link) Receive(ctx context.Context, fn func([][]byte, []netip.AddrPort)) error {
	for {
		l.mu.Lock()
		batch, src := l.queue, l.peer.addr
		l.queue = nil
		l.mu.Unlock()
		if len(batch) > 0 {
			from := make([]netip.AddrPort, len(batch))
			for i := range from {
				from[i] = src
			}
			fn(batch, from)
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

// Join makes two ends of different pairs the ends of one link, as when a node
// is replaced.
func Join(a, b *Link) {
	for _, l := range []*Link{a, b} {
		l.mu.Lock()
		defer l.mu.Unlock()
	}
	a.peer, b.peer = b, a
}
