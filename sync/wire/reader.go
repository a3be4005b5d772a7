package wire

import (
	"encoding/binary"
	"math/bits"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

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
