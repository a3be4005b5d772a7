package engine_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/kernel/kerneltest"
	"github.com/conntrack-sync/conntrack-sync/sync/udp/udptest"
)

// TestNativeEpochs: what the former MASTER says late does not change the view of those
// who know the new one.
func TestNativeEpochs(t *testing.T) {
	t.Parallel()
	nodes := group(t, 3, udptest.Faults{})
	a, b, c := nodes[0], nodes[1], nodes[2]
	churn(a, 0, 500)
	eventually(t, "b in sync", inSync(t, b, 400))
	eventually(t, "c in sync", inSync(t, c, 400))
	takeOver(t, b)
	eventually(t, "c following b", func() error {
		for _, p := range status(t, c).Peers {
			if p.Role == "MASTER" && p.Address == "192.0.2.2" && p.InSync != nil && *p.InSync {
				return nil
			}
		}
		return fmt.Errorf("%+v", status(t, c).Peers)
	})
	// a has not heard of its fall, and its kernel loses everything.
	for i := range 500 {
		a.table.Remove(new(flowNo(i)).Key())
	}
	b.table.Put(flowNo(9000))
	eventually(t, "c with b's table", mirrors(t, b, c))
	if err := a.SetRole(t.Context(), "syncgrp", "BACKUP"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a with b's table", mirrors(t, b, a))
	if n := b.table.Len(); n != 401 {
		t.Errorf("the MASTER's kernel has %d flows", n)
	}
	if s := statistics(t, c); s.Drops["older_epoch"] == 0 {
		t.Errorf("nothing of an older epoch was seen: %v", s.Drops)
	}
}

func setRole(t *testing.T, n *node, role string) {
	t.Helper()
	if err := n.SetRole(t.Context(), "syncgrp", role); err != nil {
		t.Fatal(err)
	}
}

// takeOver is what the shim asks of a node that becomes MASTER.
func takeOver(t *testing.T, n *node) {
	t.Helper()
	setRole(t, n, "MASTER")
	_, err := n.Commit(t.Context())
	for _, e := range []error{err, n.Flush(t.Context(), flow.Both), n.Resync(t.Context()), n.Bulk(t.Context())} {
		if e != nil {
			t.Fatal(e)
		}
	}
}

// handOver makes to MASTER in the place of from.
func handOver(t *testing.T, from, to *node) {
	t.Helper()
	takeOver(t, to)
	setRole(t, from, "BACKUP")
}

// TestNativeTwoMastersAreSeen, by either of them.
func TestNativeTwoMastersAreSeen(t *testing.T) {
	t.Parallel()
	nodes := group(t, 2, udptest.Faults{})
	if err := nodes[1].SetRole(t.Context(), "syncgrp", "MASTER"); err != nil {
		t.Fatal(err)
	}
	for i, n := range nodes {
		eventually(t, "the conflict", func() error {
			if s, want := status(t, n), fmt.Sprintf("192.0.2.%d", 2-i); s.Conflict != want {
				return fmt.Errorf("node %d sees %q, want %s", i, s.Conflict, want)
			}
			return nil
		})
	}
}

// TestNativeMasterForAMoment: a node that was MASTER for a moment, while the other
// never stopped being it, does not keep that one from being believed.
func TestNativeMasterForAMoment(t *testing.T) {
	t.Parallel()
	nodes := group(t, 3, udptest.Faults{})
	a, b, c := nodes[0], nodes[1], nodes[2]
	churn(a, 0, 500)
	eventually(t, "b in sync", inSync(t, b, 400))
	takeOver(t, b)
	eventually(t, "c with b's epoch", func() error {
		if v := status(t, c).View; v.Epoch != 2 || !v.InSync {
			return fmt.Errorf("%+v", v)
		}
		return nil
	})
	setRole(t, b, "BACKUP")
	churn(a, 1000, 1500)
	for _, n := range []*node{b, c} {
		eventually(t, "the view", mirrors(t, a, n))
		eventually(t, "proof", inSync(t, n, 800))
	}
}

// TestNativeMasterRestarts: the epochs the others know are not lost with it.
func TestNativeMasterRestarts(t *testing.T) {
	t.Parallel()
	ends := udptest.Group(3, 3, udptest.Faults{})
	table := kerneltest.New()
	a, b := start(t, table, ends[0]), start(t, kerneltest.New(), ends[1])
	setRole(t, b, "BACKUP")
	for range 3 {
		setRole(t, a, "MASTER")
		setRole(t, a, "BACKUP")
	}
	setRole(t, a, "MASTER")
	churn(a, 0, 500)
	eventually(t, "b in sync", inSync(t, b, 400))
	if err := a.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	table.Remove(new(flowNo(1)).Key())
	udptest.Join(ends[2], ends[1])
	a = start(t, table, ends[2])
	setRole(t, a, "MASTER")
	churn(a, 1000, 1500)
	eventually(t, "the view", mirrors(t, a, b))
	eventually(t, "proof", inSync(t, b, 799))
	if e := status(t, b).View.Epoch; e != 5 {
		t.Errorf("epoch %d after four reigns and a restart", e)
	}
}

// TestNativeEndedStaysEnded: flows that ended while another node was MASTER do not
// come back to life with their former one, whose kernel still has them, whether it
// heard of their ends or was cut off; the others live.
func TestNativeEndedStaysEnded(t *testing.T) {
	t.Parallel()
	nodes := group(t, 2, udptest.Faults{})
	a, b := nodes[0], nodes[1]
	for i := range 100 {
		a.table.Put(flowNo(i))
	}
	eventually(t, "b in sync", inSync(t, b, 100))
	handOver(t, a, b)
	eventually(t, "a in sync", inSync(t, a, 100))
	for i := range 20 {
		b.table.Remove(new(flowNo(i)).Key())
	}
	eventually(t, "a's view", mirrors(t, b, a))
	handOver(t, b, a)
	if n := a.table.Len(); n != 80 {
		t.Errorf("%d flows in the kernel, 80 are alive", n)
	}
	if c := status(t, a).Commit; c.Ended != 20 {
		t.Errorf("%+v", c)
	}
	eventually(t, "b in sync again", inSync(t, b, 80))
	handOver(t, a, b)
	eventually(t, "a in sync again", inSync(t, a, 80))
	a.link.Cut(true)
	b.link.Cut(true)
	for i := 20; i < 40; i++ {
		b.table.Remove(new(flowNo(i)).Key())
	}
	b.table.Put(flowNo(200))
	time.Sleep(4 * time.Second) // longer than anything is kept for a silent peer
	a.link.Cut(false)
	b.link.Cut(false)
	eventually(t, "a in sync after the cut", inSync(t, a, 61))
	handOver(t, b, a)
	if n := a.table.Len(); n != 61 {
		t.Errorf("%d flows in the kernel, 61 are alive", n)
	}
	for i := range 40 {
		if _, alive := a.table.Flow(new(flowNo(i)).Key()); alive {
			t.Fatalf("flow %d ended and is alive", i)
		}
	}
	eventually(t, "b in sync in the end", inSync(t, b, 61))
}

// TestNativeEndedStaysEndedAfterACutTakeOver: the take-over in between was superseded
// when the caches had been flushed and nothing read from the kernel yet: what ended
// then is remembered all the same.
func TestNativeEndedStaysEndedAfterACutTakeOver(t *testing.T) {
	t.Parallel()
	nodes := group(t, 2, udptest.Faults{})
	a, b := nodes[0], nodes[1]
	for i := range 100 {
		a.table.Put(flowNo(i))
	}
	eventually(t, "b in sync", inSync(t, b, 100))
	handOver(t, a, b)
	eventually(t, "a in sync", inSync(t, a, 100))
	setRole(t, b, "BACKUP")
	setRole(t, a, "MASTER")
	if _, err := a.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // the events of what it wrote do not fill the cache again
	if err := a.Flush(t.Context(), flow.Both); err != nil {
		t.Fatal(err)
	}
	setRole(t, a, "BACKUP")
	takeOver(t, b)
	eventually(t, "a in sync again", inSync(t, a, 100))
	for i := range 20 {
		b.table.Remove(new(flowNo(i)).Key())
	}
	eventually(t, "a's view", mirrors(t, b, a))
	handOver(t, b, a)
	eventually(t, "b in sync again", inSync(t, b, 80))
	if n := a.table.Len(); n != 80 {
		t.Errorf("%d flows in the kernel, 80 are alive", n)
	}
}

// TestNativeStorm: both nodes are told many roles at once, take-overs are superseded
// between any two of their steps, and what ended while one of them was MASTER for
// longer is in neither kernel afterwards, however often that changed. STORM_ROUNDS
// makes it longer.
func TestNativeStorm(t *testing.T) {
	t.Parallel()
	nodes := group(t, 2, udptest.Faults{})
	const flows = 300
	for i := range flows {
		nodes[0].table.Put(flowNo(i))
	}
	eventually(t, "proof", inSync(t, nodes[1], flows))
	rounds := 60
	if s := os.Getenv("STORM_ROUNDS"); s != "" {
		rounds, _ = strconv.Atoi(s)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	tell := func(n *node, rng *rand.Rand, words []string) {
		for i, w := range words {
			setRole(t, n, w)
			steps := []func() error{
				func() error { _, err := n.Commit(t.Context()); return err },
				func() error { return n.Flush(t.Context(), flow.Both) },
				func() error { return n.Resync(t.Context()) },
				func() error { return n.Bulk(t.Context()) },
			}
			if w != "MASTER" {
				steps = []func() error{func() error { return n.RequestResync(t.Context()) }}
			}
			if i < len(words)-1 {
				steps = steps[:rng.IntN(len(steps)+1)]
			}
			for _, step := range steps {
				time.Sleep(time.Duration(rng.IntN(2000)) * time.Microsecond)
				if err := step(); err != nil {
					t.Error(err)
				}
			}
		}
	}
	ended := 0
	for round := range rounds {
		m, b := nodes[0], nodes[1]
		if rng.IntN(2) == 0 {
			m, b = b, m
		}
		words := []string{"MASTER", "BACKUP", "FAULT", "STOP", "MASTER", "BACKUP"}
		var both sync.WaitGroup
		for n, last := range map[*node]string{m: "MASTER", b: "BACKUP"} {
			said := append(slices.Clone(words[:rng.IntN(len(words))]), last)
			own := rand.New(rand.NewPCG(rng.Uint64(), 0))
			both.Go(func() { tell(n, own, said) })
		}
		both.Wait()
		if (round+1)%5 != 0 {
			continue
		}
		eventually(t, "the standby's view", mirrors(t, m, b))
		m.table.Remove(new(flowNo(ended)).Key())
		ended++
		eventually(t, "the standby's view after an end", mirrors(t, m, b))
		if n := m.table.Len(); n != flows-ended {
			for i := range ended {
				if _, back := m.table.Flow(new(flowNo(i)).Key()); back {
					t.Errorf("the flow that ended in round %d is back", 5*i+4)
				}
			}
			t.Fatalf("round %d: %d flows in the kernel of node %d, %d are alive", round, n, slices.Index(nodes, m), flows-ended)
		}
	}
}

// TestNativeFlapping: roles change twenty times while flows come and go, over a bad
// link; what both knew to have ended never comes back, and in the end both are
// equal.
func TestNativeFlapping(t *testing.T) {
	t.Parallel()
	nodes := group(t, 2, udptest.Faults{Drop: 0.05, Reorder: 0.05})
	churn(nodes[0], 0, 1000)
	eventually(t, "proof", inSync(t, nodes[1], 800))
	ended := 0
	for i := range 20 {
		m, b := nodes[i%2], nodes[(i+1)%2]
		for range 10 {
			m.table.Remove(new(flowNo(5*ended + 1)).Key())
			ended++
		}
		m.table.Put(flowNo(5000 + i))
		eventually(t, "the standby's word that it knows", func() error {
			own := entries(t, m, flow.Internal)
			for k := ended - 10; k < ended; k++ {
				if _, there := own[new(flowNo(5*k+1)).Key()]; there {
					return fmt.Errorf("the event of %d is on its way", 5*k+1)
				}
			}
			if p := status(t, m).Peers; len(p) != 1 || p[0].Unacked > 0 {
				return fmt.Errorf("%+v", p)
			}
			return nil
		})
		handOver(t, m, b)
	}
	m, b := nodes[0], nodes[1]
	eventually(t, "equality", mirrors(t, m, b))
	for i := range ended {
		if _, alive := m.table.Flow(new(flowNo(5*i + 1)).Key()); alive {
			t.Fatalf("flow %d ended and is alive", 5*i+1)
		}
	}
	for i := range 20 {
		if _, alive := m.table.Flow(new(flowNo(5000 + i)).Key()); !alive {
			t.Errorf("flow %d was reported and is lost", 5000+i)
		}
	}
}

// TestNativeTakeOverStepByStep: while a take-over is not through, the others keep
// what they hold; what the former MASTER said last is still taken, and nothing of
// it afterwards.
func TestNativeTakeOverStepByStep(t *testing.T) {
	t.Parallel()
	nodes := group(t, 3, udptest.Faults{})
	a, b, c := nodes[0], nodes[1], nodes[2]
	churn(a, 0, 500)
	for _, n := range []*node{b, c} {
		eventually(t, "proof", inSync(t, n, 400))
	}
	keeps := func(when string, rounds int) {
		t.Helper()
		for range rounds {
			if n := len(entries(t, c, flow.External)); n < 400 {
				t.Fatalf("%s: %d of 400 flows are left in the third node's view", when, n)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	setRole(t, b, "MASTER")
	keeps("the role is known, nothing is committed", 30) // two beats
	a.table.Put(flowNo(9000))
	eventually(t, "the former MASTER's last word", func() error {
		if n := len(entries(t, b, flow.External)); n != 401 {
			return fmt.Errorf("%d entries", n)
		}
		return nil
	})
	if _, err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	keeps("committed", 30)
	if err := b.Flush(t.Context(), flow.Both); err != nil {
		t.Fatal(err)
	}
	keeps("flushed", 8) // a flush that nothing follows is told after two seconds
	for _, err := range []error{b.Resync(t.Context()), b.Bulk(t.Context())} {
		if err != nil {
			t.Fatal(err)
		}
	}
	a.table.Put(flowNo(9001)) // it has not heard of its fall
	eventually(t, "c with b's table", mirrors(t, b, c))
	eventually(t, "proof", inSync(t, c, 401))
	eventually(t, "that a is not believed", func() error {
		if d := statistics(t, c).Drops; d["older_epoch"] == 0 {
			return fmt.Errorf("%v", d)
		}
		return nil
	})
	if n := len(entries(t, b, flow.External)); n != 0 {
		t.Errorf("the new MASTER took %d flows of the former one", n)
	}
}

// TestNativeTwoMastersOfOneEpoch: two that were each alone when they became MASTER.
// A third node holds the table of one of them, not a mixture, and when one steps
// back both others hold the other's.
func TestNativeTwoMastersOfOneEpoch(t *testing.T) {
	t.Parallel()
	ends := udptest.Group(3, 17, udptest.Faults{})
	var nodes []*node
	for i, l := range ends {
		l.Cut(i < 2)
		nodes = append(nodes, start(t, kerneltest.New(), l))
	}
	a, b, c := nodes[0], nodes[1], nodes[2]
	setRole(t, a, "MASTER")
	setRole(t, b, "MASTER")
	setRole(t, c, "BACKUP")
	churn(a, 0, 500)
	churn(b, 1000, 1500)
	ends[0].Cut(false)
	ends[1].Cut(false)
	eventually(t, "the conflict", func() error {
		if x, y := status(t, a).Conflict, status(t, b).Conflict; x == "" || y == "" {
			return fmt.Errorf("a sees %q, b sees %q", x, y)
		}
		return nil
	})
	either := func() error {
		if err := mirrors(t, a, c)(); err != nil {
			return mirrors(t, b, c)()
		}
		return nil
	}
	eventually(t, "one table at the third", either)
	churn(a, 500, 600)
	churn(b, 1500, 1600)
	eventually(t, "one table still", either)
	setRole(t, b, "BACKUP")
	for _, n := range []*node{b, c} {
		eventually(t, "the table of the one that is left", mirrors(t, a, n))
		eventually(t, "proof", inSync(t, n, 480))
	}
	if x := status(t, a).Conflict; x != "" {
		t.Errorf("a still sees %q", x)
	}
	// Before they knew that all speak our protocol they spoke conntrackd's, which
	// knows no MASTER.
	taken := entries(t, a, flow.External)
	for i := 1500; i < 1600; i++ {
		if _, ok := taken[new(flowNo(i)).Key()]; ok {
			t.Fatalf("the MASTER took flow %d of the other", i)
		}
	}
}
