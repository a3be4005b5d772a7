package engine

import (
	"net/netip"
	"slices"
	"time"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/sync/ftfw"
	"github.com/conntrack-sync/conntrack-sync/sync/native"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// neighbour is an address on the link and what its software speaks.
type neighbour struct {
	heard   time.Time
	known   bool // its software is
	ours    bool
	high    uint8 // highest protocol it speaks
	release string
}

func (e *Engine) protocol() string {
	if e.settings == nil {
		return conf.ProtocolAuto
	}
	return e.settings.Interfaces[0].Protocol
}

// makeAdvert says what this node speaks.
func (e *Engine) makeAdvert() wire.Advert {
	a := wire.Advert{Low: protocolLow, High: protocolHigh, Release: e.opt.Release}
	if e.protocol() == conf.ProtocolConntrackd {
		a.High = protocolLow
	}
	return a
}

// neighbour notes that an address was heard.
func (e *Engine) neighbour(now time.Time, a netip.Addr) *neighbour {
	n := e.own.nodes[a]
	if n == nil {
		n = &neighbour{}
		e.own.nodes[a] = n
	}
	n.heard = now
	return n
}

// agree decides which protocol is spoken: ours where every node that is heard
// speaks it, conntrackd's as soon as one does not. Where nobody is heard it stays
// as it is.
func (e *Engine) agree(now time.Time) {
	on := e.own.on
	switch e.protocol() {
	case conf.ProtocolConntrackd:
		on = false
	case conf.ProtocolNative:
		on = true
	default:
		some, all := false, true
		for _, n := range e.own.nodes {
			if !n.known || now.Sub(n.heard) > native.DeadAfter {
				continue
			}
			some = true
			all = all && n.ours && n.high >= protocolHigh
		}
		if some {
			on = all
		}
	}
	if on == e.own.on {
		return
	}
	e.own.on = on
	if on {
		e.log.Info("every node on the link speaks our protocol: it is spoken from now on")
		e.copyIn = copyIn{}
		e.own.beatSoon = true
		e.session.TakeUnacked(func(it ftfw.Item) { e.resend(&it) })
		return
	}
	e.log.Info("a node on the link does not speak our protocol: conntrackd's is spoken from now on")
	if e.copyOut.native {
		e.copyOut = copyOut{} // nobody is left to end it for
	}
	counters := e.session.Counters
	e.session = ftfw.New(e.random())
	e.session.Counters = counters
	e.own.session.TakeHeld(func(it native.Item) { e.resendNative(&it) })
}

// alive reports whether any peer is heard.
func (e *Engine) alive(now time.Time) bool {
	if !e.own.on {
		return e.session.Alive(now)
	}
	return slices.ContainsFunc(e.own.session.Peers(), func(p *native.Peer) bool { return p.Alive(now) })
}
