package engine

import (
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/cache"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

// moved is about flows that end here because an address leaves: the kernel ends
// what was masqueraded to an address when that is taken away, or its interface
// down. A virtual address leaves when the other router takes over, and there these
// flows live on. Their end is kept to ourselves; the entries stay until the other
// node speaks for them, or until it is clear that nobody took over. Until the role has
// changed packets still come here: what they make of such a flow, or a flow to an
// address that is not here any more, is kept to ourselves too, since it would take the
// place of the flow at the other node.
type moved struct {
	usable map[address]bool // addresses of interfaces that are up
	held   map[address]bool // those that were, at any time
	asked  bool             // in this batch of events
	kept   map[flow.Key]bool
	at     time.Time // of the last one kept
	total  uint64
	reborn uint64 // events of flows that began afterwards in their place
}

// movedWait is how long after an address left a take-over may still be the reason.
const movedWait = 30 * time.Second

// lookAtMoved brings the usable addresses up to date.
func (e *Engine) lookAtMoved() {
	now, err := e.kernel.UsableAddrs()
	if err != nil {
		e.log.Warn("addresses cannot be read", "err", err)
		return
	}
	m := &e.moved
	if m.held == nil {
		m.held, m.kept = map[address]bool{}, map[flow.Key]bool{}
	}
	m.usable = make(map[address]bool, len(now))
	for _, a := range now {
		m.usable[packAddress(a)], m.held[packAddress(a)] = true, true
	}
}

// endedByMove reports whether a flow of ours ended because the address it was
// masqueraded to has left, and keeps its entry then.
func (e *Engine) endedByMove(now time.Time, r cache.Ref, f *flow.Flow) bool {
	m := &e.moved
	to := address{f.Reply.Dst, f.Orig.Family}
	if r == 0 || f.Has&flow.HasReply == 0 || f.Reply.Dst == f.Orig.Src || !m.held[to] {
		return false
	}
	if e.usable(to) {
		return false
	}
	if len(m.kept) == 0 {
		e.log.Info("flows that end with the address they were masqueraded to are kept for the other router", "address", flow.UnpackAddr(to.addr, to.family))
	}
	m.kept[e.internal.Key(r)] = true
	m.at = now
	m.total++
	return true
}

// usable reports whether an address is this host's, on an interface that is up; the
// kernel is asked once a batch of events.
func (e *Engine) usable(a address) bool {
	m := &e.moved
	if !m.asked {
		m.asked = true
		if e.kernel.AddrsChanged() {
			e.lookAtMoved()
		}
	}
	return m.usable[a]
}

// rebornHere reports whether an event is about a flow that packets have begun here
// after their address had left: with the tuple of one that is kept, r being its entry,
// or to a virtual address and not translated. It returns the flow's entry afterwards.
func (e *Engine) rebornHere(r cache.Ref, k *flow.Key, f *flow.Flow) (cache.Ref, bool) {
	m := &e.moved
	if len(m.kept) == 0 {
		return r, false
	}
	if r != 0 {
		if !m.kept[*k] || e.sameLife(r, f) {
			return r, false
		}
		e.internal.Load(r, &e.scratch)
		if e.usable(address{e.scratch.Reply.Dst, e.scratch.Orig.Family}) {
			delete(m.kept, *k) // the address is back, and with it what begins here
			e.queueDelete(r)
			return 0, false
		}
		return r, true
	}
	to := address{f.Orig.Dst, f.Orig.Family}
	return 0, m.held[to] && f.Reply.Src == f.Orig.Dst && !e.usable(to)
}

// watchMoved gives up what was kept when no take-over came: a comparison with the
// kernel finds that it is gone.
func (e *Engine) watchMoved(now time.Time) {
	m := &e.moved
	if len(m.kept) == 0 || now.Sub(m.at) < movedWait {
		return
	}
	clear(m.kept)
	e.fill.wanted = "flows ended with their address"
}

// endedHereAlone is called when a flow has ended in this kernel. One of the peer's
// that an early commit wrote here lives on all the same: the role's commit writes it
// again. Once the take-over is through it is this kernel that knows: what the former
// MASTER said last of the flow is not written by the next commit.
func (e *Engine) endedHereAlone(now time.Time, k *flow.Key) {
	if e.direct() {
		return
	}
	r := e.external.Find(k)
	switch {
	case r == 0:
	case e.role != master:
		if !e.external.Dirty(r) {
			e.external.Soil(r)
		}
	case !e.committing() && !e.opening(now):
		e.external.Delete(r)
	}
}
