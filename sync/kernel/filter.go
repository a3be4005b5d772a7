package kernel

import (
	"fmt"

	"golang.org/x/net/bpf"
)

// Ancillary loads of the kernel's socket filter (linux/filter.h): find an
// attribute of type X from offset A on, or within the nest at offset A; 0 when
// there is none.
const (
	extNLAttr     bpf.Extension = 12 // SKF_AD_NLATTR
	extNLAttrNest bpf.Extension = 16 // SKF_AD_NLATTR_NEST
)

// filterable is the most protocols a filter is made for; jumps reach no
// further than 255 instructions.
const filterable = 200

// SetFilter lets the kernel drop events about flows of other layer-4 protocols
// before they take room in the event queue; no protocols means all pass. Events
// dropped so are counted nowhere. A kernel without socket filters for netlink
// is an error, and everything passes.
func (c *Conn) SetFilter(protocols []uint8) error {
	if len(protocols) == 0 || len(protocols) > filterable {
		if !c.filtered {
			return nil
		}
		c.filtered = false
		if err := c.events.RemoveBPF(); err != nil {
			return fmt.Errorf("remove the filter of kernel events: %w", err)
		}
		return nil
	}
	prog, err := bpf.Assemble(protocolFilter(protocols))
	if err != nil {
		return fmt.Errorf("make a filter of kernel events: %w", err)
	}
	if err := c.events.SetBPF(prog); err != nil {
		return fmt.Errorf("set the filter of kernel events: %w", err)
	}
	c.filtered = true
	return nil
}

// protocolFilter passes messages about flows of these protocols, and every
// message that is not about a flow or that it cannot read.
func protocolFilter(protocols []uint8) []bpf.Instruction {
	subsystemAt := uint32(5) // high byte of nlmsg_type, which is in host order
	if ne.Uint16([]byte{0, 1}) == 1 {
		subsystemAt = 4
	}
	n := uint8(len(protocols))
	accept := func(left int) uint8 { return uint8(left) + n } // jump to the last but one
	prog := []bpf.Instruction{
		bpf.LoadAbsolute{Off: subsystemAt, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: subsystem, SkipFalse: accept(13)},
		bpf.LoadConstant{Dst: bpf.RegX, Val: ctaTupleOrig},
		bpf.LoadConstant{Dst: bpf.RegA, Val: nlHeaderLen + nfHeaderLen},
		bpf.LoadExtension{Num: extNLAttr},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: accept(9)},
		bpf.LoadConstant{Dst: bpf.RegX, Val: tupleProto},
		bpf.LoadExtension{Num: extNLAttrNest},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: accept(6)},
		bpf.LoadConstant{Dst: bpf.RegX, Val: protoNum},
		bpf.LoadExtension{Num: extNLAttrNest},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: accept(3)},
		bpf.TAX{},
		bpf.LoadIndirect{Off: 4, Size: 1},
	}
	for i, p := range protocols {
		prog = append(prog, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(p), SkipTrue: n - uint8(i)})
	}
	return append(prog, bpf.RetConstant{Val: 0}, bpf.RetConstant{Val: 0xffffffff})
}
