package wire

import (
	"fmt"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

// Attribute numbers of expectation messages.
const (
	exMasterIPv4 = iota
	exMasterIPv6
	exMasterL4Proto
	exMasterPort
	exIPv4
	exIPv6
	exL4Proto
	exPort
	exMaskIPv4
	exMaskIPv6
	exMaskL4Proto
	exMaskPort
	exTimeout
	exFlags
	exClass
	exNATIPv4
	exNATPort
	exNATL4Proto
	exNATDir
	exHelper
	exFunction
	exCount
)

// functionMax is the most an expectation function's name takes with its zero.
const functionMax = 28

type expectAttribute struct {
	len int
	max bool
	get func(x *flow.Expect, v []byte)
}

func tupleAddrs(pick func(*flow.Expect) *flow.Tuple, fam flow.Family, has flow.HasExpect) func(*flow.Expect, []byte) {
	return func(x *flow.Expect, v []byte) { getAddrs(pick(x), fam, v); x.Has |= has }
}

func tupleProto(pick func(*flow.Expect) *flow.Tuple, has flow.HasExpect) func(*flow.Expect, []byte) {
	return func(x *flow.Expect, v []byte) { pick(x).Proto = v[0]; x.Has |= has }
}

func tuplePorts(pick func(*flow.Expect) *flow.Tuple, has flow.HasExpect) func(*flow.Expect, []byte) {
	return func(x *flow.Expect, v []byte) {
		t := pick(x)
		t.Sport, t.Dport = be.Uint16(v), be.Uint16(v[2:])
		x.Has |= has
	}
}

func exMaster(x *flow.Expect) *flow.Tuple { return &x.Master }
func exTuple(x *flow.Expect) *flow.Tuple  { return &x.Tuple }
func exMask(x *flow.Expect) *flow.Tuple   { return &x.Mask }
func exNAT(x *flow.Expect) *flow.Tuple    { return &x.NAT }

var expectAttributes = [exCount]expectAttribute{
	exMasterIPv4:    {len: 8, get: tupleAddrs(exMaster, flow.IPv4, 0)},
	exMasterIPv6:    {len: 32, get: tupleAddrs(exMaster, flow.IPv6, 0)},
	exMasterL4Proto: {len: 1, get: tupleProto(exMaster, 0)},
	exMasterPort:    {len: 4, get: tuplePorts(exMaster, 0)},
	exIPv4:          {len: 8, get: tupleAddrs(exTuple, flow.IPv4, 0)},
	exIPv6:          {len: 32, get: tupleAddrs(exTuple, flow.IPv6, 0)},
	exL4Proto:       {len: 1, get: tupleProto(exTuple, 0)},
	exPort:          {len: 4, get: tuplePorts(exTuple, 0)},
	exMaskIPv4:      {len: 8, get: tupleAddrs(exMask, flow.IPv4, 0)},
	exMaskIPv6:      {len: 32, get: tupleAddrs(exMask, flow.IPv6, 0)},
	exMaskL4Proto:   {len: 1, get: tupleProto(exMask, 0)},
	exMaskPort:      {len: 4, get: tuplePorts(exMask, 0)},
	exTimeout:       {len: 4, get: func(x *flow.Expect, v []byte) { x.Timeout = be.Uint32(v); x.Has |= flow.ExpectHasTimeout }},
	exFlags:         {len: 4, get: func(x *flow.Expect, v []byte) { x.Flags = be.Uint32(v); x.Has |= flow.ExpectHasFlags }},
	exClass:         {len: 4, get: func(x *flow.Expect, v []byte) { x.Class = be.Uint32(v); x.Has |= flow.ExpectHasClass }},
	exNATIPv4:       {len: 8, get: tupleAddrs(exNAT, flow.IPv4, flow.ExpectHasNATAddr)},
	exNATPort:       {len: 4, get: tuplePorts(exNAT, flow.ExpectHasNATPort)},
	exNATL4Proto:    {len: 1, get: tupleProto(exNAT, flow.ExpectHasNATProto)},
	exNATDir:        {len: 4, get: func(x *flow.Expect, v []byte) { x.NATDir = be.Uint32(v); x.Has |= flow.ExpectHasNATDir }},
	exHelper: {len: helperMax, max: true, get: func(x *flow.Expect, v []byte) {
		x.Helper = flow.HelperName{}
		copy(x.Helper[:len(x.Helper)-1], v)
		x.Has |= flow.ExpectHasHelper
	}},
	exFunction: {len: functionMax, max: true, get: func(x *flow.Expect, v []byte) {
		x.Function = [32]byte{}
		copy(x.Function[:len(x.Function)-1], v)
		x.Has |= flow.ExpectHasFunction
	}},
}

// ParseExpect reads the attributes of an expectation message into x, which it
// resets. Attributes with unknown numbers are skipped.
func ParseExpect(body []byte, x *flow.Expect) error {
	*x = flow.Expect{}
	for len(body) > 4 {
		num, v, rest, err := nextAttribute(body)
		if err != nil {
			return err
		}
		body = rest
		if num >= exCount {
			continue
		}
		a := &expectAttributes[num]
		if len(v) != a.len && (!a.max || len(v) > a.len) {
			return fmt.Errorf("expectation attribute %d has %d bytes, not %d", num, len(v), a.len)
		}
		a.get(x, v)
	}
	if x.Master.Family == 0 || x.Tuple.Family == 0 {
		return errNoAddress
	}
	return nil
}

// AppendExpect encodes an expectation message. Whether ports are written is
// decided by the master's protocol, as conntrackd does.
func AppendExpect(b []byte, m *Message, x *flow.Expect) []byte {
	start := len(b)
	return seal(appendExpectBody(appendHeader(b, m), x), start)
}

func appendExpectBody(b []byte, x *flow.Expect) []byte {
	ports := hasPortAttribute(x.Master.Proto)
	for _, t := range [...]struct {
		t    *flow.Tuple
		base uint16
	}{{&x.Master, exMasterIPv4}, {&x.Tuple, exIPv4}, {&x.Mask, exMaskIPv4}} {
		b = appendAddrs(b, t.base, t.base+1, t.t)
		b = appendU8(b, t.base+2, t.t.Proto)
		if ports {
			b = appendPorts(b, t.base+3, t.t)
		}
	}
	b = appendU32(b, exTimeout, x.Timeout, x.Has&flow.ExpectHasTimeout != 0)
	b = appendU32(b, exFlags, x.Flags, x.Has&flow.ExpectHasFlags != 0)
	b = appendU32(b, exClass, x.Class, x.Has&flow.ExpectHasClass != 0)
	b = appendExpectNAT(b, x)
	if x.Has&flow.ExpectHasHelper != 0 {
		b = appendName(b, exHelper, x.Helper[:], helperMax)
	}
	if x.Has&flow.ExpectHasFunction != 0 {
		b = appendName(b, exFunction, x.Function[:], functionMax)
	}
	return b
}

func appendExpectNAT(b []byte, x *flow.Expect) []byte {
	if x.Has&flow.ExpectHasNATAddr != 0 && x.NAT.Family != flow.IPv6 { // no attribute for IPv6
		b = append(append(attr(b, exNATIPv4, 8), x.NAT.Src[:4]...), x.NAT.Dst[:4]...)
	}
	if x.Has&flow.ExpectHasNATProto != 0 {
		b = appendU8(b, exNATL4Proto, x.NAT.Proto)
	}
	if x.Has&flow.ExpectHasNATPort != 0 {
		b = appendPorts(b, exNATPort, &x.NAT)
	}
	return appendU32(b, exNATDir, x.NATDir, x.Has&flow.ExpectHasNATDir != 0)
}
