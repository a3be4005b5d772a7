package engine

import (
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/cache"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/ftfw"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// transmit numbers, encodes and sends what was queued. Flows are encoded with
// their state of this moment.
func (e *Engine) transmit(now time.Time) {
	if e.own.on && e.link != nil {
		e.transmitNative(now)
		return
	}
	e.compact()
	if len(e.out) == 0 || e.link == nil {
		e.out = e.out[:0]
		return
	}
	e.session.Send(now, e.out)
	e.packer.Reset()
	e.packer.Max = e.link.MaxPayload()
	for i := range e.out {
		e.encode(&e.out[i])
	}
	if err := e.link.Send(e.packer.Datagrams()); err != nil {
		e.linkFailed(now, err)
	}
	e.out = e.out[:0]
}

// compact drops messages that were overtaken by the end of their flow, and
// clears the notes of the others.
func (e *Engine) compact() {
	kept := e.out[:0]
	for _, m := range e.out {
		if m.Type == wire.CTNew || m.Type == wire.CTUpd {
			if m.Ref == 0 {
				continue
			}
			e.internal.SetNote(cache.Ref(m.Ref), 0)
		}
		if isExpect(m.Type) && !e.sendable(&m) {
			continue
		}
		kept = append(kept, m)
	}
	e.out = kept
}

func (e *Engine) encode(m *ftfw.Out) {
	h := wire.Message{Type: m.Type, Flags: m.Flags, Seq: m.Seq, From: m.From, To: m.To}
	switch m.Type {
	case wire.Control:
		h.Body = e.advert
		e.packer.Control(h)
	case wire.CTDel:
		e.scratch = flow.Flow{Orig: m.Key.Tuple, Zone: m.Key.Zone}
		if m.Key.Zone != 0 {
			e.scratch.Has = flow.HasZone
		}
		e.packer.Flow(h, &e.scratch)
	case wire.ExpNew, wire.ExpUpd, wire.ExpDel:
		x, _ := e.exp.internal.Find(m.Key)
		e.packer.Expect(h, x)
	default:
		e.internal.Load(cache.Ref(m.Ref), &e.scratch)
		e.packer.Flow(h, &e.scratch)
	}
}

// isExpect tells messages about expectations from those about flows.
func isExpect(t wire.Type) bool { return t >= wire.ExpNew && t <= wire.ExpDel }

// linkFailed says once a minute that sending fails; each failure is counted by
// the link, and the session sends again what was lost.
func (e *Engine) linkFailed(now time.Time, err error) {
	if now.Sub(e.drops.linkLogged) < time.Minute {
		return
	}
	e.drops.linkLogged = now
	e.log.Warn("sending on the sync link fails", "err", err)
}

// obey carries out what the session asks for; the messages go with the next
// transmit.
func (e *Engine) obey(now time.Time, rd ftfw.Ready) {
	e.out = append(e.out, rd.Send...)
	for i := range rd.Resend {
		e.resend(&rd.Resend[i])
	}
	if rd.Restarted {
		e.log.Info("peer greets", "peer", e.peer)
	}
	if rd.SendAll {
		e.startCopyOut()
	}
	if rd.AskAll {
		e.copyIn.tries = 0
		if e.met {
			e.askForCopy("the peer's numbering began anew")
		} else {
			e.askAtStart()
		}
		e.met = true
	}
	if rd.ResyncHeard {
		e.copyIn.heard(now)
	}
}

// resend queues what became of the flow of a message that was lost.
func (e *Engine) resend(it *ftfw.Item) {
	if isExpect(it.Type) {
		e.resendExpect(it.Key)
		return
	}
	if r := e.internal.Find(&it.Key); r != 0 {
		e.queueFlow(wire.CTUpd, r)
		return
	}
	e.out = append(e.out, ftfw.Out{Type: wire.CTDel, Key: it.Key})
}
