package wire

import "github.com/conntrack-sync/conntrack-sync/sync/flow"

// AppendFlow encodes a data message. Attributes come in conntrackd's order;
// Has decides which, the layer-4 key is always there for protocols that have
// one on the wire (GRE keys are not carried by version 1).
func AppendFlow(b []byte, m *Message, f *flow.Flow) []byte {
	start := len(b)
	b = appendHeader(b, m)
	b = appendIdentity(b, f)
	b = appendState(b, f)
	b = appendU32(b, ctTimeout, f.Timeout, f.Has&flow.HasTimeout != 0)
	b = appendU32(b, ctMark, f.Mark, f.Has&flow.HasMark != 0)
	if f.Has&flow.HasMaster != 0 {
		b = appendMaster(b, &f.Master)
	}
	b = appendNAT(b, f)
	if f.Has&(flow.HasSeqAdj|flow.HasHelper|flow.HasLabels|flow.HasSynproxy) != 0 {
		b = appendRare(b, f)
	}
	if f.Has&flow.HasZone != 0 {
		b = be.AppendUint16(attr(b, ctZone, 2), f.Zone)
		b = append(b, 0, 0)
	}
	return seal(b, start)
}

// attr writes an attribute's header; the value and its padding follow.
func attr(b []byte, num uint16, n int) []byte {
	return be.AppendUint16(be.AppendUint16(b, uint16(4+n)), num)
}

func appendU32(b []byte, num uint16, v uint32, has bool) []byte {
	if !has {
		return b
	}
	return be.AppendUint32(attr(b, num, 4), v)
}

func appendU8(b []byte, num uint16, v uint8) []byte {
	return append(attr(b, num, 1), v, 0, 0, 0)
}

func appendSwapped16(b []byte, num uint16, v uint16) []byte {
	return append(le.AppendUint16(attr(b, num, 2), v), 0, 0)
}

func appendPorts(b []byte, num uint16, t *flow.Tuple) []byte {
	return be.AppendUint16(be.AppendUint16(attr(b, num, 4), t.Sport), t.Dport)
}

func appendAddrs(b []byte, v4, v6 uint16, t *flow.Tuple) []byte {
	n, num := t.AddrLen(), v4
	if t.Family == flow.IPv6 {
		num = v6
	}
	b = attr(b, num, 2*n)
	return append(append(b, t.Src[:n]...), t.Dst[:n]...)
}

func appendIdentity(b []byte, f *flow.Flow) []byte {
	b = appendAddrs(b, ctIPv4, ctIPv6, &f.Orig)
	b = appendU32(b, ctStatus, f.Status, f.Has&flow.HasStatus != 0)
	b = appendU8(b, ctL4Proto, f.Orig.Proto)
	if hasPortAttribute(f.Orig.Proto) {
		b = appendPorts(b, ctPort, &f.Orig)
	}
	return b
}

// hasPortAttribute names the protocols whose ports version 1 carries; UDP-Lite
// is not among them.
func hasPortAttribute(p uint8) bool {
	return p != flow.ProtoUDPLite && flow.ProtoHasPorts(p)
}

func appendState(b []byte, f *flow.Flow) []byte {
	if f.Has&flow.HasTCPState != 0 {
		b = appendU8(b, ctTCPState, f.TCP.State)
	}
	if f.Has&flow.HasTCPWScaleOrig != 0 {
		b = appendU8(b, ctWScaleOrig, f.TCP.WScaleOrig)
	}
	if f.Has&flow.HasTCPWScaleReply != 0 {
		b = appendU8(b, ctWScaleReply, f.TCP.WScaleReply)
	}
	if f.Has&flow.HasSCTP != 0 {
		b = appendU8(b, ctSCTPState, f.SCTP.State)
		b = appendU32(b, ctSCTPVtagOrig, f.SCTP.VtagOrig, true)
		b = appendU32(b, ctSCTPVtagReply, f.SCTP.VtagReply, true)
	}
	if f.Has&flow.HasDCCP != 0 {
		b = appendU8(b, ctDCCPState, f.DCCP.State)
		b = appendU8(b, ctDCCPRole, f.DCCP.Role)
	}
	if f.Orig.IsICMP() {
		typ, code, id := f.Orig.ICMP()
		b = appendU8(b, ctICMPType, typ)
		b = appendU8(b, ctICMPCode, code)
		b = appendSwapped16(b, ctICMPID, id)
	}
	return b
}

func appendMaster(b []byte, t *flow.Tuple) []byte {
	b = appendAddrs(b, ctMasterIPv4, ctMasterIPv6, t)
	b = appendU8(b, ctMasterL4Proto, t.Proto)
	if hasPortAttribute(t.Proto) {
		b = appendPorts(b, ctMasterPort, t)
	}
	return b
}

func appendNAT(b []byte, f *flow.Flow) []byte {
	if f.Has&flow.HasNAT == 0 {
		return b
	}
	v4, n := f.Orig.Family != flow.IPv6, f.Orig.AddrLen()
	addr := func(b []byte, num4, num6 uint16, a *[16]byte) []byte {
		if !v4 {
			num4 = num6
		}
		return append(attr(b, num4, n), a[:n]...)
	}
	var spat, dpat uint16
	if f.Orig.HasPorts() {
		spat, dpat = f.Reply.Dport, f.Reply.Sport
	}
	if f.Has&flow.HasSNAT != 0 {
		b = addr(b, ctSNATIPv4, ctSNATIPv6, &f.Reply.Dst)
	}
	if f.Has&flow.HasDNAT != 0 {
		b = addr(b, ctDNATIPv4, ctDNATIPv6, &f.Reply.Src)
	}
	if f.Has&flow.HasSPAT != 0 {
		b = appendSwapped16(b, ctSPATPort, spat)
	}
	if f.Has&flow.HasDPAT != 0 {
		b = appendSwapped16(b, ctDPATPort, dpat)
	}
	return b
}

func appendRare(b []byte, f *flow.Flow) []byte {
	if f.Has&flow.HasSeqAdj != 0 {
		b = attr(b, ctSeqAdj, 24)
		for _, a := range [...]flow.SeqAdj{f.SeqAdjOrig, f.SeqAdjReply} {
			b = be.AppendUint32(be.AppendUint32(be.AppendUint32(b, a.Pos), uint32(a.OffsetBefore)), uint32(a.OffsetAfter))
		}
	}
	if f.Has&flow.HasHelper != 0 {
		b = appendName(b, ctHelper, f.Helper[:], helperMax)
	}
	if f.Has&flow.HasLabels != 0 && f.Labels != [16]byte{} {
		b = attr(b, ctLabels, 16)
		for i := 0; i < 16; i += 4 {
			b = be.AppendUint32(b, le.Uint32(f.Labels[i:]))
		}
	}
	if f.Has&flow.HasSynproxy != 0 {
		b = attr(b, ctSynproxy, 12)
		b = be.AppendUint32(be.AppendUint32(be.AppendUint32(b, f.Synproxy.ITS), f.Synproxy.ISN), f.Synproxy.TSOff)
	}
	return b
}

// appendName writes a zero-terminated name; one that does not fit into max
// bytes is left out, since a conntrackd peer would throw the message away.
func appendName(b []byte, num uint16, padded []byte, max int) []byte {
	n := 0
	for n < len(padded) && padded[n] != 0 {
		n++
	}
	if n == 0 || n+1 > max {
		return b
	}
	b = append(attr(b, num, n+1), padded[:n]...)
	for i := n; i < pad(n+1); i++ {
		b = append(b, 0)
	}
	return b
}
