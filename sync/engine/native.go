package engine

import (
	"net/netip"
	"slices"
	"time"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/sync/cache"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/ftfw"
	"github.com/conntrack-sync/conntrack-sync/sync/native"
	"github.com/conntrack-sync/conntrack-sync/sync/proof"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// spoken is our own protocol on the link: who is there, what of it is spoken, and
// whose table this node holds.
type spoken struct {
	session *native.Session
	framer  wire.Framer
	on      bool // it is spoken; else conntrackd's
	items   []native.Item
	content bool // the open frame carries flows
	nodes   map[netip.Addr]*neighbour
	lives   map[uint64]*life
	msg     wire.Native
	spare   flow.Flow

	probed   time.Time // when a report was asked for at once
	beaten   time.Time // when the last beat went out
	sentData bool      // data went out since
	beatSoon bool
	solicit  bool // the next frame asks for a report at once
	buf      []byte

	epoch    uint32 // of this node's last reign
	maxEpoch uint32 // the highest known
	firm     bool   // epoch was chosen knowing the others'

	followed uint64 // the life whose table is held
	proof    proven
	copyID   uint32
	lastCopy proof.Set // of the copy with this number
	wanted   proof.Set // buckets asked for and not sent yet
	wants    bool
	incoming incomingCopy

	unknown uint64 // updates of flows that are not known
	stale   uint64 // data of an older epoch
}

// neighbour is an address on the link and what its software speaks.
type neighbour struct {
	heard   time.Time
	known   bool // its software is
	ours    bool
	high    uint8 // highest protocol it speaks
	release string
}

// life is one run of a node that speaks our protocol.
type life struct {
	addr    netip.Addr
	role    uint8
	epoch   uint32
	beat    wire.Beat
	handles []cache.Ref // of its flows in the external cache, by its handles
}

// proven is what is known of the equality of the external cache with the followed
// node's table.
type proven struct {
	inSync    bool
	at        time.Time // of the last comparison
	number    uint32    // of the datagram it was made at
	differing int       // buckets, at the last comparison
	entries   uint32    // of the followed table
	gapAt     time.Time // when datagrams were last found missing
	// mismatches in a row: on a link that always loses, calm never comes.
	mismatches int
	repairs    uint64
	found      []stats.Difference
}

// fresh reports whether the view was proven equal lately: a proof is as old as the
// link has been silent.
func (p *proven) fresh(now time.Time) bool { return p.inSync && now.Sub(p.at) <= native.DeadAfter }

// incomingCopy is the copy of some buckets that is being received.
type incomingCopy struct {
	running bool
	id      uint32
	set     proof.Set
	at      time.Time
}

const (
	beatEvery = time.Second
	// tailProbe is how soon after the last flow a beat is sent, so that the loss
	// of the last datagram is noticed.
	tailProbe  = 50 * time.Millisecond
	probeEvery = 50 * time.Millisecond
	// solicit is how long something may be unreported before a report is asked
	// for: the one that was sent may be lost.
	solicit = 200 * time.Millisecond
	// calm is how long no datagram may have been missing before a difference is
	// believed: what is on its way again needs no repair.
	calm     = 300 * time.Millisecond
	patience = 3 // comparisons that fail in a row
	// hurry is how often the digest is sent while somebody is known to differ.
	hurry      = 250 * time.Millisecond
	foundLimit = 1000
)

func newSpoken(id uint64, seq uint32) spoken {
	return spoken{session: native.New(id, seq), nodes: map[netip.Addr]*neighbour{}, lives: map[uint64]*life{}}
}

func (e *Engine) protocol() string {
	if e.settings == nil {
		return conf.ProtocolAuto
	}
	return e.settings.Interfaces[0].Protocol
}

// makeAdvert says what this node speaks.
func (e *Engine) makeAdvert() wire.Advert {
	a := wire.Advert{Low: protocolLow, High: protocolHigh, Release: e.opt.Release}
	if e.protocol() == conf.ProtocolConntrackd {
		a.High = protocolLow
	}
	return a
}

// neighbour notes that an address was heard.
func (e *Engine) neighbour(now time.Time, a netip.Addr) *neighbour {
	n := e.own.nodes[a]
	if n == nil {
		n = &neighbour{}
		e.own.nodes[a] = n
	}
	n.heard = now
	return n
}

// agree decides which protocol is spoken: ours where every node that is heard
// speaks it, conntrackd's as soon as one does not. Where nobody is heard it stays
// as it is.
func (e *Engine) agree(now time.Time) {
	on := e.own.on
	switch e.protocol() {
	case conf.ProtocolConntrackd:
		on = false
	case conf.ProtocolNative:
		on = true
	default:
		some, all := false, true
		for _, n := range e.own.nodes {
			if !n.known || now.Sub(n.heard) > native.DeadAfter {
				continue
			}
			some = true
			all = all && n.ours && n.high >= protocolHigh
		}
		if some {
			on = all
		}
	}
	if on == e.own.on {
		return
	}
	e.own.on = on
	if on {
		e.log.Info("every node on the link speaks our protocol: it is spoken from now on")
		e.copyIn = copyIn{}
		e.own.beatSoon = true
		e.session.TakeUnacked(func(it ftfw.Item) { e.resend(&it) })
		return
	}
	e.log.Info("a node on the link does not speak our protocol: conntrackd's is spoken from now on")
	if e.copyOut.native {
		e.copyOut = copyOut{} // nobody is left to end it for
	}
	counters := e.session.Counters
	e.session = ftfw.New(e.random())
	e.session.Counters = counters
	e.own.session.TakeHeld(func(it native.Item) { e.resendNative(&it) })
}

// alive reports whether any peer is heard.
func (e *Engine) alive(now time.Time) bool {
	if !e.own.on {
		return e.session.Alive(now)
	}
	return slices.ContainsFunc(e.own.session.Peers(), func(p *native.Peer) bool { return p.Alive(now) })
}

// onFrame takes a datagram of our protocol.
func (e *Engine) onFrame(now time.Time, from netip.Addr, f *wire.Frame) {
	o := &e.own
	n := e.neighbour(now, from)
	if !n.known || !n.ours {
		n.known, n.ours, n.high = true, true, protocolHigh
	}
	e.agree(now)
	if e.protocol() == conf.ProtocolConntrackd {
		return
	}
	p, verdict := o.session.Receive(now, f)
	if verdict == native.Drop {
		return
	}
	l := o.lives[p.ID]
	if verdict == native.Meet || l == nil {
		l = e.meetLife(now, from, p.ID)
	}
	l.role, l.epoch = f.Role, f.Epoch
	e.noteEpoch(now, f)
	if !p.Whole() {
		o.proof.gapAt = now
	}
	accept := e.accepts(f)
	if accept {
		e.follow(now, p.ID)
	}
	for b := f.Body; ; {
		var err error
		if b, err = wire.NextNative(b, &o.msg); err != nil {
			e.drops.malformed++
			return
		}
		if o.msg.Type == 0 {
			return
		}
		e.onNative(now, p, l, accept)
	}
}

// meetLife takes note of a node that has begun a life; an earlier one at the same
// address has ended.
func (e *Engine) meetLife(now time.Time, from netip.Addr, id uint64) *life {
	o := &e.own
	for old, l := range o.lives {
		if l.addr == from && old != id {
			o.session.Forget(old)
			delete(o.lives, old)
		}
	}
	l := &life{addr: from}
	o.lives[id] = l
	o.beatSoon = true
	o.proof.gapAt = time.Time{}
	e.log.Info("a node is met on the link", "peer", from)
	return l
}

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

// onNative takes one message.
func (e *Engine) onNative(now time.Time, p *native.Peer, l *life, accept bool) {
	o := &e.own
	m := &o.msg
	switch m.Type {
	case wire.MsgFlow, wire.MsgUpdate, wire.MsgEnd, wire.MsgEndKey, wire.MsgExpect, wire.MsgExpectEnd:
		if !accept {
			o.stale++
			return
		}
		e.onData(now, l)
	case wire.MsgReport:
		if r, ok := wire.ParseReport(m.Body); ok && r.To == o.session.ID {
			for _, it := range o.session.Reported(now, p, &r) {
				e.resendNative(&it)
			}
		}
	case wire.MsgBeat:
		if b, ok := wire.ParseBeat(m.Body); ok {
			l.beat = b
			e.settleEpoch(b.MaxEpoch)
			n := e.own.nodes[l.addr]
			n.high, n.release = b.High, b.Release
		}
	default:
		e.onProof(now, p, m)
	}
}

// onData applies a message about a flow to the external cache.
func (e *Engine) onData(now time.Time, l *life) {
	o := &e.own
	m := &o.msg
	switch m.Type {
	case wire.MsgFlow:
		e.applyWhole(now, &m.Flow)
		k := m.Flow.Key()
		l.bind(m.Handle, e.external.Find(&k))
	case wire.MsgUpdate, wire.MsgEnd:
		r := l.ref(m.Handle)
		if !e.external.Live(r, m.Check) {
			o.unknown++ // the message that named it was lost: it comes again
			return
		}
		k := e.external.Key(r)
		if m.Type == wire.MsgEnd {
			m.Flow = flow.Flow{Orig: k.Tuple, Zone: k.Zone}
			e.apply(now, wire.CTDel, &m.Flow)
			return
		}
		m.Flow.Orig, m.Flow.Zone = k.Tuple, k.Zone
		e.apply(now, wire.CTUpd, &m.Flow)
	case wire.MsgEndKey:
		e.apply(now, wire.CTDel, &m.Flow)
	default:
		t := wire.ExpNew
		if m.Type == wire.MsgExpectEnd {
			t = wire.ExpDel
		}
		e.deliverExpect(now, &wire.Message{Type: t, Body: m.Body})
	}
}

// applyWhole takes a whole flow: it replaces what is known of it where that is
// different, so that nothing of an earlier life stays.
func (e *Engine) applyWhole(now time.Time, f *flow.Flow) {
	k := f.Key()
	r := e.external.Find(&k)
	if r == 0 {
		e.differs(now, "missing", f)
		e.apply(now, wire.CTNew, f)
		return
	}
	have := &e.own.spare
	e.external.Load(r, have)
	have.Timeout, have.Since, have.ID = f.Timeout, f.Since, f.ID
	have.Has = have.Has&^(flow.HasTimeout|flow.HasID) | f.Has&(flow.HasTimeout|flow.HasID)
	if *have == *f {
		e.apply(now, wire.CTUpd, f)
		return
	}
	if have.Status != f.Status || have.TCP.State != f.TCP.State || have.Reply != f.Reply || have.Mark != f.Mark {
		e.differs(now, "differing", f)
	}
	e.apply(now, wire.CTNew, f)
}

// differs remembers what a repair found.
func (e *Engine) differs(now time.Time, kind string, f *flow.Flow) {
	p := &e.own.proof
	if !e.own.incoming.running {
		return
	}
	p.repairs++
	if len(p.found) == foundLimit {
		p.found = slices.Delete(p.found, 0, foundLimit/10)
	}
	p.found = append(p.found, stats.Difference{At: now.Format(time.RFC3339), Kind: kind, Flow: *f})
}

// handlesMax bounds what a peer can make us hold for its handles.
const handlesMax = 1 << 25

func (l *life) bind(handle uint32, r cache.Ref) {
	if handle >= handlesMax {
		return
	}
	for int(handle) >= len(l.handles) {
		l.handles = append(l.handles, make([]cache.Ref, max(1024, len(l.handles)))...)
	}
	l.handles[handle] = r
}

func (l *life) ref(handle uint32) cache.Ref {
	if int(handle) >= len(l.handles) {
		return 0
	}
	return l.handles[handle]
}

// resendNative queues what became of the subject of a message that was lost.
func (e *Engine) resendNative(it *native.Item) {
	switch it.Type {
	case wire.MsgExpect:
		e.resendExpect(it.Key)
		return
	case wire.MsgCopyEnd:
		if !e.copyOut.running {
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
		for i := range e.out {
			m := &e.out[i]
			if m.Type == wire.Control {
				continue // of the other protocol
			}
			e.frameData(now, m)
		}
		o.sentData = o.sentData || len(e.out) > 0
	}
	e.out = e.out[:0]
	e.frameReports(now, false)
	e.closeFrame(now)
	e.sendFrames(now)
}

// speaks reports whether this node's flows are told to the others: not while a
// newer reign than its own is known.
func (e *Engine) speaks() bool {
	return e.own.epoch >= e.own.maxEpoch || e.role == "" || e.role == master
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
		if m.Ref != 0 && m.From != whole {
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
		flags, o.solicit = wire.FlagProbe, false
	}
	if o.content {
		flags |= wire.FlagContent
		if now.Sub(o.probed) >= probeEvery {
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

// beat says that this node is there, what it speaks and whether its view was
// proven; it goes out every second, and soon after the last flow of a row.
func (e *Engine) beat(now time.Time) {
	o := &e.own
	due := now.Sub(o.beaten) >= beatEvery || now.Sub(o.beaten) >= hurry && e.somebodyDiffers(now)
	unreported := o.session.Held() > 0 && now.Sub(o.beaten) >= solicit
	if !due && !unreported && !o.beatSoon && !(o.sentData && now.Sub(o.beaten) >= tailProbe) {
		return
	}
	o.solicit = o.session.Held() > 0
	x := wire.Beat{Advert: e.makeAdvert(), MaxEpoch: o.maxEpoch, Follows: o.followed, InSync: o.proof.fresh(now),
		Differing: uint16(o.proof.differing), Proven: o.proof.number, Entries: uint32(e.external.Len())}
	o.buf = wire.AppendBeat(o.buf[:0], &x)
	e.frameSized(now, wire.MsgBeat, o.buf)
	if due || o.beatSoon {
		e.frameReports(now, true)
		e.frameDigest(now)
		o.beatSoon = false
	}
	o.beaten, o.sentData = now, false
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

// tickNative does what time makes necessary.
func (e *Engine) tickNative(now time.Time) {
	o := &e.own
	o.session.Tick(now)
	for id := range o.lives {
		if o.session.Peer(id) == nil {
			delete(o.lives, id)
		}
	}
	if o.wants && !e.copyOut.running && e.provable() {
		o.wants = false
		e.startBuckets(o.wanted)
		o.wanted = proof.Set{}
	}
	e.watchEnding(now)
	e.beat(now)
}
