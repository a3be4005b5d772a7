package engine_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/engine"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/kernel/kerneltest"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/conntrack-sync/conntrack-sync/sync/udp/udptest"
)

// clock is the real one, which a test may put forward.
type clock struct {
	ahead atomic.Int64
	since atomic.Pointer[time.Time] // not nil while it stands
}

func (c *clock) now() time.Time {
	now := time.Now()
	if since := c.since.Load(); since != nil {
		now = *since
	}
	return now.Add(time.Duration(c.ahead.Load()))
}

func (c *clock) advance(d time.Duration) { c.ahead.Add(int64(d)) }

// stand lets the clock go on by advance alone: what is done meanwhile takes no time.
func (c *clock) stand() {
	now := time.Now()
	c.since.Store(&now)
}

// direct starts an engine with the external cache disabled.
func direct(t *testing.T, table *kerneltest.Table, link *udptest.Link, now func() time.Time) *node {
	t.Helper()
	n := &node{table: table, link: link}
	n.Engine = engine.New(engine.Options{
		OpenKernel: func() (engine.Kernel, error) { return table, nil },
		OpenLink:   func(engine.LinkConfig) (engine.Link, error) { return link, nil },
		Now:        now,
	})
	s := settings()
	s.DisableExternalCache = true
	if err := n.Configure(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Stop(context.Background()) })
	return n
}

// sameTables says whether b's kernel holds what a's does.
func sameTables(a, b *kerneltest.Table, n int) func() error {
	return func() error {
		if a.Len() != n || b.Len() != n {
			return fmt.Errorf("%d and %d entries, want %d", a.Len(), b.Len(), n)
		}
		for i := range 1000 {
			k := new(flowNo(i)).Key()
			f, here := a.Flow(k)
			g, there := b.Flow(k)
			if here != there || f.TCP.State != g.TCP.State || f.Reply != g.Reply {
				return fmt.Errorf("%v: %v %v, state %d and %d", k.Tuple, here, there, f.TCP.State, g.TCP.State)
			}
		}
		return nil
	}
}

func statistics(t *testing.T, n *node) stats.Statistics {
	t.Helper()
	s, err := n.Statistics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestDirectInjection: births, changes and ends reach the standby's kernel
// without a commit, over a bad link too; its external cache is empty.
func TestDirectInjection(t *testing.T) {
	t.Parallel()
	for _, faults := range []udptest.Faults{{}, {Drop: 0.1, Duplicate: 0.1, Reorder: 0.1}} {
		la, lb := udptest.Pair(3, faults)
		a := start(t, kerneltest.New(), la)
		b := direct(t, kerneltest.New(), lb, nil)
		for i := range 1000 {
			a.table.Put(flowNo(i))
		}
		eventually(t, "the standby's kernel", sameTables(a.table, b.table, 1000))
		for i := range 300 {
			f := flowNo(i)
			f.TCP.State = flow.TCPFinWait
			a.table.Put(f)
		}
		for i := 300; i < 600; i++ {
			a.table.Remove(new(flowNo(i)).Key())
		}
		eventually(t, "changes and ends", sameTables(a.table, b.table, 700))
		s := statistics(t, b)
		if s.Main.CacheExternal != nil || s.Main.ExternalInject == nil || s.Main.CacheInternal.Active != 0 {
			t.Fatalf("%+v", s.Main)
		}
		eventually(t, "what was written is counted", func() error { // when the kernel has answered
			c := statistics(t, b).Main.ExternalInject
			if c.Created != 1000 || c.Updated < 300 || c.Destroyed < 300 || c.CreatedFailed+c.DestroyedFailed != 0 {
				return fmt.Errorf("%+v", *c)
			}
			return nil
		})
		if len(entries(t, b, flow.External)) != 0 || len(entries(t, b, flow.Internal)) != 0 {
			t.Error("the caches are not empty")
		}
		if in := entries(t, a, flow.External); len(in) != 0 {
			t.Errorf("%d entries came back to the active", len(in))
		}
	}
}

// TestInjectedFlowsAreArmedAgain: the standby sees no packet of a flow; it must
// not run out there while it lives at the active.
func TestInjectedFlowsAreArmedAgain(t *testing.T) {
	t.Parallel()
	c := &clock{}
	la, lb := udptest.Pair(3, udptest.Faults{})
	a := start(t, kerneltest.New(), la)
	b := direct(t, kerneltest.New(), lb, c.now)
	for i := range 100 {
		a.table.Put(flowNo(i)) // of 100 s
	}
	eventually(t, "the standby's kernel", sameTables(a.table, b.table, 100))
	c.advance(40 * time.Second)
	time.Sleep(300 * time.Millisecond)
	if s := statistics(t, b); s.Inject["rearmed"] != 0 {
		t.Errorf("armed again before half the time was over: %v", s.Inject)
	}
	for round := uint64(1); round < 4; round++ {
		c.advance(51 * time.Second)
		eventually(t, "all armed again", func() error {
			if s := statistics(t, b); s.Inject["rearmed"] != 100*round {
				return fmt.Errorf("round %d: %v", round, s.Inject)
			}
			return nil
		})
	}
	if s := statistics(t, b); s.Main.ExternalInject.Updated != 0 {
		t.Errorf("counted as the peer's updates: %+v", s.Main.ExternalInject)
	}
}

// TestAMasterIsNotInjectedInto: what the peer says meanwhile waits.
func TestAMasterIsNotInjectedInto(t *testing.T) {
	t.Parallel()
	la, lb := udptest.Pair(3, udptest.Faults{})
	a := start(t, kerneltest.New(), la)
	b := direct(t, kerneltest.New(), lb, nil)
	if err := b.SetRole(t.Context(), "syncgrp", "MASTER"); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		a.table.Put(flowNo(i))
	}
	eventually(t, "b hearing of them", func() error {
		if s := statistics(t, b); s.Inject["held"] != 100 {
			return fmt.Errorf("%v", s.Inject)
		}
		return nil
	})
	if b.table.Len() != 0 {
		t.Fatalf("%d flows in the kernel of a MASTER", b.table.Len())
	}
	if err := b.SetRole(t.Context(), "syncgrp", "BACKUP"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the standby's kernel", sameTables(a.table, b.table, 100))
}

// TestTakeOverAfterInjection: commit has nothing to do; the refill makes the
// flows this node's own, and nobody is told that they ended.
func TestTakeOverAfterInjection(t *testing.T) {
	t.Parallel()
	la, lb := udptest.Pair(3, udptest.Faults{})
	a := start(t, kerneltest.New(), la)
	b := direct(t, kerneltest.New(), lb, nil)
	for i := range 200 {
		a.table.Put(flowNo(i))
	}
	eventually(t, "the standby's kernel", sameTables(a.table, b.table, 200))
	for _, step := range []func() error{
		func() error { return b.SetRole(t.Context(), "syncgrp", "MASTER") },
		func() error {
			done, err := b.Commit(t.Context())
			if done.Entries != 0 {
				t.Errorf("commit wrote %+v", done)
			}
			return err
		},
		func() error { return b.Flush(t.Context(), flow.Both) },
		func() error { return b.Resync(t.Context()) },
		func() error { return b.Bulk(t.Context()) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(entries(t, b, flow.Internal)); n != 200 {
		t.Errorf("%d entries in the internal cache of the new MASTER", n)
	}
	eventually(t, "the former active's view", mirrors(t, b, a))
}

// TestInjectedFlowsStayThePeers: a standby whose engine restarts finds in its
// kernel what its predecessor injected. Those flows are not its own, and not
// sent back.
func TestInjectedFlowsStayThePeers(t *testing.T) {
	t.Parallel()
	la, lb := udptest.Pair(3, udptest.Faults{})
	a := start(t, kerneltest.New(), la)
	b := direct(t, kerneltest.New(), lb, nil)
	for i := range 200 {
		a.table.Put(flowNo(i))
	}
	eventually(t, "the standby's kernel", sameTables(a.table, b.table, 200))
	if err := b.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, lb2 := udptest.Pair(4, udptest.Faults{})
	udptest.Join(la, lb2)
	b = direct(t, b.table, lb2, nil)
	if err := b.SetRole(t.Context(), "syncgrp", "BACKUP"); err != nil {
		t.Fatal(err)
	}
	if err := b.RequestResync(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the flows being the peer's", func() error {
		if n := len(entries(t, b, flow.Internal)); n != 0 {
			return fmt.Errorf("%d in the internal cache", n)
		}
		return nil
	})
	eventually(t, "both kernels", sameTables(a.table, b.table, 200))
	a.table.Remove(new(flowNo(7)).Key())
	eventually(t, "an end", sameTables(a.table, b.table, 199))
}

// TestModeChangesLive: the external cache survives being disabled and enabled.
func TestModeChangesLive(t *testing.T) {
	t.Parallel()
	a, b := pair(t, udptest.Faults{})
	for i := range 100 {
		a.table.Put(flowNo(i))
	}
	eventually(t, "the standby's view", mirrors(t, a, b))
	s := settings()
	s.DisableExternalCache = true
	if err := b.Configure(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the standby's kernel", sameTables(a.table, b.table, 100))
	if err := b.Configure(t.Context(), settings()); err != nil {
		t.Fatal(err)
	}
	if err := mirrors(t, a, b)(); err != nil {
		t.Error(err)
	}
}

// TestARefusedInjectionIsTriedAgain: with the table full an entry is refused and
// counted; it gets in once there is room and it would be armed again.
func TestARefusedInjectionIsTriedAgain(t *testing.T) {
	t.Parallel()
	c := &clock{}
	la, lb := udptest.Pair(3, udptest.Faults{})
	a := start(t, kerneltest.New(), la)
	b := direct(t, kerneltest.New(), lb, c.now)
	b.table.Limit(10)
	for i := range 20 {
		a.table.Put(flowNo(i))
	}
	eventually(t, "refusals", func() error {
		if s := statistics(t, b).Main.ExternalInject; s.Created != 10 || s.CreatedFailed != 10 {
			return fmt.Errorf("%+v", *s)
		}
		return nil
	})
	if s := statistics(t, b).Inject; s["refused_table_full"] != 10 || s["recreated"] != 0 {
		t.Errorf("%v", s)
	}
	b.table.Limit(0)
	c.advance(60 * time.Second)
	eventually(t, "the standby's kernel", sameTables(a.table, b.table, 20))
}

// TestAnInjectionInPlaceOfAnother: the standby's kernel holds a flow translated in
// another way, so that the peer's can only replace it; that is counted.
func TestAnInjectionInPlaceOfAnother(t *testing.T) {
	t.Parallel()
	la, lb := udptest.Pair(3, udptest.Faults{})
	a := start(t, kerneltest.New(), la)
	b := direct(t, kerneltest.New(), lb, nil)
	for i := range 3 {
		f := flowNo(i)
		f.Reply.Dport++
		b.table.Put(f)
	}
	for i := range 10 {
		a.table.Put(flowNo(i))
	}
	eventually(t, "the standby's kernel", sameTables(a.table, b.table, 10))
	eventually(t, "the account", func() error {
		if s := statistics(t, b); s.Inject["recreated"] != 3 || s.Main.ExternalInject.Created != 7 {
			return fmt.Errorf("%v, %+v", s.Inject, *s.Main.ExternalInject)
		}
		return nil
	})
}

// TestAudit: what the kernel changed without an event is found by and by, and the
// standby is told.
func TestAudit(t *testing.T) {
	t.Parallel()
	c := &clock{}
	la, lb := udptest.Pair(3, udptest.Faults{})
	n := startAt(t, kerneltest.New(), la, c.now)
	b := start(t, kerneltest.New(), lb)
	for i := range 100 {
		n.table.Put(flowNo(i))
	}
	eventually(t, "the view", mirrors(t, n, b))
	for i := range 10 {
		n.table.RemoveSilently(new(flowNo(i)).Key())
		n.table.PutSilently(flowNo(200 + i))
	}
	c.advance(6 * time.Minute)
	eventually(t, "the view after the audit", mirrors(t, n, b))
}

// TestAuditPauseFollowsTheTable: a table that has grown since the last audit is read as
// rarely as one of its size, not soon because it was small then.
func TestAuditPauseFollowsTheTable(t *testing.T) {
	t.Parallel()
	c := &clock{}
	la, lb := udptest.Pair(3, udptest.Faults{})
	n := startAt(t, kerneltest.New(), la, c.now)
	b := start(t, kerneltest.New(), lb)
	audits := func() uint64 { return statistics(t, n).Session["audits"] }
	c.advance(time.Minute)
	eventually(t, "an audit", func() error {
		if audits() == 0 {
			return errors.New("none")
		}
		return nil
	})
	c.stand()
	const entries = 60_000 // 12 s
	for i := range entries {
		n.table.Put(flowNo(i))
	}
	eventually(t, "the view", mirrors(t, n, b))
	before := audits()
	for range 6 {
		c.advance(time.Second)
		time.Sleep(300 * time.Millisecond)
	}
	if n := audits() - before; n != 0 {
		t.Errorf("%d audits of %d entries within six seconds", n, entries)
	}
	c.advance(time.Minute)
	eventually(t, "the next audit", func() error {
		if audits() == before {
			return errors.New("none")
		}
		return nil
	})
}

// TestNativeAuditFindsClearedLabels: no event says that all labels of a flow were cleared.
// The comparison finds it, once, and our own protocol carries it.
func TestNativeAuditFindsClearedLabels(t *testing.T) {
	t.Parallel()
	c := &clock{}
	la, lb := udptest.Pair(3, udptest.Faults{})
	n := startAt(t, kerneltest.New(), la, c.now)
	b := start(t, kerneltest.New(), lb)
	labelled := func(want int) func() error {
		return func() error {
			have := 0
			err := b.Flows(t.Context(), flow.External, func(fs []flow.Flow) error {
				for i := range fs {
					if fs[i].Labels != [16]byte{} {
						have++
					}
				}
				return nil
			})
			if err == nil && have != want {
				err = fmt.Errorf("%d flows with labels, want %d", have, want)
			}
			return err
		}
	}
	for i := range 10 {
		f := flowNo(i)
		f.Labels, f.Has = [16]byte{8}, f.Has|flow.HasLabels
		n.table.Put(f)
	}
	eventually(t, "the labels at the standby", labelled(10))
	for i := range 4 {
		f := flowNo(i)
		f.Has |= flow.HasLabels
		n.table.PutSilently(f)
	}
	c.advance(6 * time.Minute)
	eventually(t, "the labels cleared", labelled(6))
	excluded := flow.Flow{Orig: flow.MakeTuple(6, netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.1"), 1000, 80), Has: flow.HasReply | flow.HasStatus}
	excluded.Reply = excluded.Orig.Inverse()
	n.table.Put(excluded)
	audits := statistics(t, n).Session["audits"]
	eventually(t, "two more audits", func() error {
		c.advance(6 * time.Minute)
		if s := statistics(t, n).Session; s["audits"] < audits+2 {
			return fmt.Errorf("%v", s)
		}
		return nil
	})
	if s := statistics(t, n).Session; s["audit_repairs"] != 4 {
		t.Errorf("%d repairs", s["audit_repairs"])
	}
	if n := statistics(t, n).Excluded["loopback"]; n != 1 {
		t.Errorf("the audits counted the excluded flow too: %d", n)
	}
}
