package wire

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

var (
	be = binary.BigEndian
	le = binary.LittleEndian
)

// Errors of an attribute row. One of them discards its message.
var (
	errOverrun   = errors.New("attribute reaches beyond its message")
	errNoAddress = errors.New("message without addresses")
	errNoProto   = errors.New("message without a protocol")
)

// Attribute numbers of conntrack messages.
const (
	ctIPv4 = iota
	ctIPv6
	ctL4Proto
	ctPort
	ctTCPState
	ctStatus
	ctTimeout
	ctMark
	ctMasterIPv4
	ctMasterIPv6
	ctMasterL4Proto
	ctMasterPort
	ctSNATIPv4
	ctDNATIPv4
	ctSPATPort
	ctDPATPort
	ctSeqAdj
	ctSCTPState
	ctSCTPVtagOrig
	ctSCTPVtagReply
	ctDCCPState
	ctDCCPRole
	ctICMPType
	ctICMPCode
	ctICMPID
	ctWScaleOrig
	ctWScaleReply
	ctHelper
	ctLabels
	ctSNATIPv6
	ctDNATIPv6
	ctSynproxy
	ctZone
	ctCount
)

// attribute is a row of the table: the value's length, exact unless max, and
// how to take it in. Values of max attributes may be shorter. Ports, ICMP keys
// and translations are put where they will stand, in Orig and Reply; finish
// completes the tuples around them.
type attribute struct {
	len int
	max bool
	get func(f *flow.Flow, v []byte)
}

var attributes = [ctCount]attribute{
	ctIPv4:          {len: 8, get: func(f *flow.Flow, v []byte) { getAddrs(&f.Orig, flow.IPv4, v) }},
	ctIPv6:          {len: 32, get: func(f *flow.Flow, v []byte) { getAddrs(&f.Orig, flow.IPv6, v) }},
	ctL4Proto:       {len: 1, get: func(f *flow.Flow, v []byte) { f.Orig.Proto = v[0] }},
	ctPort:          {len: 4, get: func(f *flow.Flow, v []byte) { f.Orig.Sport, f.Orig.Dport = be.Uint16(v), be.Uint16(v[2:]) }},
	ctTCPState:      {len: 1, get: func(f *flow.Flow, v []byte) { f.TCP.State = v[0]; f.Has |= flow.HasTCPState }},
	ctStatus:        {len: 4, get: func(f *flow.Flow, v []byte) { f.Status = be.Uint32(v); f.Has |= flow.HasStatus }},
	ctTimeout:       {len: 4, get: func(f *flow.Flow, v []byte) { f.Timeout = be.Uint32(v); f.Has |= flow.HasTimeout }},
	ctMark:          {len: 4, get: func(f *flow.Flow, v []byte) { f.Mark = be.Uint32(v); f.Has |= flow.HasMark }},
	ctMasterIPv4:    {len: 8, get: func(f *flow.Flow, v []byte) { getAddrs(&f.Master, flow.IPv4, v); f.Has |= flow.HasMaster }},
	ctMasterIPv6:    {len: 32, get: func(f *flow.Flow, v []byte) { getAddrs(&f.Master, flow.IPv6, v); f.Has |= flow.HasMaster }},
	ctMasterL4Proto: {len: 1, get: func(f *flow.Flow, v []byte) { f.Master.Proto = v[0]; f.Has |= flow.HasMaster }},
	ctMasterPort: {len: 4, get: func(f *flow.Flow, v []byte) {
		f.Master.Sport, f.Master.Dport = be.Uint16(v), be.Uint16(v[2:])
	}},
	ctSNATIPv4:      {len: 4, get: func(f *flow.Flow, v []byte) { setAddr(f, &f.Reply.Dst, flow.HasSNAT, v) }},
	ctDNATIPv4:      {len: 4, get: func(f *flow.Flow, v []byte) { setAddr(f, &f.Reply.Src, flow.HasDNAT, v) }},
	ctSPATPort:      {len: 2, get: func(f *flow.Flow, v []byte) { f.Reply.Dport = le.Uint16(v); f.Has |= flow.HasSPAT }},
	ctDPATPort:      {len: 2, get: func(f *flow.Flow, v []byte) { f.Reply.Sport = le.Uint16(v); f.Has |= flow.HasDPAT }},
	ctSeqAdj:        {len: 24, get: getSeqAdj},
	ctSCTPState:     {len: 1, get: func(f *flow.Flow, v []byte) { f.SCTP.State = v[0]; f.Has |= flow.HasSCTP }},
	ctSCTPVtagOrig:  {len: 4, get: func(f *flow.Flow, v []byte) { f.SCTP.VtagOrig = be.Uint32(v); f.Has |= flow.HasSCTP }},
	ctSCTPVtagReply: {len: 4, get: func(f *flow.Flow, v []byte) { f.SCTP.VtagReply = be.Uint32(v); f.Has |= flow.HasSCTP }},
	ctDCCPState:     {len: 1, get: func(f *flow.Flow, v []byte) { f.DCCP.State = v[0]; f.Has |= flow.HasDCCP }},
	ctDCCPRole:      {len: 1, get: func(f *flow.Flow, v []byte) { f.DCCP.Role = v[0]; f.Has |= flow.HasDCCP }},
	ctICMPType: {len: 1, get: func(f *flow.Flow, v []byte) {
		f.Orig.Dport = f.Orig.Dport&0xff | uint16(v[0])<<8
		f.Has |= flow.HasICMP
	}},
	ctICMPCode:    {len: 1, get: func(f *flow.Flow, v []byte) { f.Orig.Dport = f.Orig.Dport&^0xff | uint16(v[0]); f.Has |= flow.HasICMP }},
	ctICMPID:      {len: 2, get: func(f *flow.Flow, v []byte) { f.Orig.Sport = le.Uint16(v); f.Has |= flow.HasICMP }},
	ctWScaleOrig:  {len: 1, get: func(f *flow.Flow, v []byte) { f.TCP.WScaleOrig = v[0]; f.Has |= flow.HasTCPWScaleOrig }},
	ctWScaleReply: {len: 1, get: func(f *flow.Flow, v []byte) { f.TCP.WScaleReply = v[0]; f.Has |= flow.HasTCPWScaleReply }},
	ctHelper:      {len: helperMax, max: true, get: getHelper},
	ctLabels:      {len: 1024, max: true, get: getLabels},
	ctSNATIPv6:    {len: 16, get: func(f *flow.Flow, v []byte) { setAddr(f, &f.Reply.Dst, flow.HasSNAT, v) }},
	ctDNATIPv6:    {len: 16, get: func(f *flow.Flow, v []byte) { setAddr(f, &f.Reply.Src, flow.HasDNAT, v) }},
	ctSynproxy:    {len: 12, get: getSynproxy},
	ctZone:        {len: 2, get: func(f *flow.Flow, v []byte) { f.Zone = be.Uint16(v); f.Has |= flow.HasZone }},
}

// helperMax is the most a helper name takes with its terminating zero.
const helperMax = 12

func getAddrs(t *flow.Tuple, fam flow.Family, v []byte) {
	n := len(v) / 2
	t.Family = fam
	t.Src, t.Dst = [16]byte{}, [16]byte{}
	copy(t.Src[:], v[:n])
	copy(t.Dst[:], v[n:])
}

func setAddr(f *flow.Flow, dst *[16]byte, bit flow.Has, v []byte) {
	*dst = [16]byte{}
	copy(dst[:], v)
	f.Has |= bit
}

func getSeqAdj(f *flow.Flow, v []byte) {
	f.SeqAdjOrig = flow.SeqAdj{Pos: be.Uint32(v), OffsetBefore: int32(be.Uint32(v[4:])), OffsetAfter: int32(be.Uint32(v[8:]))}
	f.SeqAdjReply = flow.SeqAdj{Pos: be.Uint32(v[12:]), OffsetBefore: int32(be.Uint32(v[16:])), OffsetAfter: int32(be.Uint32(v[20:]))}
	f.Has |= flow.HasSeqAdj
}

func getHelper(f *flow.Flow, v []byte) {
	f.Helper = flow.HelperName{}
	copy(f.Helper[:len(f.Helper)-1], v)
	f.Has |= flow.HasHelper
}

// getLabels takes 32-bit words, big-endian, label 0 in the lowest bit of the
// first; words beyond the kernel's 128 labels are dropped, a row that is no
// whole number of words is ignored, as conntrackd does.
func getLabels(f *flow.Flow, v []byte) {
	if len(v)%4 != 0 {
		return
	}
	f.Labels = [16]byte{}
	for i := 0; i+4 <= len(v) && i < len(f.Labels); i += 4 {
		le.PutUint32(f.Labels[i:], be.Uint32(v[i:]))
	}
	f.Has |= flow.HasLabels
}

func getSynproxy(f *flow.Flow, v []byte) {
	f.Synproxy = flow.Synproxy{ITS: be.Uint32(v), ISN: be.Uint32(v[4:]), TSOff: be.Uint32(v[8:])}
	f.Has |= flow.HasSynproxy
}

// ParseFlow reads the attributes of a conntrack message into f, which it
// resets. Attributes with unknown numbers are skipped. The reply tuple, which
// does not travel, is made from the original one and the translation.
func ParseFlow(body []byte, f *flow.Flow) error {
	*f = flow.Flow{}
	for len(body) > 4 {
		num, v, rest, err := nextAttribute(body)
		if err != nil {
			return err
		}
		body = rest
		if num >= ctCount {
			continue
		}
		a := &attributes[num]
		if len(v) != a.len && (!a.max || len(v) > a.len) {
			return fmt.Errorf("attribute %d has %d bytes, not %d", num, len(v), a.len)
		}
		a.get(f, v)
	}
	return finish(f)
}

func nextAttribute(b []byte) (num uint16, v, rest []byte, err error) {
	n := int(be.Uint16(b))
	if n < 4 || n > len(b) {
		return 0, nil, nil, errOverrun
	}
	return be.Uint16(b[2:]), b[4:n], b[min(pad(n), len(b)):], nil
}

func pad(n int) int { return (n + 3) &^ 3 }

// finish completes the tuples around what the attributes brought.
func finish(f *flow.Flow) error {
	if f.Orig.Family == 0 {
		return errNoAddress
	}
	if f.Orig.Proto == 0 {
		return errNoProto
	}
	if !f.Orig.HasPorts() && !f.Orig.IsICMP() {
		f.Orig.Sport, f.Orig.Dport = 0, 0
	}
	given := f.Reply
	f.Reply = f.Orig.Inverse()
	if f.Has&flow.HasSNAT != 0 {
		f.Reply.Dst = given.Dst
	}
	if f.Has&flow.HasDNAT != 0 {
		f.Reply.Src = given.Src
	}
	f.Has |= flow.HasReply
	if !f.Orig.HasPorts() {
		return nil // conntrackd compares ports of ICMP too: the values mean nothing
	}
	if f.Has&flow.HasSPAT != 0 {
		f.Reply.Dport = given.Dport
	}
	if f.Has&flow.HasDPAT != 0 {
		f.Reply.Sport = given.Sport
	}
	return nil
}
