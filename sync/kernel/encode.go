package kernel

import (
	"bytes"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"golang.org/x/sys/unix"
)

// encoder writes netlink messages back to back into one buffer.
type encoder struct {
	buf []byte
	msg int // start of the message being written
}

// begin starts a message to a subsystem of ctnetlink about this family.
func (e *encoder) begin(sub, typ, flags uint16, seq uint32, family flow.Family) {
	e.header(sub<<8|typ, flags, seq)
	e.buf = append(e.buf, byte(family), 0, 0, 0)
}

func (e *encoder) header(typ, flags uint16, seq uint32) {
	e.msg = len(e.buf)
	e.buf = append(e.buf, 0, 0, 0, 0)
	e.buf = ne.AppendUint16(e.buf, typ)
	e.buf = ne.AppendUint16(e.buf, flags|unix.NLM_F_REQUEST)
	e.buf = ne.AppendUint32(e.buf, seq)
	e.buf = append(e.buf, 0, 0, 0, 0)
}

func (e *encoder) end() { ne.PutUint32(e.buf[e.msg:], uint32(len(e.buf)-e.msg)) }

// open begins a nest and returns its place for close.
func (e *encoder) open(typ uint16) int {
	at := len(e.buf)
	e.buf = ne.AppendUint16(e.buf, 0)
	e.buf = ne.AppendUint16(e.buf, typ|nested)
	return at
}

func (e *encoder) close(at int) { ne.PutUint16(e.buf[at:], uint16(len(e.buf)-at)) }

func (e *encoder) attr(typ uint16, n int) {
	e.buf = ne.AppendUint16(e.buf, uint16(4+n))
	e.buf = ne.AppendUint16(e.buf, typ)
}

func (e *encoder) bytes(typ uint16, v []byte) {
	e.attr(typ, len(v))
	e.buf = append(e.buf, v...)
	e.pad()
}

// name writes a zero-padded name with the one zero the kernel demands.
func (e *encoder) name(typ uint16, v []byte) {
	if i := bytes.IndexByte(v, 0); i >= 0 {
		v = v[:i]
	}
	e.attr(typ, len(v)+1)
	e.buf = append(append(e.buf, v...), 0)
	e.pad()
}

func (e *encoder) pad() {
	for len(e.buf)&3 != 0 {
		e.buf = append(e.buf, 0)
	}
}

func (e *encoder) u8(typ uint16, v uint8) {
	e.attr(typ, 1)
	e.buf = append(e.buf, v, 0, 0, 0)
}

func (e *encoder) u16(typ, v uint16) {
	e.attr(typ, 2)
	e.buf = append(be.AppendUint16(e.buf, v), 0, 0)
}

func (e *encoder) u32(typ uint16, v uint32) {
	e.attr(typ, 4)
	e.buf = be.AppendUint32(e.buf, v)
}

func (e *encoder) tuple(typ uint16, t *flow.Tuple) {
	nest := e.open(typ)
	ip := e.open(tupleIP)
	n, src, dst := t.AddrLen(), uint16(ipV4Src), uint16(ipV4Dst)
	if t.Family == flow.IPv6 {
		src, dst = ipV6Src, ipV6Dst
	}
	e.bytes(src, t.Src[:n])
	e.bytes(dst, t.Dst[:n])
	e.close(ip)
	p := e.open(tupleProto)
	e.u8(protoNum, t.Proto)
	e.key(t)
	e.close(p)
	e.close(nest)
}

// key writes the layer-4 key for the protocols that have one.
func (e *encoder) key(t *flow.Tuple) {
	typ, code, id := t.ICMP()
	switch {
	case t.HasPorts() || t.Proto == flow.ProtoGRE:
		e.u16(protoSrcPort, t.Sport)
		e.u16(protoDstPort, t.Dport)
	case t.Proto == flow.ProtoICMP:
		e.u16(protoICMPID, id)
		e.u8(protoICMPType, typ)
		e.u8(protoICMPCode, code)
	case t.Proto == flow.ProtoICMPv6:
		e.u16(protoICMPv6ID, id)
		e.u8(protoICMPv6Type, typ)
		e.u8(protoICMPv6Code, code)
	}
}

// Bits of the status that are the kernel's own, refused (EXPECTED, DYING) or
// believed although nothing stands behind them (HELPER, FIXED_TIMEOUT).
const statusMasked = flow.StatusExpected | flow.StatusDying | flow.StatusHelper | flow.StatusFixedTimeout |
	flow.StatusOffload | flow.StatusHWOffload | flow.StatusTemplate | flow.StatusUntracked

// fallbackTimeout is for a flow whose timeout is not known, in seconds: the
// kernel demands one.
const fallbackTimeout = 60

// greTimeout is what a GRE flow is given, in seconds. The kernel keeps a GRE
// flow's timeouts inside the flow, fills them in when a packet makes it, and
// refreshes the flow with them at every later one: a flow made over ctnetlink has
// zeros there and would end with its first packet (seen on 6.18). So it is made
// with a fixed timeout that no packet changes; a tunnel in use for longer is
// tracked anew by its next packet.
const greTimeout = 24 * 3600

// create writes the message that makes f a flow the kernel translates: the
// reply tuple as the plain inverse of the original, and the translation as NAT
// attributes with the port spelled out. A reply tuple that is translated already
// looks right in a listing and translates nothing.
func (e *encoder) create(seq uint32, f *flow.Flow, helper bool) {
	e.begin(subsystem, msgNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL, seq, f.Orig.Family)
	inverse := f.Orig.Inverse()
	e.tuple(ctaTupleOrig, &f.Orig)
	e.tuple(ctaTupleReply, &inverse)
	e.zone(f)
	status, timeout := f.Status&^statusMasked|flow.StatusConfirmed, f.Timeout
	if f.Has&flow.HasTimeout == 0 || timeout == 0 {
		timeout = fallbackTimeout
	}
	if f.Orig.Proto == flow.ProtoGRE {
		status |= flow.StatusFixedTimeout
		timeout = max(timeout, greTimeout)
	}
	e.u32(ctaStatus, status)
	e.u32(ctaTimeout, timeout)
	if f.Has&flow.HasMark != 0 {
		e.u32(ctaMark, f.Mark)
	}
	if f.Has&(flow.HasSNAT|flow.HasSPAT) != 0 || otherID(f) {
		e.nat(ctaNATSrc, f, &f.Reply.Dst, f.Reply.Dport)
	}
	if f.Has&(flow.HasDNAT|flow.HasDPAT) != 0 {
		e.nat(ctaNATDst, f, &f.Reply.Src, f.Reply.Sport)
	}
	if f.Has&flow.HasMaster != 0 {
		e.tuple(ctaTupleMaster, &f.Master)
	}
	if helper && f.Has&flow.HasHelper != 0 {
		e.help(f)
	}
	e.common(f)
	e.end()
}

// update writes the message that brings an existing flow up to date in place.
// NAT, master and helper cannot be changed; the kernel refuses the attributes
// themselves. Status bits may only be added.
func (e *encoder) update(seq uint32, f *flow.Flow, status uint32) {
	e.begin(subsystem, msgNew, 0, seq, f.Orig.Family)
	e.tuple(ctaTupleOrig, &f.Orig)
	e.zone(f)
	e.u32(ctaStatus, status|f.Status&(flow.StatusSeenReply|flow.StatusAssured))
	e.u32(ctaMark, f.Mark) // also 0: what is there may have one of its own
	// The kernel refuses to change a fixed timeout.
	if f.Has&flow.HasTimeout != 0 && f.Timeout != 0 && status&flow.StatusFixedTimeout == 0 {
		e.u32(ctaTimeout, f.Timeout)
	}
	e.common(f)
	e.end()
}

// get and remove name a flow by its original tuple.
func (e *encoder) get(seq uint32, t *flow.Tuple, f *flow.Flow) {
	e.begin(subsystem, msgGet, 0, seq, t.Family)
	e.tuple(ctaTupleOrig, t)
	e.zone(f)
	e.end()
}

func (e *encoder) remove(seq uint32, t *flow.Tuple, f *flow.Flow, id bool) {
	e.begin(subsystem, msgDelete, 0, seq, t.Family)
	e.tuple(ctaTupleOrig, t)
	e.zone(f)
	if id && f.Has&flow.HasID != 0 {
		e.u32(ctaID, f.ID)
	}
	e.end()
}

// barrier writes a message whose acknowledgement says that all before it were
// processed.
func (e *encoder) barrier(seq uint32) {
	e.header(unix.NLMSG_NOOP, unix.NLM_F_ACK, seq)
	e.end()
}

func (e *encoder) zone(f *flow.Flow) {
	if f.Zone != 0 {
		e.u16(ctaZone, f.Zone)
	}
}

// otherID reports whether an ICMP flow's identifier was translated, which source
// translation does when two hosts use the same.
func otherID(f *flow.Flow) bool {
	return f.Orig.IsICMP() && f.Has&flow.HasReply != 0 && f.Reply.Sport != f.Orig.Sport
}

// nat writes one direction's translation. Where the protocol has ports they are
// given even if only the address changes: the kernel would pick one.
func (e *encoder) nat(typ uint16, f *flow.Flow, addr *[16]byte, port uint16) {
	nest := e.open(typ)
	n, low, high := f.Orig.AddrLen(), uint16(natV4Min), uint16(natV4Max)
	if f.Orig.Family == flow.IPv6 {
		low, high = natV6Min, natV6Max
	}
	e.bytes(low, addr[:n])
	e.bytes(high, addr[:n])
	if otherID(f) && typ == ctaNATSrc {
		port = f.Reply.Sport
	}
	if f.Orig.HasPorts() || otherID(f) && typ == ctaNATSrc {
		p := e.open(natProto)
		e.u16(natPortMin, port)
		e.u16(natPortMax, port)
		e.close(p)
	}
	e.close(nest)
}

func (e *encoder) help(f *flow.Flow) {
	nest := e.open(ctaHelp)
	e.name(helpName, f.Helper[:])
	e.close(nest)
}

// common writes what create and update share.
func (e *encoder) common(f *flow.Flow) {
	switch {
	case f.Orig.Proto == flow.ProtoTCP:
		e.tcp(f)
	case f.Has&flow.HasSCTP != 0:
		e.sctp(f)
	}
	if f.Has&flow.HasLabels != 0 {
		e.bytes(ctaLabels, f.Labels[:])
	}
	if f.Has&flow.HasSeqAdj != 0 {
		e.seqAdj(ctaSeqAdjOrig, &f.SeqAdjOrig)
		e.seqAdj(ctaSeqAdjReply, &f.SeqAdjReply)
	}
	if f.Has&flow.HasSynproxy != 0 && f.Synproxy != (flow.Synproxy{}) {
		nest := e.open(ctaSynproxy)
		e.u32(synproxyISN, f.Synproxy.ISN)
		e.u32(synproxyITS, f.Synproxy.ITS)
		e.u32(synproxyTSOff, f.Synproxy.TSOff)
		e.close(nest)
	}
}

// tcp writes the state and both directions' flags, each with its mask; without
// the mask the kernel drops the window scale. Liberal tracking is always on:
// the window seen so far does not travel.
func (e *encoder) tcp(f *flow.Flow) {
	info := e.open(ctaProtoInfo)
	nest := e.open(infoTCP)
	if f.Has&flow.HasTCPState != 0 {
		e.u8(tcpState, f.TCP.State)
	}
	flags := [2]uint8{tcpFlagBeLiberal, tcpFlagBeLiberal}
	if f.Has&flow.HasTCPWScaleOrig != 0 {
		e.u8(tcpWScaleOrig, f.TCP.WScaleOrig)
		flags[0] |= tcpFlagWindowScale
	}
	if f.Has&flow.HasTCPWScaleReply != 0 {
		e.u8(tcpWScaleReply, f.TCP.WScaleReply)
		flags[1] |= tcpFlagWindowScale
	}
	for i, typ := range [2]uint16{tcpFlagsOrig, tcpFlagsReply} {
		e.attr(typ, 2)
		e.buf = append(e.buf, flags[i], flags[i], 0, 0)
	}
	e.close(nest)
	e.close(info)
}

func (e *encoder) sctp(f *flow.Flow) {
	info := e.open(ctaProtoInfo)
	nest := e.open(infoSCTP)
	e.u8(sctpState, f.SCTP.State)
	e.u32(sctpVtagOrig, f.SCTP.VtagOrig)
	e.u32(sctpVtagReply, f.SCTP.VtagReply)
	e.close(nest)
	e.close(info)
}

func (e *encoder) seqAdj(typ uint16, a *flow.SeqAdj) {
	nest := e.open(typ)
	e.u32(seqAdjPos, a.Pos)
	e.u32(seqAdjBefore, uint32(a.OffsetBefore))
	e.u32(seqAdjAfter, uint32(a.OffsetAfter))
	e.close(nest)
}
