package kernel

import (
	"encoding/binary"
	"errors"
	"iter"

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

// decoder reads one flow or expectation after the other.
type decoder struct {
	bad  bool  // something was malformed
	adjs uint8 // directions whose sequence adjustment was read: 1 original, 2 reply
}

// attrs are the attributes of a nest, to be ranged over where they are read, which
// compiles to a plain loop: calls through function values, attribute by attribute, were
// half of the cost of reading an event. Types are without the flag bits. It ends at one
// whose length cannot be, which is bad. What v has too little of for its type the reader
// must check.
func (d *decoder) attrs(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(typ uint16, v []byte) bool) {
		for len(b) >= 4 {
			n := int(ne.Uint16(b))
			if n < 4 || n > len(b) {
				d.bad = true
				return
			}
			if !yield(ne.Uint16(b[2:])&maskNL, b[4:n]) {
				return
			}
			b = b[min((n+3)&^3, len(b)):]
		}
	}
}

// flow decodes the attributes behind an nfgenmsg of this family into f, which
// it resets. Unknown attributes are skipped at every level.
func (d *decoder) flow(family uint8, attrs []byte, f *flow.Flow) error {
	*f = flow.Flow{}
	d.bad, d.adjs = false, 0
	f.Orig.Family, f.Reply.Family = flow.Family(family), flow.Family(family)
	d.top(f, attrs)
	if d.bad || f.Orig.IsZero() || f.Orig.Proto == 0 && f.Orig.Src == [16]byte{} {
		return errMalformed
	}
	if d.adjs == 3 {
		f.Has |= flow.HasSeqAdj
	}
	f.SetNAT()
	return nil
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

func (d *decoder) top(f *flow.Flow, b []byte) {
	for typ, v := range d.attrs(b) {
		switch typ {
		case ctaTupleOrig:
			d.tuple(&f.Orig, v)
		case ctaTupleReply:
			d.tuple(&f.Reply, v)
			f.Has |= flow.HasReply
		case ctaStatus:
			f.Status, f.Has = d.u32(v), f.Has|flow.HasStatus
		case ctaTimeout:
			f.Timeout, f.Has = d.u32(v), f.Has|flow.HasTimeout
		case ctaProtoInfo:
			d.info(f, v)
		case ctaMark:
			f.Mark, f.Has = d.u32(v), f.Has|flow.HasMark
		case ctaID:
			f.ID, f.Has = d.u32(v), f.Has|flow.HasID
		case ctaZone:
			f.Zone, f.Has = d.u16(v), f.Has|flow.HasZone
		default:
			d.rare(f, typ, v)
		}
	}
}

// rare reads what few flows have.
func (d *decoder) rare(f *flow.Flow, typ uint16, v []byte) {
	switch typ {
	case ctaTupleMaster:
		f.Master.Family = f.Orig.Family
		d.tuple(&f.Master, v)
		f.Has |= flow.HasMaster
	case ctaLabels:
		f.Labels = [16]byte{}
		copy(f.Labels[:], v)
		f.Has |= flow.HasLabels
	case ctaHelp:
		d.help(f, v)
	case ctaCountersOrig:
		d.counters(&f.Counters.OrigPackets, &f.Counters.OrigBytes, v)
		f.Has |= flow.HasCounters
	case ctaCountersReply:
		d.counters(&f.Counters.ReplyPackets, &f.Counters.ReplyBytes, v)
		f.Has |= flow.HasCounters
	case ctaSeqAdjOrig:
		d.seqAdj(&f.SeqAdjOrig, v)
		d.adjs |= 1
	case ctaSeqAdjReply:
		d.seqAdj(&f.SeqAdjReply, v)
		d.adjs |= 2
	case ctaSynproxy:
		// A flow made over ctnetlink has one of zeros, which says nothing.
		if d.synproxy(&f.Synproxy, v); f.Synproxy != (flow.Synproxy{}) {
			f.Has |= flow.HasSynproxy
		}
	}
}

func (d *decoder) tuple(t *flow.Tuple, b []byte) {
	for typ, v := range d.attrs(b) {
		switch typ {
		case tupleIP:
			d.ip(t, v)
		case tupleProto:
			d.proto(t, v)
		}
	}
}

func (d *decoder) ip(t *flow.Tuple, b []byte) {
	for typ, v := range d.attrs(b) {
		switch typ {
		case ipV4Src:
			d.addr(&t.Src, v, 4)
		case ipV4Dst:
			d.addr(&t.Dst, v, 4)
		case ipV6Src:
			d.addr(&t.Src, v, 16)
		case ipV6Dst:
			d.addr(&t.Dst, v, 16)
		}
	}
}

func (d *decoder) addr(a *[16]byte, v []byte, n int) {
	if len(v) != n {
		d.bad = true
		return
	}
	copy(a[:], v)
}

func (d *decoder) proto(t *flow.Tuple, b []byte) {
	var id uint16
	var icmpType, icmpCode uint8
	var icmp bool
	for typ, v := range d.attrs(b) {
		switch typ {
		case protoNum:
			t.Proto = d.u8(v)
		case protoSrcPort:
			t.Sport = d.u16(v)
		case protoDstPort:
			t.Dport = d.u16(v)
		case protoICMPID, protoICMPv6ID:
			id, icmp = d.u16(v), true
		case protoICMPType, protoICMPv6Type:
			icmpType, icmp = d.u8(v), true
		case protoICMPCode, protoICMPv6Code:
			icmpCode, icmp = d.u8(v), true
		}
	}
	if icmp {
		t.Sport, t.Dport = id, uint16(icmpType)<<8|uint16(icmpCode)
	}
}

func (d *decoder) info(f *flow.Flow, b []byte) {
	for typ, v := range d.attrs(b) {
		switch typ {
		case infoTCP:
			d.tcp(f, v)
		case infoSCTP:
			d.sctp(&f.SCTP, v)
			f.Has |= flow.HasSCTP
		case infoDCCP:
			d.dccp(&f.DCCP, v)
			f.Has |= flow.HasDCCP
		}
	}
}

// tcp: the kernel reports a window scale of 0 for a direction that has none;
// only the flag tells.
func (d *decoder) tcp(f *flow.Flow, b []byte) {
	t := &f.TCP
	for typ, v := range d.attrs(b) {
		switch typ {
		case tcpState:
			t.State, f.Has = d.u8(v), f.Has|flow.HasTCPState
		case tcpWScaleOrig:
			t.WScaleOrig = d.u8(v)
		case tcpWScaleReply:
			t.WScaleReply = d.u8(v)
		case tcpFlagsOrig:
			t.FlagsOrig, f.Has = d.u8(v), f.Has|flow.HasTCPFlags
			if t.FlagsOrig&tcpFlagWindowScale != 0 {
				f.Has |= flow.HasTCPWScaleOrig
			}
		case tcpFlagsReply:
			t.FlagsReply, f.Has = d.u8(v), f.Has|flow.HasTCPFlags
			if t.FlagsReply&tcpFlagWindowScale != 0 {
				f.Has |= flow.HasTCPWScaleReply
			}
		}
	}
}

func (d *decoder) sctp(s *flow.SCTP, b []byte) {
	for typ, v := range d.attrs(b) {
		switch typ {
		case sctpState:
			s.State = d.u8(v)
		case sctpVtagOrig:
			s.VtagOrig = d.u32(v)
		case sctpVtagReply:
			s.VtagReply = d.u32(v)
		}
	}
}

func (d *decoder) dccp(s *flow.DCCP, b []byte) {
	for typ, v := range d.attrs(b) {
		switch typ {
		case dccpState:
			s.State = d.u8(v)
		case dccpRole:
			s.Role = d.u8(v)
		}
	}
}

func (d *decoder) help(f *flow.Flow, b []byte) {
	for typ, v := range d.attrs(b) {
		switch typ {
		case helpName:
			f.Helper = flow.HelperName{}
			copy(f.Helper[:len(f.Helper)-1], v)
			f.Has |= flow.HasHelper
		}
	}
}

func (d *decoder) counters(packets, bytes *uint64, b []byte) {
	for typ, v := range d.attrs(b) {
		switch typ {
		case countersPackets:
			*packets = d.u64(v)
		case countersBytes:
			*bytes = d.u64(v)
		}
	}
}

func (d *decoder) seqAdj(a *flow.SeqAdj, b []byte) {
	for typ, v := range d.attrs(b) {
		switch typ {
		case seqAdjPos:
			a.Pos = d.u32(v)
		case seqAdjBefore:
			a.OffsetBefore = int32(d.u32(v))
		case seqAdjAfter:
			a.OffsetAfter = int32(d.u32(v))
		}
	}
}

func (d *decoder) synproxy(s *flow.Synproxy, b []byte) {
	for typ, v := range d.attrs(b) {
		switch typ {
		case synproxyISN:
			s.ISN = d.u32(v)
		case synproxyITS:
			s.ITS = d.u32(v)
		case synproxyTSOff:
			s.TSOff = d.u32(v)
		}
	}
}
