package engine_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/kernel/kerneltest"
	"github.com/conntrack-sync/conntrack-sync/sync/udp/udptest"
)

// own and vip are a MASTER's: its own address and the virtual one.
var own, vip = netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.254")

// pairWithAddress is a MASTER that has both addresses, and its standby.
func pairWithAddress(t *testing.T) (a, b *node) {
	la, lb := udptest.Pair(7, udptest.Faults{})
	a, b = start(t, kerneltest.New(own, vip), la), start(t, kerneltest.New(), lb)
	_ = a.SetRole(t.Context(), "syncgrp", "MASTER")
	return a, b
}

// TestMasqueradedToAnAddressThatLeaves: the kernel ends such flows with their
// address, and the standby keeps them; while the address is here, an end is an end.
func TestMasqueradedToAnAddressThatLeaves(t *testing.T) {
	a, b := pairWithAddress(t)
	for i := range 4 {
		a.table.Put(flowNo(i))
	}
	eventually(t, "four flows", mirrors(t, a, b))
	first, second := flowNo(0), flowNo(1)
	a.table.Remove(first.Key())
	eventually(t, "three flows", mirrors(t, a, b))
	a.table.SetLocal(own)
	a.table.Remove(second.Key())
	eventually(t, "the end being kept back", func() error {
		s, err := a.Statistics(t.Context())
		if err != nil || s.Drops["ended_with_address"] != 1 {
			return fmt.Errorf("%v %w", s.Drops, err)
		}
		return nil
	})
	third := flowNo(9)
	a.table.Put(third)
	eventually(t, "what began afterwards", func() error {
		if _, ok := entries(t, b, flow.External)[third.Key()]; !ok {
			return fmt.Errorf("is not there")
		}
		return nil
	})
	if have := entries(t, b, flow.External); len(have) != 4 {
		t.Errorf("the standby holds %d flows", len(have))
	}
}

// TestWhatBeginsWithoutTheAddress: until the role has changed packets still come to the
// former MASTER. What they make there does not take the place of the flows that moved.
func TestWhatBeginsWithoutTheAddress(t *testing.T) {
	a, b := pairWithAddress(t)
	f := flowNo(1)
	a.table.Put(f)
	eventually(t, "the flow", mirrors(t, a, b))
	reply := func() (reply flow.Tuple) {
		err := b.Flows(t.Context(), flow.External, func(flows []flow.Flow) error {
			for i := range flows {
				if flows[i].Key() == f.Key() {
					reply = flows[i].Reply
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		return reply
	}
	kept := reply()
	counted := func(what string, n uint64) {
		t.Helper()
		eventually(t, what, func() error {
			s, err := a.Statistics(t.Context())
			if err != nil || s.Drops[what] < n {
				return fmt.Errorf("%v %w", s.Drops, err)
			}
			return nil
		})
	}
	a.table.SetLocal(own)
	a.table.Remove(f.Key())
	counted("ended_with_address", 1)
	reborn := f
	reborn.Reply.Dport++
	reborn.SetNAT()
	a.table.Put(reborn)
	inbound := flowNo(2)
	inbound.Orig = f.Reply // what the server sends to the virtual address
	inbound.Reply = inbound.Orig.Inverse()
	inbound.Status &^= flow.StatusSrcNATDone
	a.table.Put(inbound)
	counted("begun_without_address", 2)
	a.table.Put(flowNo(9))
	eventually(t, "what began afterwards", func() error {
		if have := entries(t, b, flow.External); len(have) != 2 {
			return fmt.Errorf("%d flows", len(have))
		}
		return nil
	})
	if got := reply(); got != kept {
		t.Errorf("the flow's translation was %v and is %v", kept, got)
	}
	// The address comes back before anybody took over: what begins now is told.
	a.table.SetLocal(own, vip)
	reborn.Reply.Dport++
	reborn.SetNAT()
	a.table.Remove(f.Key())
	a.table.Put(reborn)
	eventually(t, "the flow of now", func() error {
		if got := reply(); got != reborn.Reply {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
}

// TestBegunAgainWithTheAddress: the address of the last flow that was kept is back, and
// the first word about what begins with its tuples is that it has changed: its birth was
// not heard.
func TestBegunAgainWithTheAddress(t *testing.T) {
	a, b := pairWithAddress(t)
	f := flowNo(1)
	a.table.Put(f)
	eventually(t, "the flow", mirrors(t, a, b))
	a.table.SetLocal(own)
	a.table.Remove(f.Key())
	eventually(t, "the end being kept back", func() error {
		if s := statistics(t, a); s.Drops["ended_with_address"] != 1 {
			return fmt.Errorf("%v", s.Drops)
		}
		return nil
	})
	a.table.SetLocal(own, vip)
	a.table.PutSilently(f)
	f, _ = a.table.Flow(f.Key())
	a.table.Tell(flow.Event{Type: flow.EventUpdate, Flow: f})
	a.table.Put(flowNo(2))
	eventually(t, "both flows", mirrors(t, a, b))
	if s := statistics(t, a).Session; s["audit_repairs"] != 0 {
		t.Errorf("the comparison with the kernel's table had to mend %d entries", s["audit_repairs"])
	}
	if have := entries(t, b, flow.External); len(have) != 2 {
		t.Errorf("the standby holds %d flows", len(have))
	}
}
