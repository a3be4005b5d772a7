package engine

import (
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/cache"
	"github.com/conntrack-sync/conntrack-sync/sync/native"
	"github.com/conntrack-sync/conntrack-sync/sync/proof"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// Proof runs from the MASTER to the others: once a second it names the digest of
// its internal cache, behind everything it has sent. Whoever holds another one at
// that very place in the row of datagrams asks for the sums of the buckets, then
// for the flows of those that differ. What a copy of a bucket does not bring is
// removed. A full copy is a copy of all buckets.

// provable reports whether the internal cache is what the others are to hold: not
// before it was read from the kernel, after the start, a take-over or a flush. A
// comparison with the kernel tells of each change and is no obstacle.
func (e *Engine) provable() bool {
	return e.fill.done && e.flushed == nil && !e.opening(e.now()) && e.speaks()
}

// frameDigest writes the digest of everything. Nothing may be queued.
func (e *Engine) frameDigest(now time.Time) {
	if !e.provable() || len(e.out) > 0 || e.role != master && e.role != "" {
		return
	}
	o := &e.own
	o.buf = wire.AppendDigest(o.buf[:0], uint32(e.internal.Len()), e.internal.Digest().Groups())
	e.frameSized(now, wire.MsgDigest, o.buf)
}

// onProof takes a message of proof and repair; from says that the sender is the
// node that is followed.
func (e *Engine) onProof(now time.Time, p *native.Peer, m *wire.Native, from bool) {
	o := &e.own
	switch m.Type {
	case wire.MsgDigest:
		var theirs proof.Sums
		if n, ok := wire.ParseDigest(m.Body, &theirs); ok && from {
			e.compareGroups(now, p, n, &theirs)
		}
	case wire.MsgAskBuckets:
		if to, groups, ok := wire.ParseAskBuckets(m.Body); ok && to == o.session.ID && e.provable() {
			e.frameBuckets(now, groups)
		}
	case wire.MsgBuckets:
		var theirs proof.Sums
		if g, ok := wire.ParseBuckets(m.Body, &theirs); ok && from && e.settled(now, p) {
			e.compareBuckets(now, p, int(g), &theirs)
		}
	case wire.MsgAskCopy:
		var set proof.Set
		if to, ok := wire.ParseAskCopy(m.Body, &set); ok && to == o.session.ID {
			o.wanted.Join(&set)
			o.wants = true
		}
	case wire.MsgCopyStart:
		var set proof.Set
		if id, ok := wire.ParseCopyMark(m.Body, &set); ok && from {
			o.proof.mismatches = 0
			o.incoming = incomingCopy{running: true, id: id, set: set, at: now}
			e.external.NewGeneration()
			e.exp.external.NewGeneration()
		}
	case wire.MsgCopyEnd:
		var set proof.Set
		if id, ok := wire.ParseCopyMark(m.Body, &set); ok && from && o.incoming.running && id == o.incoming.id {
			e.endIncoming(now)
		}
	}
}

// settled reports whether a difference means something: nothing of the peer's is
// on its way again.
func (e *Engine) settled(now time.Time, p *native.Peer) bool {
	return p.Whole() && (now.Sub(e.own.proof.gapAt) >= calm || e.own.proof.mismatches >= patience)
}

func (e *Engine) compareGroups(now time.Time, p *native.Peer, entries uint32, theirs *proof.Sums) {
	o := &e.own
	ours := e.external.Digest().Groups()
	var groups uint64
	for g := range theirs {
		if theirs[g] != ours[g] {
			groups |= 1 << g
		}
	}
	pr := &o.proof
	if groups == 0 {
		pr.mismatches = 0
	} else {
		pr.mismatches++
	}
	pr.entries, pr.number = entries, o.session.Expected(p)
	if groups == 0 {
		if !pr.inSync {
			e.log.Info("proven equal to the peer's table", "entries", entries)
		}
		pr.inSync, pr.differing, pr.at, pr.epoch = true, 0, now, o.lives[p.ID].epoch
		return
	}
	if !e.settled(now, p) {
		return // it is compared again in a second
	}
	if pr.inSync {
		e.log.Warn("this node's view differs from the peer's table, asking for what does")
		o.beatSoon = true
	}
	pr.inSync, pr.at = false, now
	pr.differing = max(pr.differing, 1)
	if o.incoming.busy(now) {
		return
	}
	if pr.mismatches > 2*patience {
		// The longer way has failed: all buckets of the groups that differ.
		var set proof.Set
		for g := range proof.Groups {
			if groups&(1<<g) != 0 {
				for i := range proof.GroupSize {
					set.Add(uint16(g*proof.GroupSize + i))
				}
			}
		}
		pr.differing = set.Len()
		o.buf = wire.AppendAskCopy(o.buf[:0], p.ID, &set)
		e.frameSized(now, wire.MsgAskCopy, o.buf)
		return
	}
	o.buf = wire.AppendAskBuckets(o.buf[:0], p.ID, groups)
	e.frameSized(now, wire.MsgAskBuckets, o.buf)
}

// frameBuckets answers with the sums of the groups' buckets, behind everything
// that was sent.
func (e *Engine) frameBuckets(now time.Time, groups uint64) {
	// What is queued belongs before them.
	e.transmitNative(now)
	o := &e.own
	for g := range proof.Groups {
		if groups&(1<<g) == 0 {
			continue
		}
		sums := e.internal.Digest().Group(g)
		o.buf = wire.AppendBuckets(o.buf[:0], uint8(g), &sums)
		e.frameSized(now, wire.MsgBuckets, o.buf)
	}
}

func (e *Engine) compareBuckets(now time.Time, p *native.Peer, g int, theirs *proof.Sums) {
	o := &e.own
	ours := e.external.Digest().Group(g)
	var set proof.Set
	n := 0
	for i := range theirs {
		if theirs[i] != ours[i] {
			set.Add(uint16(g*proof.GroupSize + i))
			n++
		}
	}
	if n == 0 {
		return
	}
	o.proof.differing = n
	o.buf = wire.AppendAskCopy(o.buf[:0], p.ID, &set)
	e.frameSized(now, wire.MsgAskCopy, o.buf)
}

// busy reports whether a copy is on its way; one whose end is long in coming does
// not keep another from being asked for.
func (in *incomingCopy) busy(now time.Time) bool { return in.running && now.Sub(in.at) < copyPatience }

const copyPatience = 5 * time.Second

// endIncoming removes what a copy did not bring: its end is said only when all of
// it was reported to have arrived.
func (e *Engine) endIncoming(now time.Time) {
	in := &e.own.incoming
	in.running = false
	n := 0
	for r := e.external.First(); r != 0; r = e.external.Next(r) {
		if !e.external.Old(r) || !in.set.Has(e.external.Bucket(r)) {
			continue
		}
		k := e.external.Key(r)
		in.running = true
		e.external.Load(r, &e.scratch)
		e.differs(now, "stale", &e.scratch)
		in.running = false
		e.ended(r, &k)
		e.external.Delete(r)
		e.endedElsewhere(&k, true)
		e.injectFlow(k)
		n++
	}
	if in.set.Len() == proof.Buckets {
		n += e.sweepExpects(now)
	}
	e.drops.swept += uint64(n)
	e.log.Info("a copy of what differed has arrived", "buckets", in.set.Len(), "removed", n)
}

// startBuckets begins a copy of some buckets.
func (e *Engine) startBuckets(set proof.Set) {
	e.own.copyID++
	e.copyOut = copyOut{running: true, native: true, set: set}
	now := e.now()
	e.transmitNative(now)
	e.frameMark(now, wire.MsgCopyStart)
	e.spawn(e.life, "sending a copy", e.copyLoop)
}

func (e *Engine) frameMark(now time.Time, t wire.MsgType) {
	o := &e.own
	o.buf = wire.AppendCopyMark(o.buf[:0], o.copyID, &e.copyOut.set)
	e.frameSized(now, t, o.buf)
	o.items = append(o.items, native.Item{Type: t})
	o.lastCopy = e.copyOut.set
	e.closeFrame(now)
	e.sendFrames(now)
}

// askNative asks the followed node for everything.
func (e *Engine) askNative(now time.Time) {
	o := &e.own
	if o.followed == 0 {
		o.beatSoon = true
		return
	}
	all := proof.All()
	o.proof.inSync = false
	o.buf = wire.AppendAskCopy(o.buf[:0], o.followed, &all)
	e.frameSized(now, wire.MsgAskCopy, o.buf)
}

// abandonCopy gives up a copy in our protocol when what is being copied is no
// longer what the others are to hold: its end would make them remove the rest. It
// is begun again when there is something to copy.
func (e *Engine) abandonCopy() {
	c := &e.copyOut
	if !c.native || !c.running {
		return
	}
	e.own.wanted.Join(&c.set)
	e.own.wants = true
	*c = copyOut{}
}

// watchEnding says the end of a copy once it has arrived everywhere.
func (e *Engine) watchEnding(now time.Time) {
	c, s := &e.copyOut, e.own.session
	if !c.ending.on {
		return
	}
	some := false
	for _, p := range s.Peers() {
		if p.Alive(now) {
			some = true
			if !p.Covered(c.ending.mark) {
				return
			}
		}
	}
	if some && s.Counters.Resent != c.ending.resent && c.ending.rounds < endRounds {
		c.ending = ending{on: true, mark: s.Next(), resent: s.Counters.Resent, rounds: c.ending.rounds + 1}
		e.own.beatSoon = true // so that it is reported soon
		return
	}
	e.frameMark(now, wire.MsgCopyEnd)
	e.endCopy(now)
}

// wanted reports whether an entry belongs to the copy that is being sent.
func (c *copyOut) wanted(t *cache.Table, r cache.Ref) bool {
	return !c.native || c.set.Has(t.Bucket(r))
}
