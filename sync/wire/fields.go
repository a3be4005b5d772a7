package wire

import (
	"encoding/binary"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

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

// compact are the fields an update by handle can carry.
const compact = fStatus | fTimeout | fMark | fTCPState | fWScaleOrig | fWScaleReply | fTCPFlags
