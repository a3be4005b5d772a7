package engine

import (
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/native"
	"github.com/conntrack-sync/conntrack-sync/sync/proof"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// An epoch is a reign. Flows of an older one than the newest known do not count,
// so that nothing said late overwrites what is newer. A MASTER that learns of a
// reign not older than its own, which nobody continues, takes a newer one: it
// started without having heard anybody, or another was MASTER for a moment.

// epochsAway is how far above the highest epoch known one is not believed.
const epochsAway = 1 << 24

// noteEpoch keeps the highest epoch; believed is false for one that cannot be.
func (e *Engine) noteEpoch(epoch uint32) (believed bool) {
	o := &e.own
	if epoch > o.maxEpoch && epoch-o.maxEpoch >= epochsAway {
		return false
	}
	o.maxEpoch = max(o.maxEpoch, epoch)
	return true
}

// openEpoch begins this node's reign. Until the sequence of a take-over has
// filled the internal cache, that is not what the others are to hold.
func (e *Engine) openEpoch(now time.Time) {
	o := &e.own
	o.legacy, o.opened = o.followed, time.Time{}
	o.proof.inSync = false
	if e.external.Len() > 0 {
		o.opened = now
	}
	e.nextEpoch(now)
	e.log.Info("a new epoch", "epoch", o.epoch)
}

func (e *Engine) nextEpoch(now time.Time) {
	o := &e.own
	o.maxEpoch++
	o.epoch, o.ceded = o.maxEpoch, false
	o.beatSoon = true
}

// endReign forgets what belongs to this node's reign. Whatever was proven was of an
// earlier one.
func (o *spoken) endReign() {
	o.legacy, o.opened = 0, time.Time{}
	o.wants, o.wanted = false, proof.Set{}
	o.proof.inSync, o.proof.epoch = false, 0
}

// openingMax bounds how long the end of a take-over's sequence is waited for.
const openingMax = 30 * time.Second

// opening reports whether the take-over's sequence is not through yet.
func (e *Engine) opening(now time.Time) bool {
	return !e.own.opened.IsZero() && now.Sub(e.own.opened) < openingMax
}

// endOpening says that the internal cache is what the others are to hold.
func (e *Engine) endOpening() {
	if !e.own.opened.IsZero() {
		e.own.opened, e.own.beatSoon = time.Time{}, true
	}
}

// claimEpoch takes a newer epoch where another reign than this node's is the
// newest and nobody continues it.
func (e *Engine) claimEpoch(now time.Time) {
	o := &e.own
	if e.role != master || e.rival(now) {
		return
	}
	newer := o.maxEpoch > o.epoch
	for _, l := range o.lives {
		newer = newer || l.epoch == o.epoch
	}
	if newer {
		e.nextEpoch(now)
		e.log.Info("a new epoch: a node knows of another reign, and nobody continues that", "epoch", o.epoch)
	}
}

// rival reports whether another node that is heard says it is MASTER, of a reign
// that is not older than this node's.
func (e *Engine) rival(now time.Time) bool {
	for id, l := range e.own.lives {
		p := e.own.session.Peer(id)
		if l.role == wire.RoleMaster && l.epoch >= e.own.epoch && p != nil && p.Alive(now) {
			return true
		}
	}
	return false
}

// accepts reports whether a node's flows count: those of the followed node, where
// this one is not MASTER itself. A new MASTER hears the one before it to the end
// of its own take-over: what was said before it may still be on its way.
func (e *Engine) accepts(now time.Time, p *native.Peer, l *life) bool {
	o := &e.own
	if e.role == master {
		return p.ID == o.legacy && l.epoch+1 == o.epoch
	}
	if l.epoch < o.maxEpoch {
		return false
	}
	e.follow(now, p.ID)
	return o.followed == p.ID
}

// follow makes a life the one whose table this node holds. A MASTER is preferred;
// between others the one that is followed stays while it lives.
func (e *Engine) follow(now time.Time, id uint64) {
	o := &e.own
	if o.followed == id {
		return
	}
	if cur := o.session.Peer(o.followed); cur != nil && cur.Alive(now) {
		was, is := o.lives[o.followed], o.lives[id]
		if was != nil && was.epoch >= is.epoch && (was.role == wire.RoleMaster || is.role != wire.RoleMaster) {
			return
		}
	}
	o.followed = id
	o.proof = proven{found: o.proof.found, repairs: o.proof.repairs}
	o.incoming = incomingCopy{}
}

// speaks reports whether this node's flows are told to the others. One that is
// not MASTER does while its own reign is the newest known and nobody else
// continues it, or has since it ended: two reigns may bear one number.
func (e *Engine) speaks() bool {
	switch e.role {
	case "", master:
		return true
	}
	return e.own.epoch >= e.own.maxEpoch && !e.own.ceded && !e.rival(e.now())
}
