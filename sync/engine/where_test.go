package engine_test

import (
	"fmt"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/udp/udptest"
)

// TestNativeWhere: an operator asks any node where a flow is on all of them, over a
// link that loses; many flows take several datagrams.
func TestNativeWhere(t *testing.T) {
	t.Parallel()
	nodes := group(t, 3, udptest.Faults{Drop: 0.2})
	a, b := nodes[0], nodes[1]
	churn(a, 0, 100)
	for i := range 40 { // of the same pair of addresses
		f := flowNo(5)
		f.Orig.Sport = uint16(2000 + i)
		f.Reply.Dport = f.Orig.Sport
		a.table.Put(f)
	}
	for _, n := range nodes[1:] {
		eventually(t, "proof", inSync(t, n, 120))
	}
	f := flowNo(6)
	q := flow.Query{Src: f.Orig.SrcAddr(), Dst: f.Orig.DstAddr(), Proto: 6}
	w, err := a.Where(t.Context(), q)
	if err != nil || len(w.Flows) != 1 || len(w.Flows[0].Peers) != 2 {
		t.Fatalf("%+v, %v", w, err)
	}
	x := w.Flows[0]
	if x.Here.Kernel == nil || x.Here.Internal == nil || x.Here.External != nil || x.Sent == nil || !*x.Sent {
		t.Errorf("here: %+v, sent %v", x.Here, x.Sent)
	}
	for _, p := range x.Peers {
		if p.External == nil || p.Kernel != nil || p.Internal != nil || p.Acknowledged == nil || !*p.Acknowledged || p.External.Reply != f.Reply {
			t.Errorf("%+v", p)
		}
	}
	// From the standby, by the address it is translated to.
	q = flow.Query{Src: f.Reply.DstAddr(), Dst: f.Orig.DstAddr()}
	q.Sport = f.Reply.Dport
	w, err = b.Where(t.Context(), q)
	if err != nil || len(w.Flows) == 0 || w.Flows[0].Here.External == nil || w.Flows[0].Sent != nil || w.Peers[0].Role != "MASTER" {
		t.Fatalf("%+v, %v", w, err)
	}
	// Many at once.
	f = flowNo(5)
	w, err = b.Where(t.Context(), flow.Query{Src: f.Orig.SrcAddr(), Dst: f.Orig.DstAddr()})
	if err != nil || len(w.Flows) != 40 {
		t.Fatalf("%d flows, %v", len(w.Flows), err)
	}
	for _, x := range w.Flows {
		for _, p := range x.Peers {
			if p.Address == "192.0.2.1" && (p.Kernel == nil || p.Internal == nil) || p.Address == "192.0.2.3" && p.External == nil {
				t.Errorf("%+v", p)
			}
		}
	}
	// One that is not replicated, and why; one that nobody has.
	own := flowNo(9)
	own.Orig.SetSrc(own.Orig.DstAddr())
	own.Orig.Proto, own.Reply = 112, flow.Tuple{}
	own.Has &^= flow.HasReply | flow.HasTCPState
	a.table.Put(own)
	if w, err = b.Where(t.Context(), flow.Query{Src: own.Orig.SrcAddr(), Dst: own.Orig.DstAddr()}); err != nil || len(w.Flows) != 1 || w.Flows[0].Peers[0].Filtered != "vrrp" {
		t.Errorf("%+v, %v", w, err)
	}
	q.Sport = 7
	if w, err = b.Where(t.Context(), q); err != nil || len(w.Flows) != 0 || !w.Peers[0].Answered || !w.Peers[1].Answered {
		t.Errorf("%+v, %v", w, err)
	}
}

// TestWhereWithoutAnswers: what is known here is said where nobody can be asked.
func TestWhereWithoutAnswers(t *testing.T) {
	t.Parallel()
	a, b := pair(t, udptest.Faults{})
	a.table.Put(flowNo(1))
	eventually(t, "the view", mirrors(t, a, b))
	eventually(t, "the peer", func() error {
		if p := status(t, a).Peers; len(p) != 1 {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	if err := b.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	f := flowNo(1)
	w, err := a.Where(t.Context(), flow.Query{Src: f.Orig.SrcAddr(), Dst: f.Orig.DstAddr()})
	if err != nil || len(w.Flows) != 1 || w.Flows[0].Here.Internal == nil || len(w.Peers) != 1 || w.Peers[0].Answered || w.Peers[0].Why == "" {
		t.Errorf("%+v, %v", w, err)
	}
}
