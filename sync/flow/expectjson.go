package flow

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"time"
)

// The JSON shape of an expectation; absent members are left out.
type jsonExpect struct {
	Proto       string         `json:"proto"`
	ProtoNum    uint8          `json:"protonum"`
	Expect      jsonKey        `json:"expect"`
	Mask        jsonMask       `json:"mask,omitzero"`
	Master      jsonParent     `json:"master"`
	Timeout     *uint32        `json:"timeout,omitempty"` // seconds
	Helper      *string        `json:"helper,omitempty"`
	Class       *uint32        `json:"class,omitempty"`
	Flags       *uint32        `json:"flags,omitempty"`
	NAT         *jsonExpectNAT `json:"nat,omitempty"`
	Function    *string        `json:"function,omitempty"`
	Zone        uint16         `json:"zone,omitempty"`
	ActiveSince *time.Time     `json:"active_since,omitempty"`
}

// jsonKey is a tuple without its protocol. The ports are there for protocols
// that have them; the layer-4 key of another protocol, such as GRE's, stands in
// their place unless it is zero.
type jsonKey struct {
	Src   netip.Addr `json:"src,omitzero"`
	Dst   netip.Addr `json:"dst,omitzero"`
	Sport *uint16    `json:"sport,omitempty"`
	Dport *uint16    `json:"dport,omitempty"`
}

type jsonMask struct {
	ProtoNum uint8 `json:"protonum,omitempty"`
	jsonKey
}

type jsonParent struct {
	Proto    string `json:"proto"`
	ProtoNum uint8  `json:"protonum"`
	jsonKey
}

// jsonExpectNAT has the members of a flow's translation, and the protocol and
// direction an expectation adds.
type jsonExpectNAT struct {
	jsonNAT
	ProtoNum *uint8  `json:"protonum,omitempty"`
	Dir      *uint32 `json:"dir,omitempty"` // 0 original, 1 reply
}

// packKey leaves out the addresses of a tuple that was never filled.
func packKey(t *Tuple, ports bool) (j jsonKey) {
	if t.Family != 0 {
		j.Src, j.Dst = t.SrcAddr(), t.DstAddr()
	}
	ports = ports || t.Sport != 0 || t.Dport != 0
	j.Sport, j.Dport = given(ports, t.Sport), given(ports, t.Dport)
	return j
}

func (j *jsonKey) unpack(proto uint8) Tuple {
	t := Tuple{Proto: proto, Family: max(familyOf(j.Src), familyOf(j.Dst))}
	t.SetSrc(j.Src)
	t.SetDst(j.Dst)
	takeValue(j.Sport, &t.Sport)
	takeValue(j.Dport, &t.Dport)
	return t
}

func familyOf(a netip.Addr) Family {
	switch {
	case a.Is4():
		return IPv4
	case a.Is6():
		return IPv6
	}
	return 0
}

// takeValue is the opposite of given; it reports whether there was a value.
func takeValue[T any](p, to *T) bool {
	if p == nil {
		return false
	}
	*to = *p
	return true
}

// MarshalJSON renders the expectation for operators and for the control socket.
func (x Expect) MarshalJSON() ([]byte, error) {
	has := func(bit HasExpect) bool { return x.Has&bit != 0 }
	ports := x.Tuple.HasPorts()
	j := jsonExpect{
		Proto: ProtoName(x.Tuple.Proto), ProtoNum: x.Tuple.Proto,
		Expect: packKey(&x.Tuple, ports),
		Master: jsonParent{ProtoName(x.Master.Proto), x.Master.Proto, packKey(&x.Master, x.Master.HasPorts())},
		Zone:   x.Zone, NAT: x.packNAT(),
		Timeout: given(has(ExpectHasTimeout), x.Timeout), Class: given(has(ExpectHasClass), x.Class),
		Flags: given(has(ExpectHasFlags), x.Flags), Helper: given(has(ExpectHasHelper), x.Helper.String()),
		Function:    given(has(ExpectHasFunction), x.FunctionName()),
		ActiveSince: given(x.Since != 0, time.Unix(x.Since, 0).UTC()),
	}
	if !x.Mask.IsZero() {
		j.Mask = jsonMask{x.Mask.Proto, packKey(&x.Mask, ports)}
	}
	return json.Marshal(j)
}

// FunctionName is the name without its padding.
func (x *Expect) FunctionName() string {
	name, _, _ := bytes.Cut(x.Function[:], []byte{0})
	return string(name)
}

func (x *Expect) packNAT() *jsonExpectNAT {
	const any = ExpectHasNATAddr | ExpectHasNATPort | ExpectHasNATProto | ExpectHasNATDir
	if x.Has&any == 0 {
		return nil
	}
	addr, port := x.Has&ExpectHasNATAddr != 0, x.Has&ExpectHasNATPort != 0
	return &jsonExpectNAT{
		jsonNAT: jsonNAT{
			Src: given(addr, x.NAT.SrcAddr()), SrcPort: given(port, x.NAT.Sport),
			Dst: given(addr && x.NAT.Dst != [16]byte{}, x.NAT.DstAddr()), DstPort: given(port && x.NAT.Dport != 0, x.NAT.Dport),
		},
		ProtoNum: given(x.Has&ExpectHasNATProto != 0, x.NAT.Proto),
		Dir:      given(x.Has&ExpectHasNATDir != 0, x.NATDir),
	}
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (x *Expect) UnmarshalJSON(b []byte) error {
	var j jsonExpect
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*x = Expect{Tuple: j.Expect.unpack(j.ProtoNum), Mask: j.Mask.unpack(j.Mask.ProtoNum),
		Master: j.Master.unpack(j.Master.ProtoNum), Zone: j.Zone}
	x.note(ExpectHasTimeout, takeValue(j.Timeout, &x.Timeout))
	x.note(ExpectHasClass, takeValue(j.Class, &x.Class))
	x.note(ExpectHasFlags, takeValue(j.Flags, &x.Flags))
	if j.Helper != nil {
		x.Helper = MakeHelper(*j.Helper)
		x.note(ExpectHasHelper, true)
	}
	if j.Function != nil {
		copy(x.Function[:len(x.Function)-1], *j.Function)
		x.note(ExpectHasFunction, true)
	}
	if j.NAT != nil {
		x.unpackNAT(j.NAT)
	}
	if j.ActiveSince != nil {
		x.Since = j.ActiveSince.Unix()
	}
	return nil
}

func (x *Expect) unpackNAT(j *jsonExpectNAT) {
	if j.Src != nil {
		x.NAT.Family = familyOf(*j.Src)
		x.NAT.SetSrc(*j.Src)
		x.note(ExpectHasNATAddr, true)
	}
	if j.Dst != nil {
		x.NAT.SetDst(*j.Dst)
	}
	x.note(ExpectHasNATPort, takeValue(j.SrcPort, &x.NAT.Sport))
	takeValue(j.DstPort, &x.NAT.Dport)
	x.note(ExpectHasNATProto, takeValue(j.ProtoNum, &x.NAT.Proto))
	x.note(ExpectHasNATDir, takeValue(j.Dir, &x.NATDir))
}

func (x *Expect) note(bit HasExpect, has bool) {
	if has {
		x.Has |= bit
	}
}
