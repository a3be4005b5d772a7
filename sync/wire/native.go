package wire

import (
	"encoding/binary"
	"errors"
	"math/bits"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

// Our own protocol, version 2: a frame travels as the bytes behind the header of
// an ALIVE message of version 1, whose sequence number numbers the datagram. A
// conntrackd that meets one takes it for a keepalive. docs/PROTOCOL.md specifies
// what follows.

// Frame is the head of a datagram of version 2.
type Frame struct {
	Seq    uint32 // of the datagram, +1 each
	Sender uint64 // chosen at random when the sender starts
	Epoch  uint32 // of the sender's last reign as MASTER, 0 if there was none
	Role   uint8
	Flags  uint8
	Body   []byte // the messages; aliases the datagram
}

// FlagProbe in a frame asks for a report at once.
const FlagProbe = 1

// Roles in a frame.
const (
	RoleUnknown = iota
	RoleMaster
	RoleBackup
	RoleFault
	RoleStop
)

const (
	frameFixed = 8 + 4 + 1 + 1 + 1 + 1 + 8 + 4 // version 1 header, magic, kind, role, flags, spare, sender, epoch
	frameMax   = 1<<16 - 4                     // what the length field can say
)

// MsgType is the kind of a message in a frame.
type MsgType uint8

// Messages of version 2. The first few have layouts of their own; from
// msgSized on a length follows the type, and a type that is not known is
// skipped.
const (
	MsgFlow   MsgType = 1 // a flow, whole, and the handle that names it from now on
	MsgUpdate MsgType = 2 // what changed of a flow, by handle
	MsgEnd    MsgType = 3 // a flow ended, by handle
	MsgEndKey MsgType = 4 // a flow ended, by key

	MsgExpect      MsgType = 16 // an expectation, as version 1 encodes it
	MsgExpectEnd   MsgType = 17
	MsgReport      MsgType = 18 // what arrived of a sender's datagrams
	MsgBeat        MsgType = 19 // who is there
	MsgDigest      MsgType = 20 // of everything, by group of buckets
	MsgAskBuckets  MsgType = 21 // for the digests of some groups' buckets
	MsgBuckets     MsgType = 22 // the digests of a group's buckets
	MsgAskCopy     MsgType = 23 // for the flows of some buckets
	MsgCopyStart   MsgType = 24
	MsgCopyEnd     MsgType = 25
	MsgQuestion    MsgType = 26 // an operator's, to be answered by one node
	MsgAnswer      MsgType = 27
	msgSized               = 16
	nativeOverhead         = 3 // type and length of a sized message
)

var (
	errShort   = errors.New("message ends early")
	errUnknown = errors.New("message of unknown layout")
)

// ParseFrame reads the head of a frame from a message of version 1; ok is false
// when the message carries none.
func ParseFrame(m *Message) (f Frame, ok bool) {
	b := m.Body
	if m.Type != Control || m.Flags&FlagAlive == 0 || len(b) < frameFixed-headerLen ||
		string(b[:4]) != magic || b[4] != kindFrame || b[5] > RoleStop {
		return f, false
	}
	return Frame{Seq: m.Seq, Role: b[5], Flags: b[6], Sender: be.Uint64(b[8:]), Epoch: be.Uint32(b[16:]), Body: b[20:]}, true
}

// Framer writes messages into frames of at most Max bytes. Its buffers are kept
// from one Reset to the next. The zero value is ready once Max is set.
//
// Begin opens a frame; the messages are appended with the Append functions to
// what Buf returns and taken over with Keep, which says whether they still fit.
// Close ends the frame.
type Framer struct {
	Max  int
	bufs [][]byte
	used int
	cur  []byte
	open bool
	kept int
}

// Reset forgets the frames; their buffers will be used again.
func (p *Framer) Reset() { p.used, p.open = 0, false }

// Begin opens a frame with this head.
func (p *Framer) Begin(f *Frame) {
	if p.used == len(p.bufs) {
		p.bufs = append(p.bufs, make([]byte, 0, p.Max+largest))
	}
	b := append(p.bufs[p.used][:0], version<<4|byte(Control), FlagAlive, 0, 0)
	b = be.AppendUint32(b, f.Seq)
	b = append(append(b, magic...), kindFrame, f.Role, f.Flags, 0)
	b = be.AppendUint64(b, f.Sender)
	p.cur = be.AppendUint32(b, f.Epoch)
	p.open, p.kept = true, len(p.cur)
}

// Open reports whether a frame is open.
func (p *Framer) Open() bool { return p.open }

// Buf is the open frame, to be appended to.
func (p *Framer) Buf() []byte { return p.cur }

// Keep takes over a message appended to Buf. When it does not fit behind others
// it is dropped, fits is false, and the frame must be closed; a message that
// stands alone is kept whatever its length.
func (p *Framer) Keep(b []byte) (fits bool) {
	if padded(len(b)) > min(p.Max, frameMax) && p.kept > frameFixed {
		p.cur = b[:p.kept]
		return false
	}
	p.cur, p.kept = b, len(b)
	return true
}

func padded(n int) int { return (n + 3) &^ 3 }

// Close ends the open frame.
func (p *Framer) Close() {
	for len(p.cur)&3 != 0 {
		p.cur = append(p.cur, 0)
	}
	p.bufs[p.used] = seal(p.cur, 0)
	p.used++
	p.open = false
}

// Datagrams returns the closed frames, valid until the next Reset.
func (p *Framer) Datagrams() [][]byte { return p.bufs[:p.used] }

// fields of a flow, in a uvarint before them.
const (
	fIPv6 = 1 << iota
	fKey
	fReply // the reply tuple is known
	fReplySrc
	fReplyDst
	fReplySport
	fReplyDport
	fStatus
	fTimeout
	fMark
	fTCPState
	fWScaleOrig
	fWScaleReply
	fTCPFlags
	fZone
	fRare
	fCounts // reserved: a receiver cannot skip what it does not know
)

// compact are the fields an update by handle can carry.
const compact = fStatus | fTimeout | fMark | fTCPState | fWScaleOrig | fWScaleReply | fTCPFlags

// rareHas are the attributes of the rare block.
const rareHas = flow.HasSCTP | flow.HasDCCP | flow.HasMaster | flow.HasSeqAdj | flow.HasHelper | flow.HasLabels | flow.HasSynproxy

func fieldsOf(f *flow.Flow) (bitmap uint64) {
	for _, x := range [...]struct {
		has flow.Has
		bit uint64
	}{{flow.HasStatus, fStatus}, {flow.HasTimeout, fTimeout}, {flow.HasMark, fMark}, {flow.HasTCPState, fTCPState},
		{flow.HasTCPWScaleOrig, fWScaleOrig}, {flow.HasTCPWScaleReply, fWScaleReply}, {flow.HasTCPFlags, fTCPFlags},
		{flow.HasReply, fReply}} {
		if f.Has&x.has != 0 {
			bitmap |= x.bit
		}
	}
	if f.Has&rareHas != 0 {
		bitmap |= fRare
	}
	return bitmap
}

// AppendNativeFlow writes a whole flow under a handle.
func AppendNativeFlow(b []byte, handle uint32, f *flow.Flow) []byte {
	b = binary.AppendUvarint(append(b, byte(MsgFlow)), uint64(handle))
	bitmap := fieldsOf(f)
	inverse := f.Orig.Inverse()
	if f.Orig.Family == flow.IPv6 {
		bitmap |= fIPv6
	}
	if f.Orig.Sport|f.Orig.Dport != 0 {
		bitmap |= fKey
	}
	if f.Zone != 0 {
		bitmap |= fZone
	}
	if bitmap&fReply != 0 {
		bitmap |= replyFields(&f.Reply, &inverse)
	}
	b = appendNativeKey(binary.AppendUvarint(b, bitmap), &f.Orig, f.Zone, bitmap)
	b = appendReply(b, f, bitmap)
	b = appendCompact(b, f, bitmap)
	if bitmap&fRare != 0 {
		at := len(b)
		b = appendRareBlock(append(b, 0, 0), f)
		be.PutUint16(b[at:], uint16(len(b)-at-2))
	}
	return b
}

func replyFields(reply, inverse *flow.Tuple) (bitmap uint64) {
	if reply.Src != inverse.Src {
		bitmap |= fReplySrc
	}
	if reply.Dst != inverse.Dst {
		bitmap |= fReplyDst
	}
	if reply.Sport != inverse.Sport {
		bitmap |= fReplySport
	}
	if reply.Dport != inverse.Dport {
		bitmap |= fReplyDport
	}
	return bitmap
}

func appendNativeKey(b []byte, t *flow.Tuple, zone uint16, bitmap uint64) []byte {
	n := t.AddrLen()
	b = append(append(append(b, t.Proto), t.Src[:n]...), t.Dst[:n]...)
	if bitmap&fKey != 0 {
		b = be.AppendUint16(be.AppendUint16(b, t.Sport), t.Dport)
	}
	if bitmap&fZone != 0 {
		b = be.AppendUint16(b, zone)
	}
	return b
}

func appendReply(b []byte, f *flow.Flow, bitmap uint64) []byte {
	n := f.Orig.AddrLen()
	if bitmap&fReplySrc != 0 {
		b = append(b, f.Reply.Src[:n]...)
	}
	if bitmap&fReplyDst != 0 {
		b = append(b, f.Reply.Dst[:n]...)
	}
	if bitmap&fReplySport != 0 {
		b = be.AppendUint16(b, f.Reply.Sport)
	}
	if bitmap&fReplyDport != 0 {
		b = be.AppendUint16(b, f.Reply.Dport)
	}
	return b
}

func appendCompact(b []byte, f *flow.Flow, bitmap uint64) []byte {
	if bitmap&fStatus != 0 {
		b = binary.AppendUvarint(b, uint64(f.Status))
	}
	if bitmap&fTimeout != 0 {
		b = binary.AppendUvarint(b, uint64(f.Timeout))
	}
	if bitmap&fMark != 0 {
		b = be.AppendUint32(b, f.Mark)
	}
	if bitmap&fTCPState != 0 {
		b = append(b, f.TCP.State)
	}
	if bitmap&fWScaleOrig != 0 {
		b = append(b, f.TCP.WScaleOrig)
	}
	if bitmap&fWScaleReply != 0 {
		b = append(b, f.TCP.WScaleReply)
	}
	if bitmap&fTCPFlags != 0 {
		b = append(b, f.TCP.FlagsOrig, f.TCP.FlagsReply)
	}
	return b
}

// what a rare block holds, in its first byte; fields a later release adds stand
// behind those known here and are skipped.
const (
	rSCTP = 1 << iota
	rDCCP
	rMaster
	rSeqAdj
	rHelper
	rLabels
	rSynproxy
)

// appendRareBlock writes what few flows have.
func appendRareBlock(b []byte, f *flow.Flow) []byte {
	at := len(b)
	b = append(b, 0)
	if f.Has&flow.HasSCTP != 0 {
		b[at] |= rSCTP
		b = be.AppendUint32(be.AppendUint32(append(b, f.SCTP.State), f.SCTP.VtagOrig), f.SCTP.VtagReply)
	}
	if f.Has&flow.HasDCCP != 0 {
		b[at] |= rDCCP
		b = append(b, f.DCCP.State, f.DCCP.Role)
	}
	if f.Has&flow.HasMaster != 0 {
		b[at] |= rMaster
		n := f.Orig.AddrLen()
		b = append(append(append(b, f.Master.Proto), f.Master.Src[:n]...), f.Master.Dst[:n]...)
		b = be.AppendUint16(be.AppendUint16(b, f.Master.Sport), f.Master.Dport)
	}
	if f.Has&flow.HasSeqAdj != 0 {
		b[at] |= rSeqAdj
		for _, a := range [...]flow.SeqAdj{f.SeqAdjOrig, f.SeqAdjReply} {
			b = be.AppendUint32(be.AppendUint32(be.AppendUint32(b, a.Pos), uint32(a.OffsetBefore)), uint32(a.OffsetAfter))
		}
	}
	if f.Has&flow.HasHelper != 0 {
		b[at] |= rHelper
		b = append(b, f.Helper[:]...)
	}
	if f.Has&flow.HasLabels != 0 {
		b[at] |= rLabels
		b = append(b, f.Labels[:]...)
	}
	if f.Has&flow.HasSynproxy != 0 {
		b[at] |= rSynproxy
		b = be.AppendUint32(be.AppendUint32(be.AppendUint32(b, f.Synproxy.ISN), f.Synproxy.ITS), f.Synproxy.TSOff)
	}
	return b
}

// Handle check: two bytes of the key's hash, so that a handle whose message was
// lost is not taken for another flow's.

// AppendUpdate writes what may have changed of a flow that is known under its
// handle; check is proof.CheckOf its key.
func AppendUpdate(b []byte, handle uint32, check uint16, f *flow.Flow) []byte {
	b = binary.AppendUvarint(append(b, byte(MsgUpdate)), uint64(handle))
	b = be.AppendUint16(b, check)
	bitmap := fieldsOf(f) & compact
	return appendCompact(binary.AppendUvarint(b, bitmap), f, bitmap)
}

// AppendEnd writes the end of a flow by handle.
func AppendEnd(b []byte, handle uint32, check uint16) []byte {
	b = binary.AppendUvarint(append(b, byte(MsgEnd)), uint64(handle))
	return be.AppendUint16(b, check)
}

// AppendEndKey writes the end of a flow by key.
func AppendEndKey(b []byte, k *flow.Key) []byte {
	bitmap := uint64(0)
	if k.Family == flow.IPv6 {
		bitmap |= fIPv6
	}
	if k.Sport|k.Dport != 0 {
		bitmap |= fKey
	}
	if k.Zone != 0 {
		bitmap |= fZone
	}
	b = binary.AppendUvarint(append(b, byte(MsgEndKey)), bitmap)
	return appendNativeKey(b, &k.Tuple, k.Zone, bitmap)
}

// AppendSized writes a message with a length, for the types that have one.
func AppendSized(b []byte, t MsgType, body []byte) []byte {
	b = be.AppendUint16(append(b, byte(t)), uint16(len(body)))
	return append(b, body...)
}

// AppendNativeExpect writes an expectation, or its end.
func AppendNativeExpect(b []byte, t MsgType, x *flow.Expect) []byte {
	at := len(b)
	b = append(b, byte(t), 0, 0)
	start := len(b)
	b = appendExpectBody(b, x)
	be.PutUint16(b[at+1:], uint16(len(b)-start))
	return b
}

// Native is one message of a frame. Which of its members are set follows from
// the type.
type Native struct {
	Type   MsgType
	Handle uint32
	Check  uint16
	Flow   flow.Flow // of MsgFlow and MsgUpdate; of MsgEndKey the key alone
	Body   []byte    // of a sized message; aliases the frame
}

// NextNative reads the first message of b into m, which it resets, and returns
// the rest. At the end of the frame, where only padding is left, m.Type is 0.
func NextNative(b []byte, m *Native) (rest []byte, err error) {
	m.Type, m.Body = 0, nil
	if len(b) == 0 || b[0] == 0 {
		return nil, nil
	}
	r := reader{b: b[1:]}
	m.Type = MsgType(b[0])
	switch {
	case m.Type >= msgSized:
		n := int(r.u16())
		m.Body = r.bytes(n)
	case m.Type == MsgFlow:
		m.Handle = r.handle()
		r.flow(&m.Flow)
	case m.Type == MsgUpdate:
		m.Handle, m.Check = r.handle(), r.u16()
		m.Flow = flow.Flow{}
		bitmap := r.uvarint(64)
		if bitmap&^compact != 0 {
			return nil, errUnknown
		}
		r.compact(&m.Flow, bitmap)
	case m.Type == MsgEnd:
		m.Handle, m.Check = r.handle(), r.u16()
	case m.Type == MsgEndKey:
		m.Flow = flow.Flow{}
		bitmap := r.uvarint(64)
		if bitmap&^(fIPv6|fKey|fZone) != 0 {
			return nil, errUnknown
		}
		r.key(&m.Flow, bitmap)
	default:
		return nil, errUnknown
	}
	if r.short {
		return nil, errShort
	}
	return r.b, nil
}

// reader takes fields off the front of a message.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) bytes(n int) []byte {
	if n > len(r.b) {
		r.short, r.b = true, nil
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) u8() uint8 {
	if v := r.bytes(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if v := r.bytes(2); v != nil {
		return be.Uint16(v)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if v := r.bytes(4); v != nil {
		return be.Uint32(v)
	}
	return 0
}

// uvarint reads a number of at most so many bits.
func (r *reader) uvarint(most int) uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || bits.Len64(v) > most {
		r.short, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) handle() uint32 { return uint32(r.uvarint(32)) }

func (r *reader) key(f *flow.Flow, bitmap uint64) {
	t := &f.Orig
	t.Family = flow.IPv4
	if bitmap&fIPv6 != 0 {
		t.Family = flow.IPv6
	}
	n := t.AddrLen()
	t.Proto = r.u8()
	copy(t.Src[:], r.bytes(n))
	copy(t.Dst[:], r.bytes(n))
	if bitmap&fKey != 0 {
		t.Sport, t.Dport = r.u16(), r.u16()
	}
	if bitmap&fZone != 0 {
		f.Zone, f.Has = r.u16(), f.Has|flow.HasZone
	}
}

func (r *reader) flow(f *flow.Flow) {
	*f = flow.Flow{}
	bitmap := r.uvarint(64)
	if bitmap >= fCounts {
		r.short, r.b = true, nil
		return
	}
	r.key(f, bitmap)
	if bitmap&fReply != 0 {
		f.Has |= flow.HasReply
		f.Reply = f.Orig.Inverse()
		r.reply(f, bitmap)
	}
	r.compact(f, bitmap)
	if bitmap&fRare != 0 {
		r.rare(f)
	}
	f.SetNAT()
}

func (r *reader) reply(f *flow.Flow, bitmap uint64) {
	n := f.Orig.AddrLen()
	if bitmap&fReplySrc != 0 {
		copy(f.Reply.Src[:], r.bytes(n))
	}
	if bitmap&fReplyDst != 0 {
		copy(f.Reply.Dst[:], r.bytes(n))
	}
	if bitmap&fReplySport != 0 {
		f.Reply.Sport = r.u16()
	}
	if bitmap&fReplyDport != 0 {
		f.Reply.Dport = r.u16()
	}
}

func (r *reader) compact(f *flow.Flow, bitmap uint64) {
	if bitmap&fStatus != 0 {
		f.Status, f.Has = uint32(r.uvarint(32)), f.Has|flow.HasStatus
	}
	if bitmap&fTimeout != 0 {
		f.Timeout, f.Has = uint32(r.uvarint(32)), f.Has|flow.HasTimeout
	}
	if bitmap&fMark != 0 {
		f.Mark, f.Has = r.u32(), f.Has|flow.HasMark
	}
	if bitmap&fTCPState != 0 {
		f.TCP.State, f.Has = r.u8(), f.Has|flow.HasTCPState
	}
	if bitmap&fWScaleOrig != 0 {
		f.TCP.WScaleOrig, f.Has = r.u8(), f.Has|flow.HasTCPWScaleOrig
	}
	if bitmap&fWScaleReply != 0 {
		f.TCP.WScaleReply, f.Has = r.u8(), f.Has|flow.HasTCPWScaleReply
	}
	if bitmap&fTCPFlags != 0 {
		f.TCP.FlagsOrig, f.TCP.FlagsReply, f.Has = r.u8(), r.u8(), f.Has|flow.HasTCPFlags
	}
}

// rare reads the block of what few flows have.
func (r *reader) rare(f *flow.Flow) {
	x := reader{b: r.bytes(int(r.u16()))}
	has := x.u8()
	if has&rSCTP != 0 {
		f.SCTP, f.Has = flow.SCTP{State: x.u8(), VtagOrig: x.u32(), VtagReply: x.u32()}, f.Has|flow.HasSCTP
	}
	if has&rDCCP != 0 {
		f.DCCP, f.Has = flow.DCCP{State: x.u8(), Role: x.u8()}, f.Has|flow.HasDCCP
	}
	if has&rMaster != 0 {
		t, n := &f.Master, f.Orig.AddrLen()
		t.Family, t.Proto = f.Orig.Family, x.u8()
		copy(t.Src[:], x.bytes(n))
		copy(t.Dst[:], x.bytes(n))
		t.Sport, t.Dport = x.u16(), x.u16()
		f.Has |= flow.HasMaster
	}
	if has&rSeqAdj != 0 {
		for _, a := range [...]*flow.SeqAdj{&f.SeqAdjOrig, &f.SeqAdjReply} {
			*a = flow.SeqAdj{Pos: x.u32(), OffsetBefore: int32(x.u32()), OffsetAfter: int32(x.u32())}
		}
		f.Has |= flow.HasSeqAdj
	}
	if has&rHelper != 0 {
		copy(f.Helper[:len(f.Helper)-1], x.bytes(len(f.Helper)))
		f.Has |= flow.HasHelper
	}
	if has&rLabels != 0 {
		copy(f.Labels[:], x.bytes(len(f.Labels)))
		f.Has |= flow.HasLabels
	}
	if has&rSynproxy != 0 {
		f.Synproxy, f.Has = flow.Synproxy{ISN: x.u32(), ITS: x.u32(), TSOff: x.u32()}, f.Has|flow.HasSynproxy
	}
	r.short = r.short || x.short
}

// SetFlags sets the flags of the open frame.
func (p *Framer) SetFlags(flags uint8) { p.cur[headerLen+6] = flags }
