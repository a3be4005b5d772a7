package engine

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/native"
	"github.com/conntrack-sync/conntrack-sync/sync/proof"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

const (
	beatEvery = time.Second
	// tailProbe is how soon after the last flow a beat is sent where no report has
	// come, so that the loss of the last datagram is noticed.
	tailProbe = 50 * time.Millisecond
	// probeEvery is how often a report is asked for while flows are sent. What is
	// missing is reported without being asked.
	probeEvery = 200 * time.Millisecond
	copyProbe  = 50 * time.Millisecond
	// solicit is how long something may be unreported before a report is asked
	// for: the one that was sent may be lost.
	solicit = 250 * time.Millisecond
	// calm is how long no datagram may have been missing before a difference is
	// believed: what is on its way again needs no repair.
	calm     = 450 * time.Millisecond
	patience = 3 // comparisons that fail in a row
	// hurry is how often the digest is sent while somebody is known to differ.
	hurry      = 250 * time.Millisecond
	foundLimit = 1000
)

// beat says that this node is there, what it speaks and whether its view was
// proven; it goes out every second, and soon after the last flow of a row.
func (e *Engine) beat(now time.Time) {
	o := &e.own
	due := now.Sub(o.proved) >= beatEvery || now.Sub(o.proved) >= hurry && e.somebodyDiffers(now)
	held := o.session.Held() > 0
	unreported := held && now.Sub(o.probed) >= solicit
	tail := held && !o.sentAt.IsZero() && now.Sub(o.sentAt) >= tailProbe
	if !due && !unreported && !tail && !o.beatSoon {
		return
	}
	o.solicit = held
	x := wire.Beat{Advert: e.makeAdvert(), MaxEpoch: o.maxEpoch, Follows: o.followed, InSync: o.proof.fresh(now),
		Differing: uint16(o.proof.differing), Proven: o.proof.number, Entries: uint32(e.external.Len())}
	o.buf = wire.AppendBeat(o.buf[:0], &x)
	e.frameSized(now, wire.MsgBeat, o.buf)
	e.frameRoutes(now)
	if due || o.beatSoon {
		e.frameReports(now, true)
		e.frameDigest(now)
		o.beatSoon, o.proved = false, now
	}
	if tail {
		o.sentAt = time.Time{}
	}
	e.closeFrame(now)
	e.sendFrames(now)
}

// somebodyDiffers reports whether a peer says that its view of our table is not
// equal to it.
func (e *Engine) somebodyDiffers(now time.Time) bool {
	o := &e.own
	return slices.ContainsFunc(o.session.Peers(), func(p *native.Peer) bool {
		l := o.lives[p.ID]
		return l != nil && p.Alive(now) && l.beat.Follows == o.session.ID && !l.beat.InSync
	})
}

// everybodyHolds reports whether every peer that is heard says that it holds our
// table, that of this reign.
func (e *Engine) everybodyHolds(now time.Time) bool {
	o := &e.own
	return !slices.ContainsFunc(o.session.Peers(), func(p *native.Peer) bool {
		l := o.lives[p.ID]
		return p.Alive(now) && (l == nil || l.beat.Follows != o.session.ID || !l.beat.InSync || l.beat.MaxEpoch < o.epoch)
	})
}

// tickNative does what time makes necessary.
func (e *Engine) tickNative(now time.Time) {
	o := &e.own
	o.session.Tick(now)
	for id := range o.lives {
		if o.session.Peer(id) == nil {
			delete(o.lives, id)
		}
	}
	maps.DeleteFunc(o.nodes, func(_ netip.Addr, n *neighbour) bool { return now.Sub(n.heard) > native.ForgetAfter })
	e.claimEpoch(now)
	if !e.provable() {
		e.abandonCopy()
	} else if o.wants && !e.copyOut.running {
		o.wants = false
		e.startBuckets(o.wanted)
		o.wanted = proof.Set{}
	}
	e.watchEnding(now)
	e.beat(now)
}
