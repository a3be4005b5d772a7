package engine

import (
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// Versions of the sync link's protocol this release speaks.
const (
	protocolLow  = 1
	protocolHigh = 2
)

// peerKind is what is known of the software at the other end.
type peerKind struct {
	known   bool
	ours    bool
	release string
	// waiting: a copy of its table is wanted, if its kind is one that is asked.
	waiting bool
}

// String names the software.
func (p *peerKind) String() string {
	switch {
	case !p.known:
		return "unknown"
	case p.ours:
		return "conntrack-sync " + p.release
	}
	return "conntrackd"
}

// meet looks at who sent a control message: ours say so behind the header.
func (e *Engine) meet(m *wire.Message) {
	p := &e.kind
	_, high, release, ours := wire.ParseAdvert(m.Body)
	n := e.neighbour(e.now(), e.peer)
	same := n.known && n.ours == ours && n.release == string(release)
	n.known, n.ours, n.high, n.release = true, ours, high, string(release)
	p.known, p.ours, p.release = true, ours, string(release)
	if !same { // once a node, however many there are
		e.log.Info("the peer's software is known", "peer", e.peer, "software", p.String())
	}
	if p.waiting {
		p.waiting = false
		e.askAtStart()
	}
}

// askAtStart asks the peer for its table because this node has just started. A
// conntrackd is asked only where startup-resync says so, as conntrackd does it;
// between our own nodes a start converges by itself.
func (e *Engine) askAtStart() {
	switch {
	case !e.kind.known:
		e.kind.waiting = true
	case e.kind.ours || e.settings.StartupResync:
		e.askForCopy("this node has started")
	default:
		e.log.Info("the peer is not asked for its table: it is a conntrackd and startup-resync is not set")
	}
}
