package engine

import (
	"net/netip"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/cache"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// onDatagrams takes a batch from the link: session, then external cache.
func (e *Engine) onDatagrams(batch [][]byte, from []netip.AddrPort) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	for i, d := range batch {
		var errs wire.Errors
		e.msgs, errs = wire.Split(d, e.msgs[:0])
		e.drops.wire.Truncated += errs.Truncated
		e.drops.wire.BadSize += errs.BadSize
		e.drops.wire.Version += errs.Version
		if len(e.msgs) == 0 {
			continue
		}
		if f, ok := wire.ParseFrame(&e.msgs[0]); ok {
			e.onFrame(now, from[i].Addr(), &f)
			continue
		}
		e.peer = from[i].Addr()
		for k := range e.msgs {
			if e.msgs[k].Type == wire.Control {
				e.meet(&e.msgs[k])
			}
		}
		if e.agree(now); e.own.on {
			continue // one of ours that does not know yet
		}
		rd := e.session.Receive(now, e.msgs)
		e.deliver(now, rd.Deliver)
		e.obey(now, rd)
	}
	e.transmit(now)
}

// deliver applies the peer's messages to the external cache.
func (e *Engine) deliver(now time.Time, msgs []wire.Message) {
	for i := range msgs {
		m := &msgs[i]
		if isExpect(m.Type) {
			e.deliverExpect(now, m)
			continue
		}
		if err := wire.ParseFlow(m.Body, &e.scratch); err != nil {
			e.drops.payload++
			continue
		}
		if f := &e.scratch; f.Orig.Proto == flow.ProtoDCCP && f.Has&flow.HasDCCP == 0 {
			// Where the kernel does not track DCCP there are no ports, and a
			// conntrackd sends what stood in its buffer for them.
			f.Orig.Sport, f.Orig.Dport, f.Reply.Sport, f.Reply.Dport = 0, 0, 0, 0
			f.Has &^= flow.HasSPAT | flow.HasDPAT
		}
		e.apply(now, m.Type, &e.scratch)
	}
}

// apply does what one message says.
func (e *Engine) apply(now time.Time, t wire.Type, f *flow.Flow) {
	k := f.Key()
	e.applyAt(now, t, f, &k, e.external.Find(&k))
}

// applyAt does what one message says of the flow with this key, whose entry is r, 0
// if there is none. CT_NEW and CT_UPD both mean "this is the flow now"; the first
// word about a flow is often an update. It returns the entry afterwards.
func (e *Engine) applyAt(now time.Time, t wire.Type, f *flow.Flow, k *flow.Key, r cache.Ref) cache.Ref {
	switch {
	case t == wire.CTDel:
		if r != 0 {
			e.ended(r, k)
			e.external.Delete(r)
		}
		e.endedElsewhere(k, true)
		e.injectFlow(*k)
		return 0
	case r != 0 && t == wire.CTUpd:
		e.renewed(now, r)
		if e.external.Merge(r, f) {
			e.external.Hear(r, now.Unix())
		}
	default:
		if r != 0 {
			e.renewed(now, r)
		}
		var err error
		if r, err = e.external.Set(r, k, f, now.Unix()); err != nil {
			e.drops.cacheFull++
		}
	}
	e.endedElsewhere(k, false)
	if e.injecting() {
		e.disown(k)
		e.injectFlow(*k)
	}
	return r
}

// renewed tells the running full copy that it still brings what was known.
func (e *Engine) renewed(now time.Time, r cache.Ref) {
	if e.external.Old(r) {
		e.copyIn.renewed, e.copyIn.some = now, true
	}
}
