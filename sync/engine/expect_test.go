package engine_test

import (
	"fmt"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/udp/udptest"
)

// dataConnection is what a helper expects of flow i.
func dataConnection(i int, helper string) flow.Expect {
	m := flowNo(i)
	x := flow.Expect{Master: m.Orig, Tuple: m.Orig, Timeout: 300, Class: 0,
		Has: flow.ExpectHasTimeout | flow.ExpectHasFlags | flow.ExpectHasClass | flow.ExpectHasHelper, Helper: flow.MakeHelper(helper)}
	x.Tuple.Sport, x.Tuple.Dport = 0, uint16(40000+i)
	x.Mask.Family, x.Mask.Dport, x.Mask.Proto = m.Orig.Family, 0xffff, m.Orig.Proto
	for k := range 4 {
		x.Mask.Src[k], x.Mask.Dst[k] = 0xff, 0xff
	}
	return x
}

func expectSync(words ...string) conf.Settings {
	s := settings()
	s.ExpectSync = words
	return s
}

func expectations(t *testing.T, n *node, which flow.Table, want int) func() error {
	return func() error {
		all, err := n.Expects(t.Context(), which)
		if err != nil || len(all) != want {
			return fmt.Errorf("%d expectations, want %d: %w", len(all), want, err)
		}
		return nil
	}
}

// TestExpectations: those of the named helpers are replicated, over a bad link
// too, and committed behind their masters; the others are not.
func TestExpectations(t *testing.T) {
	t.Parallel()
	for _, faults := range []udptest.Faults{{}, {Drop: 0.2, Duplicate: 0.1, Reorder: 0.2}} {
		a, b := pair(t, faults)
		for _, n := range []*node{a, b} {
			if err := n.Configure(t.Context(), expectSync("ftp", "h323")); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 30 {
			f := flowNo(i)
			f.Helper, f.Has = flow.MakeHelper("ftp"), f.Has|flow.HasHelper
			a.table.Put(f)
			a.table.PutExpect(dataConnection(i, [3]string{"ftp", "sip", "q.931"}[i%3]))
		}
		a.table.PutExpect(dataConnection(99, "ftp")) // its master is not known
		eventually(t, "the standby's view", expectations(t, b, flow.External, 20))
		eventually(t, "the active's view", expectations(t, a, flow.Internal, 20))
		eventually(t, "the masters", mirrors(t, a, b))
		done, err := b.Commit(t.Context())
		if err != nil || done.Expects != 20 || done.ExpectsWritten != 20 || done.Created != 30 {
			t.Fatalf("%+v, %v", done, err)
		}
		if got := b.table.Expects(); len(got) != 20 || got[0].Timeout != 300 || got[0].Master == (flow.Tuple{}) {
			t.Errorf("in the kernel: %+v", got)
		}
		for i := range 15 {
			a.table.RemoveExpect(new(dataConnection(i, "ftp")).Key())
		}
		eventually(t, "their ends", expectations(t, b, flow.External, 10))
		s := statistics(t, b)
		if s.Expect == nil || s.Expect.CacheExternal.Active != 10 || s.Expect.CacheExternal.Destroyed != 10 {
			t.Errorf("%+v", s.Expect)
		}
		if s.Main.CacheExternal.Active != 30 {
			t.Errorf("expectations count as connections: %+v", s.Main.CacheExternal)
		}
	}
}

// TestExpectationsOfAFullCopy: a standby that comes later has them, those that
// ended meanwhile are swept, and those the kernel lost silently are found.
func TestExpectationsOfAFullCopy(t *testing.T) {
	t.Parallel()
	a, b := pair(t, udptest.Faults{})
	for _, n := range []*node{a, b} {
		if err := n.Configure(t.Context(), expectSync(conf.AllExpect()...)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 10 {
		a.table.Put(flowNo(i))
		a.table.PutExpect(dataConnection(i, "tftp")) // of a helper without a word: all is all
	}
	eventually(t, "the standby's view", expectations(t, b, flow.External, 10))
	if err := b.Flush(t.Context(), flow.External); err != nil {
		t.Fatal(err)
	}
	if err := b.RequestResync(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "copied", expectations(t, b, flow.External, 10))
	for i := range 4 {
		a.table.RemoveExpectSilently(new(dataConnection(i, "tftp")).Key())
	}
	a.table.Overrun()
	eventually(t, "repaired", expectations(t, b, flow.External, 6))
	for _, step := range []error{a.Flush(t.Context(), flow.Both), a.Resync(t.Context())} {
		if step != nil {
			t.Fatal(step)
		}
	}
	eventually(t, "after the active's flush", expectations(t, a, flow.Internal, 6))
	eventually(t, "and at the standby", expectations(t, b, flow.External, 6))
}

func TestExpectationsNotConfigured(t *testing.T) {
	t.Parallel()
	a, b := pair(t, udptest.Faults{})
	if err := a.Configure(t.Context(), expectSync("ftp")); err != nil {
		t.Fatal(err)
	}
	a.table.Put(flowNo(1))
	a.table.PutExpect(dataConnection(1, "ftp"))
	eventually(t, "the standby counting it", func() error {
		if s := statistics(t, b); s.Drops["expectations_unwanted"] == 0 {
			return fmt.Errorf("%v", s.Drops)
		}
		return nil
	})
	if _, err := b.Expects(t.Context(), flow.External); err == nil || err.Error() != "expect-sync is not configured!" {
		t.Errorf("%v", err)
	}
	if s := statistics(t, b); s.Expect != nil {
		t.Errorf("%+v", s.Expect)
	}
	if err := b.Configure(t.Context(), expectSync("ftp")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "switched on", expectations(t, b, flow.External, 1))
}

// TestExpectationsAreInjected: with the external cache disabled they go straight
// into the kernel, and out of it.
func TestExpectationsAreInjected(t *testing.T) {
	t.Parallel()
	a, b := pair(t, udptest.Faults{})
	s := expectSync("ftp")
	if err := a.Configure(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	s.DisableExternalCache = true
	if err := b.Configure(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	a.table.Put(flowNo(1))
	a.table.PutExpect(dataConnection(1, "ftp"))
	inKernel := func(n int) func() error {
		return func() error {
			if got := len(b.table.Expects()); got != n {
				return fmt.Errorf("%d expectations in the kernel, want %d", got, n)
			}
			return nil
		}
	}
	eventually(t, "injected", inKernel(1))
	if all, err := b.Expects(t.Context(), flow.External); err != nil || len(all) != 0 {
		t.Errorf("%v %v", all, err)
	}
	a.table.RemoveExpect(new(dataConnection(1, "ftp")).Key())
	eventually(t, "removed", inKernel(0))
	if c := statistics(t, b).Expect.ExternalInject; c == nil || c.Created != 1 || c.Destroyed != 1 {
		t.Errorf("%+v", c)
	}
}
