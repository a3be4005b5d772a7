package engine_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/kernel/kerneltest"
	"github.com/conntrack-sync/conntrack-sync/sync/udp/udptest"
)

// TestMasqueradedToAnAddressThatLeaves: the kernel ends such flows with their
// address, and the standby keeps them; while the address is here, an end is an end.
func TestMasqueradedToAnAddressThatLeaves(t *testing.T) {
	own, vip := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.254")
	la, lb := udptest.Pair(7, udptest.Faults{})
	a, b := start(t, kerneltest.New(own, vip), la), start(t, kerneltest.New(), lb)
	_ = a.SetRole(t.Context(), "syncgrp", "MASTER")
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
