package guard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The messages are encoded here and not by github.com/google/nftables: its
// v0.3.0 sends table flags 0 whatever it is told, so a table of its making has
// no owner.

const (
	tableOwner  = 0x2  // NFT_TABLE_F_OWNER
	setTimeouts = 0x10 // NFT_SET_TIMEOUT

	// Key types as nft(8) prints them.
	typeFamily = 2
	typeIPv4   = 7
	typeIPv6   = 8

	answerWait = 2 * time.Second
)

// batch is a row of changes that take effect together, or not at all.
type batch struct {
	msgs []netlink.Message
	sets uint32
	err  error
}

type set struct {
	name   string
	typ    uint32
	keyLen uint32
}

type hook struct {
	number   uint32
	priority int32
}

// add appends a change.
func (b *batch) add(what uint16, flags netlink.HeaderFlags, attrs func(ae *netlink.AttributeEncoder)) {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	attrs(ae)
	data, err := ae.Encode()
	b.err = errors.Join(b.err, err)
	b.msgs = append(b.msgs, message(unix.NFNL_SUBSYS_NFTABLES<<8|what, netlink.Request|netlink.Acknowledge|flags, unix.NFPROTO_INET, 0, data))
}

func message(typ uint16, flags netlink.HeaderFlags, family uint8, resource uint16, data []byte) netlink.Message {
	head := []byte{family, unix.NFNETLINK_V0, byte(resource >> 8), byte(resource)}
	return netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: flags}, Data: append(head, data...)}
}

func (b *batch) addTable(name string) {
	b.add(unix.NFT_MSG_NEWTABLE, netlink.Create|netlink.Excl, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_TABLE_NAME, name)
		ae.Uint32(unix.NFTA_TABLE_FLAGS, tableOwner)
	})
}

func (b *batch) addSet(table string, s set) {
	b.sets++
	b.add(unix.NFT_MSG_NEWSET, netlink.Create, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_SET_TABLE, table)
		ae.String(unix.NFTA_SET_NAME, s.name)
		ae.Uint32(unix.NFTA_SET_FLAGS, setTimeouts)
		ae.Uint32(unix.NFTA_SET_KEY_TYPE, s.typ)
		ae.Uint32(unix.NFTA_SET_KEY_LEN, s.keyLen)
		ae.Uint32(unix.NFTA_SET_ID, b.sets)
	})
}

func (b *batch) addCounter(table, name string) {
	b.add(unix.NFT_MSG_NEWOBJ, netlink.Create, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_OBJ_TABLE, table)
		ae.String(unix.NFTA_OBJ_NAME, name)
		ae.Uint32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
		ae.Nested(unix.NFTA_OBJ_DATA, func(*netlink.AttributeEncoder) error { return nil })
	})
}

// addChain makes a chain; with a hook packets pass it.
func (b *batch) addChain(table, name string, h *hook) {
	b.add(unix.NFT_MSG_NEWCHAIN, netlink.Create, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_CHAIN_TABLE, table)
		ae.String(unix.NFTA_CHAIN_NAME, name)
		if h == nil {
			return
		}
		ae.Nested(unix.NFTA_CHAIN_HOOK, func(ae *netlink.AttributeEncoder) error {
			ae.Uint32(unix.NFTA_HOOK_HOOKNUM, h.number)
			ae.Uint32(unix.NFTA_HOOK_PRIORITY, uint32(h.priority))
			return nil
		})
		ae.String(unix.NFTA_CHAIN_TYPE, "filter")
	})
}

// removeChain removes a chain with its rules.
func (b *batch) removeChain(table, name string) {
	b.add(unix.NFT_MSG_DELCHAIN, 0, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_CHAIN_TABLE, table)
		ae.String(unix.NFTA_CHAIN_NAME, name)
	})
}

func (b *batch) addRule(table, chain string, r rule) {
	b.add(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_RULE_TABLE, table)
		ae.String(unix.NFTA_RULE_CHAIN, chain)
		ae.Nested(unix.NFTA_RULE_EXPRESSIONS, func(ae *netlink.AttributeEncoder) error {
			for _, p := range r {
				for _, e := range p {
					e.encode(ae)
				}
			}
			return nil
		})
	})
}

func (e *expression) encode(ae *netlink.AttributeEncoder) {
	ae.Nested(unix.NFTA_LIST_ELEM, func(ae *netlink.AttributeEncoder) error {
		ae.String(unix.NFTA_EXPR_NAME, e.name)
		ae.Nested(unix.NFTA_EXPR_DATA, func(ae *netlink.AttributeEncoder) error {
			e.attrs(ae)
			return nil
		})
		return nil
	})
}

// refill replaces the content of a set. Adding an element again would not renew
// its timeout on kernels before 6.12.
func (b *batch) refill(table, set string, keys [][]byte, timeout time.Duration) {
	b.add(unix.NFT_MSG_DELSETELEM, 0, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, table)
		ae.String(unix.NFTA_SET_ELEM_LIST_SET, set)
	})
	if len(keys) == 0 {
		return
	}
	b.add(unix.NFT_MSG_NEWSETELEM, netlink.Create, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, table)
		ae.String(unix.NFTA_SET_ELEM_LIST_SET, set)
		ae.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(ae *netlink.AttributeEncoder) error {
			for _, k := range keys {
				ae.Nested(unix.NFTA_LIST_ELEM, func(ae *netlink.AttributeEncoder) error {
					value(ae, unix.NFTA_SET_ELEM_KEY, k)
					ae.Uint64(unix.NFTA_SET_ELEM_TIMEOUT, uint64(timeout.Milliseconds()))
					return nil
				})
			}
			return nil
		})
	})
}

// send carries the changes out. The kernel answers each.
func (g *Guard) send(b *batch) error {
	if b.err != nil {
		return b.err
	}
	const begin, end = unix.NFNL_MSG_BATCH_BEGIN, unix.NFNL_MSG_BATCH_END
	msgs := make([]netlink.Message, 0, len(b.msgs)+2)
	msgs = append(msgs, message(begin, netlink.Request, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil))
	msgs = append(msgs, b.msgs...)
	msgs = append(msgs, message(end, netlink.Request, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil))
	if _, err := g.nl.SendMessages(msgs); err != nil {
		return err
	}
	if err := g.nl.SetReadDeadline(time.Now().Add(answerWait)); err != nil {
		return err
	}
	var first error
	for i := 0; i < len(b.msgs); {
		got, err := g.nl.Receive()
		var refused *netlink.OpError
		switch {
		case err == nil:
			i += len(got)
		case errors.As(err, &refused) && !refused.Timeout():
			if first == nil {
				first = fmt.Errorf("change %d of %d: %w", i+1, len(b.msgs), err)
			}
			i++
		default:
			return errors.Join(first, err)
		}
	}
	return first
}

// counter reads the packets of a counter.
func (g *Guard) counter(name string) (packets uint64, err error) {
	var b batch
	b.add(unix.NFT_MSG_GETOBJ, 0, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_OBJ_TABLE, g.table)
		ae.String(unix.NFTA_OBJ_NAME, name)
		ae.Uint32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
	})
	if b.err != nil {
		return 0, b.err
	}
	b.msgs[0].Header.Flags = netlink.Request
	if err := g.nl.SetReadDeadline(time.Now().Add(answerWait)); err != nil {
		return 0, err
	}
	if _, err := g.nl.Send(b.msgs[0]); err != nil {
		return 0, err
	}
	got, err := g.nl.Receive()
	if err != nil {
		return 0, err
	}
	for _, m := range got {
		if len(m.Data) < 4 {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return 0, err
		}
		ad.ByteOrder = binary.BigEndian
		for ad.Next() {
			if ad.Type() == unix.NFTA_OBJ_DATA {
				ad.Nested(func(ad *netlink.AttributeDecoder) error {
					for ad.Next() {
						if ad.Type() == unix.NFTA_COUNTER_PACKETS {
							packets = ad.Uint64()
						}
					}
					return nil
				})
			}
		}
		if err := ad.Err(); err != nil {
			return 0, err
		}
	}
	return packets, nil
}
