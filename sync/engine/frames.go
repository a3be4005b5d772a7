package engine

import (
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/cache"
	"github.com/conntrack-sync/conntrack-sync/sync/ftfw"
	"github.com/conntrack-sync/conntrack-sync/sync/native"
	"github.com/conntrack-sync/conntrack-sync/sync/proof"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// resendNative queues what became of the subject of a message that was lost.
func (e *Engine) resendNative(it *native.Item) {
	switch it.Type {
	case wire.MsgExpect:
		e.resendExpect(it.Key)
		return
	case wire.MsgCopyEnd:
		if !e.copyOut.running && e.provable() {
			// A lost start is not said again: flows have come since that it would
			// make old.
			e.copyOut.set = e.own.lastCopy
			e.frameMark(e.now(), wire.MsgCopyEnd)
			e.copyOut.set = proof.Set{}
		}
		return
	case wire.MsgCopyStart:
		return
	}
	r := e.internal.Find(&it.Key)
	if r == 0 {
		e.out = append(e.out, ftfw.Out{Type: wire.CTDel, Key: it.Key})
		return
	}
	e.queueWhole(r)
}

// queueWhole queues a flow to be sent whole.
func (e *Engine) queueWhole(r cache.Ref) {
	e.queueFlow(wire.CTUpd, r)
	e.out[e.internal.Note(r)-1].From = whole
}

// whole in the From of a queued message asks for the whole flow.
const whole = 1

// transmitNative sends what was queued in frames.
func (e *Engine) transmitNative(now time.Time) {
	o := &e.own
	e.compact()
	if e.speaks() {
		o.brief = e.everybodyHolds(now)
		for i := range e.out {
			m := &e.out[i]
			if m.Type == wire.Control {
				continue // of the other protocol
			}
			e.frameData(now, m)
		}
		if len(e.out) > 0 {
			o.sentAt = now
		}
	}
	e.out = e.out[:0]
	e.frameReports(now, false)
	e.closeFrame(now)
	e.sendFrames(now)
}

func (e *Engine) sendFrames(now time.Time) {
	o := &e.own
	d := o.framer.Datagrams()
	if len(d) == 0 {
		return
	}
	if err := e.link.Send(d); err != nil {
		e.linkFailed(now, err)
	}
	o.framer.Reset()
}

// frameData writes one queued message, and books it.
func (e *Engine) frameData(now time.Time, m *ftfw.Out) {
	o := &e.own
	it := native.Item{Type: wire.MsgFlow, Key: m.Key}
	if isExpect(m.Type) {
		it.Type = wire.MsgExpect
	}
	e.frame(now, func(b []byte) []byte { return e.appendNative(b, m) })
	if m.Type == wire.CTNew || m.Type == wire.CTUpd {
		e.internal.SetKnown(cache.Ref(m.Ref))
	}
	o.items = append(o.items, it)
	o.content = true
}

// appendNative writes a message. It changes nothing: a message that does not fit
// is written again into the next frame.
func (e *Engine) appendNative(b []byte, m *ftfw.Out) []byte {
	switch m.Type {
	case wire.CTDel:
		if m.Ref != 0 && m.From != whole && e.own.brief {
			return wire.AppendEnd(b, m.Ref, proof.CheckOf(&m.Key))
		}
		return wire.AppendEndKey(b, &m.Key)
	case wire.ExpNew, wire.ExpUpd, wire.ExpDel:
		x, live := e.exp.internal.Find(m.Key)
		t := wire.MsgExpect
		if m.Type == wire.ExpDel || !live {
			t = wire.MsgExpectEnd
		}
		return wire.AppendNativeExpect(b, t, x)
	}
	r := cache.Ref(m.Ref)
	e.internal.Load(r, &e.scratch)
	if m.From != whole && e.internal.Known(r) {
		return wire.AppendUpdate(b, m.Ref, proof.CheckOf(&m.Key), &e.scratch)
	}
	return wire.AppendNativeFlow(b, m.Ref, &e.scratch)
}

// frame appends a message to the open frame, or to a new one where it does not
// fit.
func (e *Engine) frame(now time.Time, write func(b []byte) []byte) {
	o := &e.own
	for {
		if !o.framer.Open() {
			o.framer.Max = e.link.MaxPayload()
			o.framer.Begin(&wire.Frame{Seq: o.session.Next(), Sender: o.session.ID, Epoch: o.epoch, Role: roleByte(e.role)})
		}
		if o.framer.Keep(write(o.framer.Buf())) {
			return
		}
		o.framer.Fill()
		e.closeFrame(now)
	}
}

func (e *Engine) closeFrame(now time.Time) {
	o := &e.own
	if !o.framer.Open() {
		return
	}
	flags := uint8(0)
	if o.solicit {
		flags, o.solicit, o.probed = wire.FlagProbe, false, now
	}
	if o.content {
		flags |= wire.FlagContent
		every := probeEvery
		if e.copyOut.running { // which waits for reports
			every = copyProbe
		}
		if now.Sub(o.probed) >= every {
			flags |= wire.FlagProbe
			o.probed = now
		}
	}
	o.framer.SetFlags(flags)
	o.framer.Close()
	o.session.Sent(now, o.items)
	o.items, o.content = o.items[:0], false
}

func (e *Engine) frameReports(now time.Time, all bool) {
	o := &e.own
	o.session.Due(now, all, func(r *wire.Report) {
		o.buf = wire.AppendReport(o.buf[:0], r)
		e.frame(now, func(b []byte) []byte { return wire.AppendSized(b, wire.MsgReport, o.buf) })
	})
}

// frameSized sends a message with a length.
func (e *Engine) frameSized(now time.Time, t wire.MsgType, body []byte) {
	e.frame(now, func(b []byte) []byte { return wire.AppendSized(b, t, body) })
}

func roleByte(role string) uint8 {
	return map[string]uint8{"MASTER": wire.RoleMaster, "BACKUP": wire.RoleBackup, "FAULT": wire.RoleFault, "STOP": wire.RoleStop}[role]
}
