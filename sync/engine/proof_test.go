package engine_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/cache"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/udp/udptest"
)

// planted alters entries: one is lost, one comes from nowhere, one has another
// state.
func planted(t *cache.Table) {
	k := new(flowNo(1)).Key()
	t.Delete(t.Find(&k))
	f := flowNo(70_000)
	_, _, _ = t.Put(&f, 1)
	f = flowNo(6)
	f.TCP.State = flow.TCPLastAck
	k = f.Key()
	t.Merge(t.Find(&k), &f)
}

// TestNativePlantedDifference: what is altered behind the engine's back, on either
// side, is found and mended, and nothing else is sent again.
func TestNativePlantedDifference(t *testing.T) {
	t.Parallel()
	nodes := group(t, 2, udptest.Faults{})
	a, b := nodes[0], nodes[1]
	churn(a, 0, 10000)
	eventually(t, "proof", inSync(t, b, 8000))
	if err := mirrors(t, a, b)(); err != nil {
		t.Fatal(err)
	}
	plant := func(what string, fn func(), copied, messages uint64) {
		t.Helper()
		was, sent, began := statistics(t, a).Session, a.link.Stats().BytesSent, time.Now()
		fn()
		if err := mirrors(t, a, b)(); err == nil {
			t.Fatalf("%s: nothing differs", what)
		}
		eventually(t, what, mirrors(t, a, b))
		eventually(t, "proof after: "+what, inSync(t, b, a.table.Len()))
		is := statistics(t, a).Session
		t.Logf("%s: found and mended after %v, %d flows were copied, %d bytes sent", what, time.Since(began), is["copied"]-was["copied"], a.link.Stats().BytesSent-sent)
		if n := is["copied"] - was["copied"]; n > copied || is["native_resent"] != was["native_resent"] {
			t.Errorf("%s: %d flows were copied, %d messages sent again", what, n, is["native_resent"]-was["native_resent"])
		}
		if n := is["audit_repairs"] - was["audit_repairs"]; n != messages {
			t.Errorf("%s: the audit mended %d entries", what, n)
		}
	}
	// Three buckets of 4096 hold some two of 8,000 flows each.
	plant("in the standby's cache", func() { b.AlterExternal(planted) }, 30, 0)
	plant("in the active's cache, with the standby's as it was", func() {
		a.AlterInternal(planted)
		b.AlterExternal(planted)
	}, 30, 3)
	plant("in the active's kernel, with the events lost", func() {
		a.table.RemoveSilently(new(flowNo(2)).Key())
		a.table.PutSilently(flowNo(80_000))
		f := flowNo(7)
		f.TCP.State = flow.TCPLastAck
		a.table.PutSilently(f)
	}, 0, 3)
}

// TestAuditBelievesEvents: what is on its way as an event is no difference.
func TestAuditBelievesEvents(t *testing.T) {
	t.Parallel()
	a, b := pair(t, udptest.Faults{})
	began := time.Now()
	for i := 0; statistics(t, a).Session["audits"] < 2; i += 100 {
		if time.Since(began) > time.Minute {
			t.Fatal("no audit in a minute")
		}
		churn(a, i, i+100)
		time.Sleep(100 * time.Millisecond) // a node with much to do audits less often
	}
	eventually(t, "the view", mirrors(t, a, b))
	if s := statistics(t, a).Session; s["audit_repairs"] != 0 {
		t.Errorf("%d repairs of nothing", s["audit_repairs"])
	}
}

// TestARepeatedEnd is not that of the next flow with the same tuple.
func TestARepeatedEnd(t *testing.T) {
	t.Parallel()
	a, b := pair(t, udptest.Faults{})
	k := new(flowNo(1)).Key()
	a.table.Put(flowNo(1))
	first, _ := a.table.Flow(k)
	a.table.Remove(k)
	a.table.Put(flowNo(1))
	a.table.Tell(flow.Event{Type: flow.EventDestroy, Flow: first})
	a.table.Put(flowNo(2))
	eventually(t, "the view", mirrors(t, a, b))
	if s := statistics(t, a); s.Drops["repeated_ends"] != 1 || s.Main.CacheInternal.Active != 2 {
		t.Errorf("%+v %v", s.Main.CacheInternal, s.Drops)
	}
}

// TestNativeProofIsShown: both ends say of the other that it is in sync, since when
// that was proven, and how long reports take.
func TestNativeProofIsShown(t *testing.T) {
	t.Parallel()
	nodes := group(t, 2, udptest.Faults{})
	churn(nodes[0], 0, 500)
	for i, n := range nodes {
		eventually(t, "the proof", func() error {
			p := status(t, n).Peers
			if len(p) != 1 || p[0].InSync == nil || !*p[0].InSync || p[0].ProvenMS == 0 || p[0].ProvenMS > 5000 {
				return fmt.Errorf("%+v", p)
			}
			if i == 0 && (p[0].LagP50MS == 0 || p[0].LagP99MS < p[0].LagP50MS || p[0].Role != "BACKUP") {
				return fmt.Errorf("%+v", p)
			}
			return nil
		})
	}
}

// TestNativeProofUnderSteadyTraffic: what goes out without a pause does not keep the
// digest from being sent.
func TestNativeProofUnderSteadyTraffic(t *testing.T) {
	t.Parallel()
	nodes := group(t, 2, udptest.Faults{})
	a, b := nodes[0], nodes[1]
	churn(a, 0, 100)
	eventually(t, "proof", func() error {
		if v := status(t, b).View; v == nil || !v.InSync {
			return fmt.Errorf("view %+v", v)
		}
		return nil
	})
	first := status(t, b).View.Entries
	n := 1000
	eventually(t, "another proof under traffic", func() error {
		a.table.Put(flowNo(n))
		n++
		if v := status(t, b).View; v == nil || !v.InSync || v.Entries < first+100 {
			return fmt.Errorf("view %+v after %d flows", v, n-1000)
		}
		return nil
	})
}
