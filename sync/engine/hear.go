package engine

import (
	"net/netip"
	"time"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/sync/native"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// onFrame takes a datagram of our protocol.
func (e *Engine) onFrame(now time.Time, from netip.Addr, f *wire.Frame) {
	o := &e.own
	n := e.neighbour(now, from)
	if !n.known || !n.ours {
		n.known, n.ours, n.high = true, true, protocolHigh
	}
	e.agree(now)
	if e.protocol() == conf.ProtocolConntrackd {
		return
	}
	p, verdict := o.session.Receive(now, f)
	if verdict == native.Drop {
		return
	}
	l := o.lives[p.ID]
	if verdict == native.Meet || l == nil {
		l = e.meetLife(now, from, p.ID)
	}
	if !e.noteEpoch(f.Epoch) {
		e.drops.payload++
		return
	}
	l.addr, l.role, l.epoch = from, f.Role, f.Epoch
	if f.Role == wire.RoleMaster && e.role != master && f.Epoch >= e.own.epoch {
		e.own.ceded = true
	}
	accept := e.accepts(now, p, l)
	if !p.Whole() && p.ID == o.followed {
		o.proof.gapAt = now
	}
	for b := f.Body; ; {
		n, rest, err := o.decode(b)
		if accept {
			e.prefetch(l, o.msgs[:n])
		}
		for i := range n {
			e.onNative(now, p, l, &o.msgs[i], accept)
		}
		switch {
		case err != nil:
			e.drops.payload++
			return
		case rest == nil:
			return
		}
		b = rest
	}
}

// prefetched is how many messages are read before they are applied: what the processor
// fetches for them must not drive out what it has just fetched.
const prefetched = 32

// decode reads messages, as many as there is room for; rest is nil when there are no
// more, or after an error.
func (o *spoken) decode(b []byte) (n int, rest []byte, err error) {
	for n < len(o.msgs) {
		m := &o.msgs[n]
		if b, err = wire.NextNative(b, m); err != nil || m.Type == 0 {
			return n, nil, err
		}
		n++
	}
	return n, b, nil
}

// prefetch has the processor fetch what the messages are about.
func (e *Engine) prefetch(l *life, msgs []wire.Native) {
	for i := range msgs {
		switch m := &msgs[i]; m.Type {
		case wire.MsgFlow, wire.MsgEndKey:
			k := m.Flow.Key()
			e.external.PrefetchKey(&k)
		case wire.MsgUpdate, wire.MsgEnd:
			e.external.Prefetch(l.ref(m.Handle))
		}
	}
	for i := range msgs {
		if m := &msgs[i]; m.Type == wire.MsgEnd {
			e.external.PrefetchDelete(l.ref(m.Handle))
		}
	}
}

// meetLife takes note of a node that has begun a life; an earlier one at the same
// address has ended.
func (e *Engine) meetLife(now time.Time, from netip.Addr, id uint64) *life {
	o := &e.own
	for old, l := range o.lives {
		if l.addr == from && old != id {
			o.session.Forget(now, old)
			delete(o.lives, old)
		}
	}
	l := &life{addr: from}
	o.lives[id] = l
	o.beatSoon = true
	o.proof.gapAt = time.Time{}
	e.log.Info("a node is met on the link", "peer", from)
	return l
}

// onNative takes one message.
func (e *Engine) onNative(now time.Time, p *native.Peer, l *life, m *wire.Native, accept bool) {
	o := &e.own
	switch m.Type {
	case wire.MsgFlow, wire.MsgUpdate, wire.MsgEnd, wire.MsgEndKey, wire.MsgExpect, wire.MsgExpectEnd:
		switch {
		case accept:
			e.onData(now, l, m)
		case l.epoch < o.maxEpoch:
			o.stale++
		default:
			o.foreign++
		}
	case wire.MsgReport:
		if r, ok := wire.ParseReport(m.Body); ok && r.To == o.session.ID {
			for _, it := range o.session.Reported(now, p, &r) {
				e.resendNative(&it)
			}
		}
	case wire.MsgBeat:
		if b, ok := wire.ParseBeat(m.Body); ok && e.noteEpoch(b.MaxEpoch) {
			if b.InSync && (!l.beat.InSync || b.Proven != l.beat.Proven) {
				l.proven = now
			}
			l.beat = b
			n := e.neighbour(now, l.addr)
			n.high, n.release = b.High, b.Release
		}
	case wire.MsgQuestion:
		if q, ok := wire.ParseQuestion(m.Body); ok {
			e.onQuestion(now, p.ID, &q)
		}
	case wire.MsgAnswer:
		if a, ok := wire.ParseAnswer(m.Body); ok {
			e.onAnswer(p.ID, &a)
		}
	case wire.MsgRoutes:
		if words, ok := wire.ParseRoutes(m.Body); ok {
			l.routes = words
		}
	default:
		e.onProof(now, p, m, accept && e.role != master)
	}
}
