package flow

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"
)

// StateName is the name of the flow's protocol state, "" where the protocol or
// the flow has none.
func (f *Flow) StateName() string {
	switch {
	case f.Has&HasTCPState != 0 && int(f.TCP.State) < len(tcpStates):
		return tcpStates[f.TCP.State]
	case f.Has&HasSCTP != 0 && int(f.SCTP.State) < len(sctpStates):
		return sctpStates[f.SCTP.State]
	}
	return ""
}

var tcpStates = [...]string{"NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT",
	"LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2"}

var sctpStates = [...]string{"NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED",
	"SHUTDOWN_SENT", "SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT", "HEARTBEAT_SENT"}

var statusNames = [...]string{"EXPECTED", "SEEN_REPLY", "ASSURED", "CONFIRMED", "SRC_NAT", "DST_NAT",
	"SEQ_ADJUST", "SRC_NAT_DONE", "DST_NAT_DONE", "DYING", "FIXED_TIMEOUT", "TEMPLATE", "UNTRACKED",
	"HELPER", "OFFLOAD", "HW_OFFLOAD"}

// The JSON shape of a flow; absent members are left out.
type jsonTuple struct {
	Src   netip.Addr `json:"src"`
	Dst   netip.Addr `json:"dst"`
	Sport *uint16    `json:"sport,omitempty"`
	Dport *uint16    `json:"dport,omitempty"`
}

type jsonFlow struct {
	Proto       string      `json:"proto"`
	ProtoNum    uint8       `json:"protonum"`
	Family      string      `json:"family"`
	Orig        jsonTuple   `json:"orig"`
	Reply       *jsonTuple  `json:"reply,omitempty"`
	ICMPType    *uint8      `json:"icmp_type,omitempty"`
	ICMPCode    *uint8      `json:"icmp_code,omitempty"`
	ICMPID      *uint16     `json:"icmp_id,omitempty"`
	GREKey      *uint32     `json:"gre_key,omitempty"` // source key << 16 | destination key
	State       string      `json:"state,omitempty"`
	Status      []string    `json:"status,omitempty"`
	Timeout     *uint32     `json:"timeout,omitempty"` // seconds
	Mark        *uint32     `json:"mark,omitempty"`
	Labels      string      `json:"labels,omitempty"` // hex, label 0 in the lowest bit of the first byte
	Helper      string      `json:"helper,omitempty"`
	Zone        *uint16     `json:"zone,omitempty"`
	NAT         *jsonNAT    `json:"nat,omitempty"`
	TCP         *jsonTCP    `json:"tcp,omitempty"`
	SCTP        *jsonSCTP   `json:"sctp,omitempty"`
	SeqAdj      *[2]SeqAdj  `json:"seqadj,omitempty"`
	Master      *jsonMaster `json:"master,omitempty"`
	ID          *uint32     `json:"id,omitempty"`
	ActiveSince *time.Time  `json:"active_since,omitempty"`
}

type jsonNAT struct {
	Src     *netip.Addr `json:"src,omitempty"`
	SrcPort *uint16     `json:"src_port,omitempty"`
	Dst     *netip.Addr `json:"dst,omitempty"`
	DstPort *uint16     `json:"dst_port,omitempty"`
}

type jsonTCP struct {
	WScaleOrig  *uint8 `json:"wscale_orig,omitempty"`
	WScaleReply *uint8 `json:"wscale_reply,omitempty"`
	FlagsOrig   *uint8 `json:"flags_orig,omitempty"`
	FlagsReply  *uint8 `json:"flags_reply,omitempty"`
}

type jsonSCTP struct {
	VtagOrig  uint32 `json:"vtag_orig"`
	VtagReply uint32 `json:"vtag_reply"`
}

type jsonMaster struct {
	Proto    string `json:"proto"`
	ProtoNum uint8  `json:"protonum"`
	jsonTuple
}

func given[T any](has bool, v T) *T {
	if !has {
		return nil
	}
	return &v
}

func packJSON(t *Tuple) jsonTuple {
	ports := t.HasPorts()
	return jsonTuple{Src: t.SrcAddr(), Dst: t.DstAddr(), Sport: given(ports, t.Sport), Dport: given(ports, t.Dport)}
}

// MarshalJSON renders the flow for operators and for the control socket.
func (f Flow) MarshalJSON() ([]byte, error) {
	typ, code, id := f.Orig.ICMP()
	icmp, gre := f.Orig.IsICMP(), f.Orig.Proto == ProtoGRE
	j := jsonFlow{
		Proto: ProtoName(f.Orig.Proto), ProtoNum: f.Orig.Proto, Family: "ipv4", Orig: packJSON(&f.Orig),
		ICMPType: given(icmp, typ), ICMPCode: given(icmp, code), ICMPID: given(icmp, id),
		GREKey:  given(gre, uint32(f.Orig.Sport)<<16|uint32(f.Orig.Dport)),
		State:   f.StateName(),
		Timeout: given(f.Has&HasTimeout != 0, f.Timeout), Mark: given(f.Has&HasMark != 0, f.Mark),
		Zone: given(f.Has&HasZone != 0, f.Zone), ID: given(f.Has&HasID != 0, f.ID),
		SeqAdj:      given(f.Has&HasSeqAdj != 0, [2]SeqAdj{f.SeqAdjOrig, f.SeqAdjReply}),
		ActiveSince: given(f.Since != 0, time.Unix(f.Since, 0).UTC()),
	}
	if f.Orig.Family == IPv6 {
		j.Family = "ipv6"
	}
	if f.Has&HasReply != 0 {
		r := packJSON(&f.Reply)
		j.Reply = &r
	}
	for i, n := range statusNames {
		if f.Has&HasStatus != 0 && f.Status&(1<<i) != 0 {
			j.Status = append(j.Status, n)
		}
	}
	f.marshalRest(&j)
	return json.Marshal(j)
}

func (f *Flow) marshalRest(j *jsonFlow) {
	if f.Has&HasLabels != 0 {
		j.Labels = hex.EncodeToString(f.Labels[:])
	}
	if f.Has&HasHelper != 0 {
		j.Helper = f.Helper.String()
	}
	if f.Has&HasNAT != 0 {
		ports := f.Orig.HasPorts()
		j.NAT = &jsonNAT{
			Src: given(f.Has&HasSNAT != 0, f.Reply.DstAddr()), SrcPort: given(ports && f.Has&HasSPAT != 0, f.Reply.Dport),
			Dst: given(f.Has&HasDNAT != 0, f.Reply.SrcAddr()), DstPort: given(ports && f.Has&HasDPAT != 0, f.Reply.Sport),
		}
	}
	if f.Has&(HasTCPWScaleOrig|HasTCPWScaleReply|HasTCPFlags) != 0 {
		flags := f.Has&HasTCPFlags != 0
		j.TCP = &jsonTCP{
			WScaleOrig: given(f.Has&HasTCPWScaleOrig != 0, f.TCP.WScaleOrig), WScaleReply: given(f.Has&HasTCPWScaleReply != 0, f.TCP.WScaleReply),
			FlagsOrig: given(flags, f.TCP.FlagsOrig), FlagsReply: given(flags, f.TCP.FlagsReply),
		}
	}
	if f.Has&HasSCTP != 0 {
		j.SCTP = &jsonSCTP{f.SCTP.VtagOrig, f.SCTP.VtagReply}
	}
	if f.Has&HasMaster != 0 {
		j.Master = &jsonMaster{ProtoName(f.Master.Proto), f.Master.Proto, packJSON(&f.Master)}
	}
}

// take is the opposite of given.
func take[T any](f *Flow, bit Has, p *T, to *T) {
	if p != nil {
		*to = *p
		f.Has |= bit
	}
}

func (j *jsonTuple) unpack(proto uint8) Tuple {
	t := MakeTuple(proto, j.Src, j.Dst, 0, 0)
	if j.Sport != nil {
		t.Sport = *j.Sport
	}
	if j.Dport != nil {
		t.Dport = *j.Dport
	}
	return t
}

// UnmarshalJSON reads what MarshalJSON wrote. What the shape does not carry is
// lost: ICMP and GRE keys of the reply are made from the original.
func (f *Flow) UnmarshalJSON(b []byte) error {
	var j jsonFlow
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*f = Flow{Orig: j.Orig.unpack(j.ProtoNum)}
	if j.ICMPID != nil && j.ICMPType != nil && j.ICMPCode != nil {
		f.Orig.Sport, f.Orig.Dport = *j.ICMPID, uint16(*j.ICMPType)<<8|uint16(*j.ICMPCode)
	}
	if j.GREKey != nil {
		f.Orig.Sport, f.Orig.Dport = uint16(*j.GREKey>>16), uint16(*j.GREKey)
	}
	if j.Reply != nil {
		f.Reply = j.Reply.unpack(j.ProtoNum)
		if !f.Orig.HasPorts() {
			inverse := f.Orig.Inverse()
			f.Reply.Sport, f.Reply.Dport = inverse.Sport, inverse.Dport
		}
		f.Has |= HasReply
	}
	take(f, HasTimeout, j.Timeout, &f.Timeout)
	take(f, HasMark, j.Mark, &f.Mark)
	take(f, HasZone, j.Zone, &f.Zone)
	take(f, HasID, j.ID, &f.ID)
	if j.ActiveSince != nil {
		f.Since = j.ActiveSince.Unix()
	}
	return f.unmarshalRest(&j)
}

func (f *Flow) unmarshalRest(j *jsonFlow) error {
	for _, n := range j.Status {
		for i, known := range statusNames {
			if n == known {
				f.Status |= 1 << i
			}
		}
		f.Has |= HasStatus
	}
	if j.Labels != "" {
		v, err := hex.DecodeString(j.Labels)
		if err != nil {
			return fmt.Errorf("labels: %w", err)
		}
		copy(f.Labels[:], v)
		f.Has |= HasLabels
	}
	if j.Helper != "" {
		f.Helper, f.Has = MakeHelper(j.Helper), f.Has|HasHelper
	}
	if j.SeqAdj != nil {
		f.SeqAdjOrig, f.SeqAdjReply, f.Has = j.SeqAdj[0], j.SeqAdj[1], f.Has|HasSeqAdj
	}
	if m := j.Master; m != nil {
		f.Master, f.Has = m.unpack(m.ProtoNum), f.Has|HasMaster
	}
	f.unmarshalState(j)
	return nil
}

func (f *Flow) unmarshalState(j *jsonFlow) {
	for i, n := range tcpStates {
		if f.Orig.Proto == ProtoTCP && j.State == n {
			f.TCP.State, f.Has = uint8(i), f.Has|HasTCPState
		}
	}
	if t := j.TCP; t != nil {
		take(f, HasTCPWScaleOrig, t.WScaleOrig, &f.TCP.WScaleOrig)
		take(f, HasTCPWScaleReply, t.WScaleReply, &f.TCP.WScaleReply)
		take(f, HasTCPFlags, t.FlagsOrig, &f.TCP.FlagsOrig)
		take(f, HasTCPFlags, t.FlagsReply, &f.TCP.FlagsReply)
	}
	if s := j.SCTP; s != nil {
		f.SCTP = SCTP{VtagOrig: s.VtagOrig, VtagReply: s.VtagReply}
		f.Has |= HasSCTP
		for i, n := range sctpStates {
			if j.State == n {
				f.SCTP.State = uint8(i)
			}
		}
	}
	if n := j.NAT; n != nil {
		bit := func(has bool, b Has) {
			if has {
				f.Has |= b
			}
		}
		bit(n.Src != nil, HasSNAT)
		bit(n.SrcPort != nil, HasSPAT)
		bit(n.Dst != nil, HasDNAT)
		bit(n.DstPort != nil, HasDPAT)
	}
}
