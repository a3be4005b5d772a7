package engine_test

import (
	"fmt"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/conntrack-sync/conntrack-sync/sync/udp/udptest"
)

// TestNativeRoutes: what a node says of its routes reaches the others, also over a
// link that loses; a group only one of them knows is nobody's business, and a
// node that stops being MASTER is not settled any more.
func TestNativeRoutes(t *testing.T) {
	t.Parallel()
	nodes := group(t, 2, udptest.Faults{Drop: 0.2})
	a, b := nodes[0], nodes[1]
	say := func(n *node, words ...stats.RouteWord) {
		t.Helper()
		if err := n.Announce(t.Context(), words); err != nil {
			t.Fatal(err)
		}
	}
	say(a, stats.RouteWord{Group: "syncgrp", Settled: true, Raised: true, Generation: 3}, stats.RouteWord{Group: "another", Generation: 9})
	say(b, stats.RouteWord{Group: "syncgrp", Generation: 3})
	heard := func(want stats.RouteWord) func() error {
		return func() error {
			s := status(t, b)
			if len(s.Peers) != 1 || len(s.Peers[0].Routes) != 1 || s.Peers[0].Routes[0] != want {
				return fmt.Errorf("peers %+v", s.Peers)
			}
			return nil
		}
	}
	eventually(t, "the MASTER's word", heard(stats.RouteWord{Group: "syncgrp", Settled: true, Raised: true, Generation: 3}))
	if err := a.SetRole(t.Context(), "syncgrp", "BACKUP"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "that its reign is over", heard(stats.RouteWord{Group: "syncgrp", Raised: true, Generation: 3}))
}
