package engine_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/kernel/kerneltest"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/conntrack-sync/conntrack-sync/sync/udp/udptest"
)

// Tests named TestNative are run over our own protocol alone.

// group starts n nodes on one link; the first is MASTER, the others BACKUP.
func group(t *testing.T, n int, f udptest.Faults) (nodes []*node) {
	t.Helper()
	for i, l := range udptest.Group(n, 11, f) {
		x := start(t, kerneltest.New(), l)
		nodes = append(nodes, x)
		role := "BACKUP"
		if i == 0 {
			role = "MASTER"
		}
		if err := x.SetRole(t.Context(), "syncgrp", role); err != nil {
			t.Fatal(err)
		}
	}
	return nodes
}

func status(t *testing.T, n *node) stats.Engine {
	t.Helper()
	s, err := n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// inSync waits until the node's view was proven equal to a table of so many
// entries.
func inSync(t *testing.T, n *node, entries int) func() error {
	return func() error {
		s := status(t, n)
		if s.View == nil || !s.View.InSync || int(s.View.Entries) != entries {
			return fmt.Errorf("view %+v, peers %+v", s.View, s.Peers)
		}
		return nil
	}
}

// churn lets flows be born, change and end on a node.
func churn(n *node, from, to int) {
	for i := from; i < to; i++ {
		f := flowNo(i)
		n.table.Put(f)
		if i%3 == 0 {
			f.TCP.State = flow.TCPFinWait
			n.table.Put(f)
		}
		if i%5 == 0 {
			n.table.Remove(f.Key())
		}
		if i%100 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

// TestNativeManyNodes: three and four nodes on one link, over a bad link too, all hold
// the MASTER's table; one that leaves holds nobody up, one that comes later is
// filled.
func TestNativeManyNodes(t *testing.T) {
	t.Parallel()
	for n, f := range map[int]udptest.Faults{3: {}, 4: {Drop: 0.1, Duplicate: 0.1, Reorder: 0.1}} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			nodes := group(t, n, f)
			churn(nodes[0], 0, 2000)
			for _, b := range nodes[1:] {
				eventually(t, "the view", mirrors(t, nodes[0], b))
				eventually(t, "proof", inSync(t, b, 1600))
			}
			gone := nodes[n-1]
			if err := gone.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			churn(nodes[0], 2000, 3000)
			for _, b := range nodes[1 : n-1] {
				eventually(t, "the view without one", mirrors(t, nodes[0], b))
			}
			late := udptest.Group(n+1, 99, f)[n] // with an address of its own
			ends := []*udptest.Link{late}
			for _, x := range nodes[:n-1] {
				ends = append(ends, x.link)
			}
			udptest.Join(ends...)
			back := start(t, kerneltest.New(), late)
			if err := back.SetRole(t.Context(), "syncgrp", "BACKUP"); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the view of the one that came", mirrors(t, nodes[0], back))
			eventually(t, "its proof", inSync(t, back, 2400))
		})
	}
}

// TestNativeOnlyWhatDiffersIsSent: after a cut, proof finds it; what was equal is not
// sent again.
func TestNativeOnlyWhatDiffersIsSent(t *testing.T) {
	t.Parallel()
	nodes := group(t, 2, udptest.Faults{})
	a, b := nodes[0], nodes[1]
	churn(a, 0, 10000)
	eventually(t, "proof", inSync(t, b, 8000))
	a.link.Cut(true)
	b.link.Cut(true)
	for i := range 10 {
		a.table.Remove(new(flowNo(5*i + 1)).Key())
	}
	f := flowNo(7)
	f.Mark, f.Has = 42, f.Has|flow.HasMark
	a.table.Put(f)
	churn(a, 20000, 20010)
	time.Sleep(7 * time.Second) // longer than anything is kept for a silent peer
	before := a.link.Stats().BytesSent
	a.link.Cut(false)
	b.link.Cut(false)
	eventually(t, "proof after the cut", inSync(t, b, 8000-10+8))
	if err := mirrors(t, a, b)(); err != nil {
		t.Error(err)
	}
	if sent := a.link.Stats().BytesSent - before; sent > 50_000 {
		t.Errorf("%d bytes for some twenty flows of 8,000", sent)
	}
	if s := status(t, b); s.View.Repaired == 0 {
		t.Errorf("no repair is counted: %+v", s.View)
	}
}

// TestNativeFallBack: a node that speaks conntrackd's protocol alone joins, and all fall
// back together; when it leaves they return. The view is right throughout.
func TestNativeFallBack(t *testing.T) {
	t.Parallel()
	ends := udptest.Group(2, 5, udptest.Faults{})
	a, b := start(t, kerneltest.New(), ends[0]), start(t, kerneltest.New(), ends[1])
	speaks := func(want string) func() error {
		return func() error {
			for _, n := range []*node{a, b} {
				s := status(t, n)
				if len(s.Peers) == 0 || s.Peers[0].Protocol != want || !s.Peers[0].Alive {
					return fmt.Errorf("%+v", s.Peers)
				}
			}
			return nil
		}
	}
	churn(a, 0, 500)
	eventually(t, "our protocol", speaks("native"))
	eventually(t, "the view", mirrors(t, a, b))
	s := settings()
	s.Interfaces = []conf.Interface{{Name: "eth0", Port: conf.DefaultPort, Protocol: conf.ProtocolConntrackd}}
	if err := b.Configure(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	eventually(t, "conntrackd's", speaks("conntrackd"))
	churn(a, 500, 1000)
	eventually(t, "the view over conntrackd's", mirrors(t, a, b))
	if err := b.Configure(t.Context(), settings()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "our protocol again", speaks("native"))
	churn(a, 1000, 1500)
	eventually(t, "the view in the end", mirrors(t, a, b))
}

// TestNativeEverythingTravels: what conntrackd's protocol has no place for.
func TestNativeEverythingTravels(t *testing.T) {
	t.Parallel()
	nodes := group(t, 2, udptest.Faults{})
	f := flowNo(1)
	f.Orig.Proto, f.Reply.Proto = flow.ProtoGRE, flow.ProtoGRE
	f.Has &^= flow.HasTCPState
	f.TCP = flow.TCP{}
	f.Zone, f.Has = 7, f.Has|flow.HasZone|flow.HasHelper|flow.HasLabels
	f.Helper = flow.MakeHelper("a-name-of-15-ch")
	g := f
	g.Orig.Sport++
	g.Reply = g.Orig.Inverse()
	nodes[0].table.Put(f)
	nodes[0].table.Put(g)
	eventually(t, "both", inSync(t, nodes[1], 2))
	found := 0
	_ = nodes[1].Flows(context.Background(), flow.External, func(fs []flow.Flow) error {
		for _, x := range fs {
			if x.Helper == f.Helper && x.Zone == 7 && x.Has&flow.HasLabels != 0 && (x.Reply == f.Reply || x.Reply == g.Reply) {
				found++
			}
		}
		return nil
	})
	if found != 2 {
		t.Errorf("%d of 2 arrived as they are", found)
	}
}
