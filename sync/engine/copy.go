package engine

import (
	"context"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/cache"
	"github.com/conntrack-sync/conntrack-sync/sync/ftfw"
	"github.com/conntrack-sync/conntrack-sync/sync/proof"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// copyOut is the full copy of the internal cache on its way to the peers.
type copyOut struct {
	running bool
	again   bool // asked for once more after it had begun
	cursor  cache.Ref
	sent    int
	native  bool // in our protocol: these buckets
	set     proof.Set
	ending  ending
}

// ending is a copy in our protocol of which everything has been sent: its end is
// said once everybody has reported what was sent, and what of it had to be sent
// again.
type ending struct {
	on     bool
	mark   uint32 // datagrams before this one must be reported
	resent uint64
	rounds int
}

// endRounds bounds how often what was sent again is waited for: a link that goes on
// losing must not keep a copy from ending.
const endRounds = 6

const (
	copySlice   = 256     // flows sent under one hold of the lock
	copyBacklog = 1 << 14 // unacknowledged messages at which the copy waits
	copyPause   = 2 * time.Millisecond
	// copyStall is how long the copy waits for acknowledgements before it goes
	// on without, a slice a pause.
	copyStall = time.Second
)

// startCopyOut begins a full copy, or notes that the running one is wanted
// once more. Before the internal cache is filled there is nothing to copy yet:
// the fill starts it.
func (e *Engine) startCopyOut() {
	c := &e.copyOut
	switch {
	case c.running && c.cursor == 0:
		return
	case c.running, !e.fill.done:
		c.again = true
		return
	}
	if e.own.on {
		e.own.wanted, e.own.wants = proof.All(), true // begun by the next tick
		return
	}
	*c = copyOut{running: true}
	e.spawn(e.life, "sending the full copy", e.copyLoop)
}

func (e *Engine) copyLoop(ctx context.Context) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	stalled := time.Time{}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-pause.C:
		}
		for e.copyStep(&stalled) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		if !e.copying() {
			return nil
		}
		pause.Reset(copyPause)
	}
}

func (e *Engine) copying() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.copyOut.running
}

// copyStep sends a slice behind the live updates; more says that the next may
// follow at once. stalled is when acknowledgements stopped coming.
func (e *Engine) copyStep(stalled *time.Time) (more bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now, c := e.now(), &e.copyOut
	if c.ending.on || !c.running {
		return false
	}
	waiting := e.session.Unacked() > copyBacklog || e.own.session.Held() > copyBacklog
	if !waiting {
		*stalled = time.Time{}
	} else {
		if stalled.IsZero() {
			*stalled = now
		}
		if now.Sub(*stalled) < copyStall {
			return false
		}
	}
	for range copySlice {
		r := e.internal.Next(c.cursor)
		if r == 0 {
			e.endCopy(now)
			return false
		}
		c.cursor = r
		if !c.wanted(e.internal, r) {
			continue
		}
		c.sent++
		if c.native {
			e.own.copied++
			e.queueWhole(r)
			continue
		}
		e.queueFlow(wire.CTUpd, r)
	}
	e.transmit(now)
	return !waiting
}

func (e *Engine) endCopy(now time.Time) {
	if c := &e.copyOut; c.native && e.own.on && !c.ending.on {
		e.copyExpects()
		e.transmit(now)
		c.ending = ending{on: true, mark: e.own.session.Next(), resent: e.own.session.Counters.Resent}
		return
	}
	if e.copyOut.native {
		e.log.Info("copy sent", "entries", e.copyOut.sent, "buckets", e.copyOut.set.Len())
		again := e.copyOut.again
		e.copyOut = copyOut{}
		if again {
			e.startCopyOut()
		}
		return
	}
	expects := e.copyExpects()
	e.transmit(now)
	e.log.Info("full copy sent", "entries", e.copyOut.sent, "expectations", expects)
	again := e.copyOut.again
	e.copyOut = copyOut{}
	if again {
		e.startCopyOut()
	}
}

// copyIn follows a full copy of the peer's table that was asked for. Protocol
// 1 has no end mark: the copy counts as complete when the peer acknowledged
// the request and for copyQuiet nothing known before was renewed by it. What
// was not renewed then is gone at the peer.
type copyIn struct {
	asked   bool
	reason  string
	acked   time.Time
	renewed time.Time // when it last brought something known
	some    bool      // it has
	lost    uint64    // messages lost when it was asked for
	tries   int
}

const (
	copyQuiet = 2 * time.Second
	copyTries = 3
)

// askForCopy requests the peer's table and begins a new generation of the
// external cache. The request goes with the next transmit.
func (e *Engine) askForCopy(reason string) {
	if e.own.on {
		e.askNative(e.now())
		return
	}
	e.external.NewGeneration()
	e.exp.external.NewGeneration()
	e.copyIn = copyIn{asked: true, reason: reason, lost: e.session.Counters.Lost, tries: e.copyIn.tries}
	e.out = append(e.out, ftfw.Out{Type: wire.Control, Flags: wire.FlagResync})
	e.log.Info("asking the peer for its table", "why", reason)
}

func (c *copyIn) heard(now time.Time) {
	if c.asked && c.acked.IsZero() {
		c.acked = now
	}
}

// watchCopy ends a copy that has become quiet: entries it did not renew are
// removed. A copy during which messages were lost, or that renewed nothing at
// all, is asked for again; when messages were lost each time the entries are
// kept.
func (e *Engine) watchCopy(now time.Time) {
	c := &e.copyIn
	if e.own.on || !c.asked || c.acked.IsZero() || !e.session.Alive(now) {
		return
	}
	if now.Sub(c.acked) < copyQuiet || now.Sub(c.renewed) < copyQuiet {
		return
	}
	lost := e.session.Counters.Lost != c.lost
	if c.tries++; c.tries < copyTries && (lost || !c.some && e.external.Len() > 0) {
		e.askForCopy("the last copy may not have been whole")
		return
	}
	if lost {
		e.log.Warn("full copy incomplete, entries it did not renew are kept", "tries", c.tries)
	} else if n := e.sweepExternal(); n > 0 {
		e.log.Info("full copy complete, entries the peer no longer has were removed", "entries", n)
	}
	e.copyIn = copyIn{}
}

func (e *Engine) sweepExternal() (n int) {
	for r := e.external.First(); r != 0; r = e.external.Next(r) {
		if e.external.Old(r) {
			k := e.external.Key(r)
			e.ended(r, &k)
			e.external.Delete(r)
			e.endedElsewhere(&k, true)
			e.injectFlow(k)
			n++
		}
	}
	n += e.sweepExpects(e.now())
	e.drops.swept += uint64(n)
	return n
}
