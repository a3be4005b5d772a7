package engine

import (
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// noteEpoch keeps the highest epoch. A MASTER that chose its own without knowing
// of another takes the next one.
func (e *Engine) noteEpoch(now time.Time, f *wire.Frame) {
	o := &e.own
	o.maxEpoch = max(o.maxEpoch, f.Epoch)
	if e.role == master && !o.firm && f.Epoch >= o.epoch {
		o.epoch = o.maxEpoch + 1
		o.maxEpoch = o.epoch
	}
}

// settleEpoch makes an epoch that was chosen without knowing of another's the
// highest: a beat says which a node knows.
func (e *Engine) settleEpoch(known uint32) {
	o := &e.own
	if e.role != master || o.firm {
		return
	}
	o.firm = true
	if known > o.epoch {
		o.epoch = known + 1
		o.maxEpoch = max(o.maxEpoch, o.epoch)
		e.log.Info("a new epoch: a node knows of an earlier reign", "epoch", o.epoch)
	}
}

// openEpoch begins this node's reign.
func (e *Engine) openEpoch(now time.Time) {
	o := &e.own
	o.epoch = o.maxEpoch + 1
	o.maxEpoch = o.epoch
	o.firm = e.alive(now)
	o.beatSoon = true
	e.log.Info("a new epoch", "epoch", o.epoch)
}

// accepts reports whether a node's flows count: those of an older reign than the
// last one known do not.
func (e *Engine) accepts(f *wire.Frame) bool { return f.Epoch >= e.own.maxEpoch }

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

// speaks reports whether this node's flows are told to the others: not while a
// newer reign than its own is known.
func (e *Engine) speaks() bool {
	return e.own.epoch >= e.own.maxEpoch || e.role == "" || e.role == master
}
