package kernel

import "github.com/conntrack-sync/conntrack-sync/sync/flow"

// expect decodes the attributes behind an nfgenmsg of this family into x, which
// it resets. Unknown attributes are skipped at every level. The kernel leaves
// the zone out; it is its master's.
func (d *decoder) expect(family uint8, attrs []byte, x *flow.Expect) error {
	*x = flow.Expect{}
	d.bad = false
	x.Tuple.Family, x.Mask.Family = flow.Family(family), flow.Family(family)
	d.expectTop(x, attrs)
	if d.bad || x.Tuple.Proto == 0 && x.Tuple.Dst == [16]byte{} {
		return errMalformed
	}
	return nil
}

func (d *decoder) expectTop(x *flow.Expect, b []byte) {
	for typ, v := range d.attrs(b) {
		switch typ {
		case expTuple:
			d.tuple(&x.Tuple, v)
		case expMask:
			d.tuple(&x.Mask, v)
		case expMaster:
			x.Master.Family = x.Tuple.Family
			d.tuple(&x.Master, v)
		case expNAT:
			x.NAT.Family = x.Tuple.Family
			d.expectNAT(x, v)
		case expZone:
			x.Zone = d.u16(v)
		case expTimeout:
			x.Timeout, x.Has = d.u32(v), x.Has|flow.ExpectHasTimeout
		case expFlags:
			x.Flags, x.Has = d.u32(v), x.Has|flow.ExpectHasFlags
		case expClass:
			x.Class, x.Has = d.u32(v), x.Has|flow.ExpectHasClass
		case expHelper:
			x.Helper = flow.HelperName{}
			copy(x.Helper[:len(x.Helper)-1], v)
			x.Has |= flow.ExpectHasHelper
		case expFunction:
			x.Function = [len(x.Function)]byte{}
			copy(x.Function[:len(x.Function)-1], v)
			x.Has |= flow.ExpectHasFunction
		}
	}
}

func (d *decoder) expectNAT(x *flow.Expect, b []byte) {
	for typ, v := range d.attrs(b) {
		switch typ {
		case expNATDir:
			x.NATDir, x.Has = d.u32(v), x.Has|flow.ExpectHasNATDir
		case expNATTuple:
			d.tuple(&x.NAT, v)
			x.Has |= flow.ExpectHasNATAddr | flow.ExpectHasNATProto | flow.ExpectHasNATPort
		}
	}
}
