package contract

import (
	pb "github.com/conntrack-sync/conntrack-sync/plugin/enginepb"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

func packTuple(t *flow.Tuple) *pb.Tuple {
	if t.IsZero() {
		return nil
	}
	n := t.AddrLen()
	return &pb.Tuple{Src: append([]byte(nil), t.Src[:n]...), Dst: append([]byte(nil), t.Dst[:n]...),
		Sport: uint32(t.Sport), Dport: uint32(t.Dport), Proto: uint32(t.Proto)}
}

func unpackTuple(p *pb.Tuple) (t flow.Tuple) {
	if p == nil {
		return t
	}
	t = flow.Tuple{Sport: uint16(p.Sport), Dport: uint16(p.Dport), Proto: uint8(p.Proto), Family: flow.IPv4}
	if len(p.Src) == 16 {
		t.Family = flow.IPv6
	}
	copy(t.Src[:], p.Src)
	copy(t.Dst[:], p.Dst)
	return t
}

func packFlow(f *flow.Flow) *pb.Flow {
	p := &pb.Flow{
		Orig: packTuple(&f.Orig), Reply: packTuple(&f.Reply), Master: packTuple(&f.Master),
		Zone: uint32(f.Zone), Has: uint32(f.Has), Status: f.Status, Timeout: f.Timeout, Mark: f.Mark, Id: f.ID,
		SctpState: uint32(f.SCTP.State), SctpVtagOrig: f.SCTP.VtagOrig, SctpVtagReply: f.SCTP.VtagReply,
		Helper: f.Helper.String(), Since: f.Since,
	}
	if f.TCP != (flow.TCP{}) {
		p.Tcp = []byte{f.TCP.State, f.TCP.WScaleOrig, f.TCP.WScaleReply, f.TCP.FlagsOrig, f.TCP.FlagsReply}
	}
	if f.DCCP != (flow.DCCP{}) {
		p.Dccp = []byte{f.DCCP.State, f.DCCP.Role}
	}
	if f.Labels != [16]byte{} {
		p.Labels = append(p.Labels, f.Labels[:]...)
	}
	if f.SeqAdjOrig != (flow.SeqAdj{}) || f.SeqAdjReply != (flow.SeqAdj{}) {
		for _, a := range []flow.SeqAdj{f.SeqAdjOrig, f.SeqAdjReply} {
			p.Seqadj = append(p.Seqadj, a.Pos, uint32(a.OffsetBefore), uint32(a.OffsetAfter))
		}
	}
	if f.Synproxy != (flow.Synproxy{}) {
		p.Synproxy = []uint32{f.Synproxy.ISN, f.Synproxy.ITS, f.Synproxy.TSOff}
	}
	if f.Counters != (flow.Counters{}) {
		p.Counters = []uint64{f.Counters.OrigPackets, f.Counters.OrigBytes, f.Counters.ReplyPackets, f.Counters.ReplyBytes}
	}
	return p
}

func unpackFlow(p *pb.Flow, f *flow.Flow) {
	*f = flow.Flow{
		Orig: unpackTuple(p.Orig), Reply: unpackTuple(p.Reply), Master: unpackTuple(p.Master),
		Zone: uint16(p.Zone), Has: flow.Has(p.Has), Status: p.Status, Timeout: p.Timeout, Mark: p.Mark, ID: p.Id,
		SCTP:   flow.SCTP{State: uint8(p.SctpState), VtagOrig: p.SctpVtagOrig, VtagReply: p.SctpVtagReply},
		Helper: flow.MakeHelper(p.Helper), Since: p.Since,
	}
	if b := p.Tcp; len(b) == 5 {
		f.TCP = flow.TCP{State: b[0], WScaleOrig: b[1], WScaleReply: b[2], FlagsOrig: b[3], FlagsReply: b[4]}
	}
	if b := p.Dccp; len(b) == 2 {
		f.DCCP = flow.DCCP{State: b[0], Role: b[1]}
	}
	copy(f.Labels[:], p.Labels)
	if a := p.Seqadj; len(a) == 6 {
		f.SeqAdjOrig = flow.SeqAdj{Pos: a[0], OffsetBefore: int32(a[1]), OffsetAfter: int32(a[2])}
		f.SeqAdjReply = flow.SeqAdj{Pos: a[3], OffsetBefore: int32(a[4]), OffsetAfter: int32(a[5])}
	}
	if a := p.Synproxy; len(a) == 3 {
		f.Synproxy = flow.Synproxy{ISN: a[0], ITS: a[1], TSOff: a[2]}
	}
	if a := p.Counters; len(a) == 4 {
		f.Counters = flow.Counters{OrigPackets: a[0], OrigBytes: a[1], ReplyPackets: a[2], ReplyBytes: a[3]}
	}
}
