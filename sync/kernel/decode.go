package kernel

import (
	"encoding/binary"
	"errors"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

var (
	be = binary.BigEndian
	ne = binary.NativeEndian
)

var errMalformed = errors.New("malformed ctnetlink message")

const (
	nlHeaderLen = 16 // struct nlmsghdr
	nfHeaderLen = 4  // struct nfgenmsg
)

// walk calls fn for each attribute of b. Types are without their flag bits.
// What an attribute has too little of for its type fn must check.
func walk(b []byte, fn func(typ uint16, v []byte)) error {
	for len(b) >= 4 {
		n := int(ne.Uint16(b))
		if n < 4 || n > len(b) {
			return errMalformed
		}
		fn(ne.Uint16(b[2:])&maskNL, b[4:n])
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}

// decoder fills one flow or expectation after the other. Its callbacks are made
// once, so that decoding allocates nothing.
type decoder struct {
	f     *flow.Flow
	x     *flow.Expect
	tuple *flow.Tuple
	adj   *flow.SeqAdj
	pkts  *uint64
	bytes *uint64
	adjs  uint8
	bad   bool

	typ, code uint8
	id        uint16
	icmp      bool

	onTop, onTuple, onIP, onProto, onInfo, onTCP, onSCTP, onDCCP func(uint16, []byte)
	onHelp, onCounters, onSeqAdj, onSynproxy                     func(uint16, []byte)
	onExpect, onExpectNAT                                        func(uint16, []byte)
}

func newDecoder() *decoder {
	d := &decoder{}
	d.onTop, d.onTuple, d.onIP, d.onProto = d.top, d.tupleAttr, d.ip, d.proto
	d.onInfo, d.onTCP, d.onSCTP, d.onDCCP = d.info, d.tcp, d.sctp, d.dccp
	d.onHelp, d.onCounters, d.onSeqAdj, d.onSynproxy = d.help, d.counters, d.seqAdj, d.synproxy
	d.onExpect, d.onExpectNAT = d.expectAttr, d.expectNAT
	return d
}

// flow decodes the attributes behind an nfgenmsg of this family into f, which
// it resets. Unknown attributes are skipped at every level.
func (d *decoder) flow(family uint8, attrs []byte, f *flow.Flow) error {
	*f = flow.Flow{}
	d.f, d.bad, d.adjs = f, false, 0
	f.Orig.Family, f.Reply.Family = flow.Family(family), flow.Family(family)
	d.nest(attrs, d.onTop)
	if d.bad || f.Orig.IsZero() || f.Orig.Proto == 0 && f.Orig.Src == [16]byte{} {
		return errMalformed
	}
	if d.adjs == 3 {
		f.Has |= flow.HasSeqAdj
	}
	f.SetNAT()
	return nil
}

func (d *decoder) nest(b []byte, fn func(uint16, []byte)) {
	if walk(b, fn) != nil {
		d.bad = true
	}
}

// u32 and its like read a number and mark a short attribute as bad.
func (d *decoder) u32(v []byte) uint32 {
	if len(v) < 4 {
		d.bad = true
		return 0
	}
	return be.Uint32(v)
}

func (d *decoder) u64(v []byte) uint64 {
	if len(v) < 8 {
		d.bad = true
		return 0
	}
	return be.Uint64(v)
}

func (d *decoder) u16(v []byte) uint16 {
	if len(v) < 2 {
		d.bad = true
		return 0
	}
	return be.Uint16(v)
}

func (d *decoder) u8(v []byte) uint8 {
	if len(v) < 1 {
		d.bad = true
		return 0
	}
	return v[0]
}

func (d *decoder) top(typ uint16, v []byte) {
	f := d.f
	switch typ {
	case ctaTupleOrig:
		d.decodeTuple(&f.Orig, v)
	case ctaTupleReply:
		d.decodeTuple(&f.Reply, v)
		f.Has |= flow.HasReply
	case ctaTupleMaster:
		f.Master.Family = f.Orig.Family
		d.decodeTuple(&f.Master, v)
		f.Has |= flow.HasMaster
	case ctaStatus:
		f.Status, f.Has = d.u32(v), f.Has|flow.HasStatus
	case ctaTimeout:
		f.Timeout, f.Has = d.u32(v), f.Has|flow.HasTimeout
	case ctaMark:
		f.Mark, f.Has = d.u32(v), f.Has|flow.HasMark
	case ctaID:
		f.ID, f.Has = d.u32(v), f.Has|flow.HasID
	case ctaZone:
		f.Zone, f.Has = d.u16(v), f.Has|flow.HasZone
	case ctaLabels:
		f.Labels = [16]byte{}
		copy(f.Labels[:], v)
		f.Has |= flow.HasLabels
	default:
		d.topNests(typ, v)
	}
}

func (d *decoder) topNests(typ uint16, v []byte) {
	f := d.f
	switch typ {
	case ctaProtoInfo:
		d.nest(v, d.onInfo)
	case ctaHelp:
		d.nest(v, d.onHelp)
	case ctaCountersOrig:
		d.pkts, d.bytes = &f.Counters.OrigPackets, &f.Counters.OrigBytes
		d.nest(v, d.onCounters)
		f.Has |= flow.HasCounters
	case ctaCountersReply:
		d.pkts, d.bytes = &f.Counters.ReplyPackets, &f.Counters.ReplyBytes
		d.nest(v, d.onCounters)
		f.Has |= flow.HasCounters
	case ctaSeqAdjOrig:
		d.adj = &f.SeqAdjOrig
		d.nest(v, d.onSeqAdj)
		d.adjs |= 1
	case ctaSeqAdjReply:
		d.adj = &f.SeqAdjReply
		d.nest(v, d.onSeqAdj)
		d.adjs |= 2
	case ctaSynproxy:
		// A flow made over ctnetlink has one of zeros, which says nothing.
		if d.nest(v, d.onSynproxy); f.Synproxy != (flow.Synproxy{}) {
			f.Has |= flow.HasSynproxy
		}
	}
}

func (d *decoder) decodeTuple(t *flow.Tuple, v []byte) {
	d.tuple, d.icmp = t, false
	d.typ, d.code, d.id = 0, 0, 0
	d.nest(v, d.onTuple)
	if d.icmp {
		t.Sport, t.Dport = d.id, uint16(d.typ)<<8|uint16(d.code)
	}
}

func (d *decoder) tupleAttr(typ uint16, v []byte) {
	switch typ {
	case tupleIP:
		d.nest(v, d.onIP)
	case tupleProto:
		d.nest(v, d.onProto)
	}
}

func (d *decoder) ip(typ uint16, v []byte) {
	n := 4
	if typ == ipV6Src || typ == ipV6Dst {
		n = 16
	}
	if typ > ipV6Dst {
		return
	}
	if len(v) != n {
		d.bad = true
		return
	}
	switch typ {
	case ipV4Src, ipV6Src:
		copy(d.tuple.Src[:], v)
	case ipV4Dst, ipV6Dst:
		copy(d.tuple.Dst[:], v)
	}
}

func (d *decoder) proto(typ uint16, v []byte) {
	switch typ {
	case protoNum:
		d.tuple.Proto = d.u8(v)
	case protoSrcPort:
		d.tuple.Sport = d.u16(v)
	case protoDstPort:
		d.tuple.Dport = d.u16(v)
	case protoICMPID, protoICMPv6ID:
		d.id, d.icmp = d.u16(v), true
	case protoICMPType, protoICMPv6Type:
		d.typ, d.icmp = d.u8(v), true
	case protoICMPCode, protoICMPv6Code:
		d.code, d.icmp = d.u8(v), true
	}
}

func (d *decoder) info(typ uint16, v []byte) {
	switch typ {
	case infoTCP:
		d.nest(v, d.onTCP)
	case infoSCTP:
		d.nest(v, d.onSCTP)
		d.f.Has |= flow.HasSCTP
	case infoDCCP:
		d.nest(v, d.onDCCP)
		d.f.Has |= flow.HasDCCP
	}
}

// tcp: the kernel reports a window scale of 0 for a direction that has none;
// only the flag tells. Scales come before the flags and are kept until then.
func (d *decoder) tcp(typ uint16, v []byte) {
	t := &d.f.TCP
	switch typ {
	case tcpState:
		t.State, d.f.Has = d.u8(v), d.f.Has|flow.HasTCPState
	case tcpWScaleOrig:
		t.WScaleOrig = d.u8(v)
	case tcpWScaleReply:
		t.WScaleReply = d.u8(v)
	case tcpFlagsOrig:
		t.FlagsOrig, d.f.Has = d.u8(v), d.f.Has|flow.HasTCPFlags
		if t.FlagsOrig&tcpFlagWindowScale != 0 {
			d.f.Has |= flow.HasTCPWScaleOrig
		}
	case tcpFlagsReply:
		t.FlagsReply, d.f.Has = d.u8(v), d.f.Has|flow.HasTCPFlags
		if t.FlagsReply&tcpFlagWindowScale != 0 {
			d.f.Has |= flow.HasTCPWScaleReply
		}
	}
}

func (d *decoder) sctp(typ uint16, v []byte) {
	s := &d.f.SCTP
	switch typ {
	case sctpState:
		s.State = d.u8(v)
	case sctpVtagOrig:
		s.VtagOrig = d.u32(v)
	case sctpVtagReply:
		s.VtagReply = d.u32(v)
	}
}

func (d *decoder) dccp(typ uint16, v []byte) {
	switch typ {
	case dccpState:
		d.f.DCCP.State = d.u8(v)
	case dccpRole:
		d.f.DCCP.Role = d.u8(v)
	}
}

func (d *decoder) help(typ uint16, v []byte) {
	if typ != helpName {
		return
	}
	d.f.Helper = flow.HelperName{}
	copy(d.f.Helper[:len(d.f.Helper)-1], v)
	d.f.Has |= flow.HasHelper
}

func (d *decoder) counters(typ uint16, v []byte) {
	switch typ {
	case countersPackets:
		*d.pkts = d.u64(v)
	case countersBytes:
		*d.bytes = d.u64(v)
	}
}

func (d *decoder) seqAdj(typ uint16, v []byte) {
	switch typ {
	case seqAdjPos:
		d.adj.Pos = d.u32(v)
	case seqAdjBefore:
		d.adj.OffsetBefore = int32(d.u32(v))
	case seqAdjAfter:
		d.adj.OffsetAfter = int32(d.u32(v))
	}
}

func (d *decoder) synproxy(typ uint16, v []byte) {
	s := &d.f.Synproxy
	switch typ {
	case synproxyISN:
		s.ISN = d.u32(v)
	case synproxyITS:
		s.ITS = d.u32(v)
	case synproxyTSOff:
		s.TSOff = d.u32(v)
	}
}
