package guard

import (
	"encoding/binary"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// rule is a row of conditions and the verdict behind them.
type rule []part

// part is a condition or a verdict: expressions of nftables, in order.
type part []expression

// expression is one of nftables's, with its attributes.
type expression struct {
	name  string
	attrs func(ae *netlink.AttributeEncoder)
}

// The register all conditions use; they follow each other.
const register = unix.NFT_REG_1

// What golang.org/x/sys/unix does not name.
const (
	attrSocketKey, attrSocketDreg = 1, 2
	socketTransparent             = 0
	keyDestinationIPv4            = 20
	keyDestinationIPv6            = 22
	metaNFProto                   = unix.NFT_META_NFPROTO
	loopbackType                  = 772 // ARPHRD_LOOPBACK
)

// direction is one of a flow's two tuples.
type direction uint8

const (
	original direction = 0
	reply    direction = 1
)

// accept ends our chain; the operator's rules still decide.
func accept() part { return verdict(unix.NFT_RETURN, "") }
func drop() part   { return verdict(0, "") } // NF_DROP

func jump(chain string) part { return verdict(unix.NFT_JUMP, chain) }

func verdict(code int32, chain string) part {
	return part{{"immediate", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		ae.Nested(unix.NFTA_IMMEDIATE_DATA, func(ae *netlink.AttributeEncoder) error {
			ae.Nested(unix.NFTA_DATA_VERDICT, func(ae *netlink.AttributeEncoder) error {
				ae.Uint32(unix.NFTA_VERDICT_CODE, uint32(code))
				if chain != "" {
					ae.String(unix.NFTA_VERDICT_CHAIN, chain)
				}
				return nil
			})
			return nil
		})
	}}}
}

// count adds the packet to one of the table's counters.
func count(counter string) part {
	return part{{"objref", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_OBJREF_IMM_TYPE, unix.NFT_OBJECT_COUNTER)
		ae.String(unix.NFTA_OBJREF_IMM_NAME, counter)
	}}}
}

// in and notIn look the register up in a set.
func in(set string) part    { return lookup(set, 0) }
func notIn(set string) part { return lookup(set, unix.NFT_LOOKUP_F_INV) }

func lookup(set string, flags uint32) part {
	return part{{"lookup", func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_LOOKUP_SET, set)
		ae.Uint32(unix.NFTA_LOOKUP_SREG, register)
		if flags != 0 {
			ae.Uint32(unix.NFTA_LOOKUP_FLAGS, flags)
		}
	}}}
}

// known holds for packets of a flow the kernel has, or had been told to expect.
func known() part {
	return append(conntrack(unix.NFT_CT_STATUS), test(native(statusConfirmed|statusExpected), unix.NFT_CMP_NEQ)...)
}

// notNew holds for packets conntrack has nothing to create for.
func notNew() part {
	return append(conntrack(unix.NFT_CT_STATE), test(native(stateNew), unix.NFT_CMP_EQ)...)
}

func notTranslated() part {
	return append(conntrack(unix.NFT_CT_STATUS), test(native(statusNAT), unix.NFT_CMP_EQ)...)
}

// conntrack4 and conntrack6 load the destination of one of the flow's tuples;
// for a packet without a flow, or of the other family, the rule ends.
func conntrack4(d direction) part { return conntrack(keyDestinationIPv4, d) }
func conntrack6(d direction) part { return conntrack(keyDestinationIPv6, d) }

func conntrack(key uint32, d ...direction) part {
	return part{{"ct", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_CT_DREG, register)
		ae.Uint32(unix.NFTA_CT_KEY, key)
		for _, d := range d {
			ae.Uint8(unix.NFTA_CT_DIRECTION, uint8(d))
		}
	}}}
}

func protocol(p uint8) part {
	return append(meta(unix.NFT_META_L4PROTO), compare(unix.NFT_CMP_EQ, []byte{p}))
}

// family loads the packet's family.
func family() part { return meta(metaNFProto) }

func isFamily(f uint8) part { return append(family(), compare(unix.NFT_CMP_EQ, []byte{f})) }

func fromLoopback() part {
	return append(meta(unix.NFT_META_IIFTYPE), compare(unix.NFT_CMP_EQ, binary.NativeEndian.AppendUint16(nil, loopbackType)))
}

// madeHere holds for packets that came in over no interface.
func madeHere() part {
	return append(meta(unix.NFT_META_IIF), compare(unix.NFT_CMP_EQ, native(0)))
}

func meta(key uint32) part {
	return part{{"meta", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_META_DREG, register)
		ae.Uint32(unix.NFTA_META_KEY, key)
	}}}
}

func destination4() part { return payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 16, 4) }
func destination6() part { return payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 24, 16) }

// beginsTCP holds for a packet that has SYN of SYN, ACK, RST and FIN.
func beginsTCP() part {
	const flags, syn, mask = 13, 0x02, 0x17
	return append(payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, flags, 1),
		bits([]byte{mask}), compare(unix.NFT_CMP_EQ, []byte{syn}))
}

func payload(base, offset, length uint32) part {
	return part{{"payload", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_PAYLOAD_DREG, register)
		ae.Uint32(unix.NFTA_PAYLOAD_BASE, base)
		ae.Uint32(unix.NFTA_PAYLOAD_OFFSET, offset)
		ae.Uint32(unix.NFTA_PAYLOAD_LEN, length)
	}}}
}

// socket holds where a TCP or UDP socket takes the packet: for a packet without
// one the rule ends, whatever is asked of the socket.
func socket() part {
	return part{{"socket", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(attrSocketKey, socketTransparent)
		ae.Uint32(attrSocketDreg, register)
	}}}
}

// test compares some bits of the register with 0.
func test(mask []byte, op uint32) part {
	return part{bits(mask), compare(op, make([]byte, len(mask)))}
}

func bits(mask []byte) expression {
	return expression{"bitwise", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_BITWISE_SREG, register)
		ae.Uint32(unix.NFTA_BITWISE_DREG, register)
		ae.Uint32(unix.NFTA_BITWISE_LEN, uint32(len(mask)))
		value(ae, unix.NFTA_BITWISE_MASK, mask)
		value(ae, unix.NFTA_BITWISE_XOR, make([]byte, len(mask)))
	}}
}

func compare(op uint32, data []byte) expression {
	return expression{"cmp", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_CMP_SREG, register)
		ae.Uint32(unix.NFTA_CMP_OP, op)
		value(ae, unix.NFTA_CMP_DATA, data)
	}}
}

func value(ae *netlink.AttributeEncoder, attr uint16, data []byte) {
	ae.Nested(attr, func(ae *netlink.AttributeEncoder) error {
		ae.Bytes(unix.NFTA_DATA_VALUE, data)
		return nil
	})
}

// native is a number as the kernel keeps it in a register.
func native(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
