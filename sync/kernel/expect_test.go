package kernel

import (
	"context"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/kernel/kerneltest"
)

// control is a flow the kernel lets expect others.
func control(proto uint8, src, dst netip.Addr, sport, dport uint16, helper string) flow.Flow {
	f := established(src, dst, sport, dport)
	f.Orig.Proto, f.Reply.Proto = proto, proto
	if proto != flow.ProtoTCP {
		f.Has &^= flow.HasTCPState
	}
	f.Helper, f.Has = flow.MakeHelper(helper), f.Has|flow.HasHelper
	return f
}

// expected is the expectation of one flow of the master's client to this port.
func expected(master *flow.Flow, port uint16) flow.Expect {
	x := flow.Expect{
		Master: master.Orig, Tuple: master.Orig,
		Has: flow.ExpectHasTimeout | flow.ExpectHasFlags | flow.ExpectHasClass | flow.ExpectHasHelper, Timeout: 100,
		Helper: master.Helper,
	}
	x.Tuple.Sport, x.Tuple.Dport = 0, port
	x.Mask = flow.Tuple{Family: x.Tuple.Family, Proto: x.Tuple.Proto, Dport: 0xffff}
	for i := range x.Tuple.AddrLen() {
		x.Mask.Src[i], x.Mask.Dst[i] = 0xff, 0xff
	}
	return x
}

func withNAT(x flow.Expect, to netip.Addr, port uint16, dir uint32) flow.Expect {
	x.NAT = flow.Tuple{Family: x.Master.Family, Proto: x.Master.Proto, Sport: port}
	x.NAT.SetSrc(to)
	x.NATDir = dir
	copy(x.Function[:], "nat-follow-master")
	x.Has |= flow.ExpectHasNATAddr | flow.ExpectHasNATProto | flow.ExpectHasNATPort | flow.ExpectHasNATDir | flow.ExpectHasFunction
	return x
}

func masters() []flow.Flow {
	return []flow.Flow{
		control(flow.ProtoTCP, client, server, 1021, 21, "ftp"), control(flow.ProtoTCP, client, server, 1022, 21, "ftp"),
		control(flow.ProtoTCP, six1, six2, 1023, 21, "ftp"), control(flow.ProtoTCP, six1, six2, 1024, 21, "ftp"),
		control(flow.ProtoUDP, client, server, 5060, 5060, "sip"),
	}
}

// expectations are one of every kind, one a master: more the ftp helper does
// not have.
func expectations() []flow.Expect {
	m := masters()
	audio := expected(&m[4], 40005)
	audio.Class, audio.Flags = 1, 1
	audio.Tuple.Src, audio.Mask.Src = [16]byte{}, [16]byte{}
	return []flow.Expect{
		expected(&m[0], 40001), withNAT(expected(&m[1], 40002), nat, 50002, 1),
		expected(&m[2], 40003), withNAT(expected(&m[3], 40004), sixNAT, 50004, 0), audio,
	}
}

func upsertExpects(t *testing.T, c table, xs ...flow.Expect) flow.Applied {
	t.Helper()
	batch := make([]flow.ExpectChange, len(xs))
	for i, x := range xs {
		batch[i] = flow.ExpectChange{Op: flow.Upsert, Expect: x}
	}
	return applyExpects(t, c, batch...)
}

func applyExpects(t *testing.T, c table, batch ...flow.ExpectChange) flow.Applied {
	t.Helper()
	done, err := c.ApplyExpects(context.Background(), batch)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func dumpExpects(t *testing.T, c table) map[flow.Key]flow.Expect {
	t.Helper()
	m := map[flow.Key]flow.Expect{}
	err := c.DumpExpects(context.Background(), func(xs []flow.Expect) error {
		for _, x := range xs {
			m[x.Key()] = x
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// helped opens a Conn in whose table masters stand with their helpers.
func helped(t *testing.T) *Conn {
	t.Helper()
	c := open(t)
	upsert(t, c, masters()...)
	for _, f := range dump(t, c) {
		if f.Has&flow.HasHelper == 0 {
			t.Fatalf("this kernel lacks the helper of %v", f.Orig)
		}
	}
	return c
}

func TestKernelHoldsTheExpectationsWritten(t *testing.T) {
	inNetns(t, func() {
		c := helped(t)
		want := expectations()
		if done := upsertExpects(t, c, want...); done.Created != len(want) || len(done.Failed) != 0 {
			t.Fatalf("%+v", done)
		}
		have := dumpExpects(t, c)
		if len(have) != len(want) {
			t.Errorf("%d expectations, want %d", len(have), len(want))
		}
		for _, w := range want {
			h := have[w.Key()]
			if h.Timeout == 0 || h.Timeout > w.Timeout {
				t.Errorf("%v times out in %d s, want %d", w.Tuple, h.Timeout, w.Timeout)
			}
			if h.Timeout = w.Timeout; h != w {
				t.Errorf("wrote\n%+v\nthe table has\n%+v", w, h)
			}
		}
	})
}

func TestExpectationsKeepTheOrderOfTheBatch(t *testing.T) {
	inNetns(t, func() {
		c := helped(t)
		x := expectations()[0]
		later := withNAT(x, nat, 50002, 1)
		later.Timeout = 50
		if done := upsertExpects(t, c, x, later); done.Created != 1 || done.Updated != 1 || len(done.Failed) != 0 {
			t.Errorf("%+v", done)
		}
		h := dumpExpects(t, c)[x.Key()]
		if h.NAT != later.NAT || h.Timeout > later.Timeout {
			t.Errorf("the table has %+v", h)
		}
		// Nothing of the translation stays behind.
		upsertExpects(t, c, x)
		if h := dumpExpects(t, c)[x.Key()]; h.Has != x.Has {
			t.Errorf("the table has %+v", h)
		}
		done := applyExpects(t, c, flow.ExpectChange{Op: flow.Upsert, Expect: x},
			flow.ExpectChange{Op: flow.Delete, Expect: x}, flow.ExpectChange{Op: flow.Delete, Expect: x})
		if done.Updated != 1 || done.Deleted != 1 || len(done.Failed) != 0 || len(dumpExpects(t, c)) != 0 {
			t.Errorf("%+v", done)
		}
	})
}

func TestExpectationTimeoutIsNeverZero(t *testing.T) {
	inNetns(t, func() {
		c := helped(t)
		xs := expectations()[:2]
		xs[0].Timeout = 0
		xs[1].Has &^= flow.ExpectHasTimeout
		if done := upsertExpects(t, c, xs...); done.Created != 2 || len(done.Failed) != 0 {
			t.Fatalf("%+v", done)
		}
		if h, ok := dumpExpects(t, c)[xs[1].Key()]; !ok || h.Timeout > fallbackTimeout {
			t.Errorf("the table has %+v", h)
		}
	})
}

func TestRefusedExpectationsHaveReasons(t *testing.T) {
	inNetns(t, func() {
		c := helped(t)
		plain := established(client, server, 1099, 80)
		upsert(t, c, plain)
		all := expectations()
		orphan := all[1]
		orphan.Master.Sport = 9
		helpless := expected(&plain, 40006)
		misnamed := all[2]
		copy(misnamed.Function[:], "nosuch")
		misnamed.Has |= flow.ExpectHasFunction
		classless := all[4]
		classless.Class = 99
		overlap := all[0]
		overlap.Master, overlap.Tuple.Src, overlap.Mask.Src = all[1].Master, [16]byte{}, [16]byte{}
		want := map[int]flow.Reason{100: flow.ReasonNoMaster, 110: flow.ReasonHelper, 120: flow.ReasonInvalid,
			130: flow.ReasonInvalid, 140: flow.ReasonBusy}
		batch := make([]flow.ExpectChange, 150)
		for i := range batch {
			batch[i].Expect = all[0]
		}
		for i, x := range map[int]flow.Expect{100: orphan, 110: helpless, 120: misnamed, 130: classless, 140: overlap} {
			batch[i].Expect = x
		}
		done := applyExpects(t, c, batch...)
		for _, f := range done.Failed {
			if r, ok := want[f.Index]; !ok || r != f.Reason {
				t.Errorf("change %d: %v (%v), want %v", f.Index, f.Reason, f.Err, want[f.Index])
			}
		}
		if len(done.Failed) != len(want) || done.Created != 1 || done.Updated != len(batch)-1-len(want) {
			t.Errorf("%+v", done)
		}
		if have := dumpExpects(t, c); len(have) != 1 {
			t.Errorf("the table has %v", have)
		}
	})
}

func TestExpectationsOfAZone(t *testing.T) {
	inNetns(t, func() {
		c := open(t)
		m := control(flow.ProtoTCP, client, server, 1021, 21, "ftp")
		m.Zone, m.Has = 5, m.Has|flow.HasZone
		upsert(t, c, m)
		x := expected(&m, 40001)
		if done := upsertExpects(t, c, x); len(done.Failed) != 1 || done.Failed[0].Reason != flow.ReasonNoMaster {
			t.Errorf("in another zone than its master: %+v", done)
		}
		elsewhere := x
		x.Zone = 5
		if done := upsertExpects(t, c, x); done.Created != 1 {
			t.Errorf("%+v", done)
		}
		done := applyExpects(t, c, flow.ExpectChange{Op: flow.Delete, Expect: elsewhere}, flow.ExpectChange{Op: flow.Delete, Expect: x})
		if done.Deleted != 1 || len(done.Failed) != 0 || len(dumpExpects(t, c)) != 0 {
			t.Errorf("%+v", done)
		}
	})
}

// told is an event as far as the tests look at it.
type told struct {
	typ    flow.EventType
	own    bool
	expect bool
	tuple  flow.Tuple
}

func tell(evs []flow.Event) (all []told) {
	for _, e := range evs {
		v := told{typ: e.Type, own: e.Own, tuple: e.Flow.Orig}
		if e.Expect != nil {
			v.expect, v.tuple = true, e.Expect.Tuple
		}
		all = append(all, v)
	}
	return all
}

func TestExpectationEventsSayWhoseTheyAre(t *testing.T) {
	inNetns(t, func() {
		c, other := open(t), open(t)
		m := control(flow.ProtoTCP, six1, six2, 1023, 21, "ftp")
		upsert(t, c, m)
		mine, theirs, flushed := expected(&m, 40001), expected(&m, 40002), expected(&m, 40003)
		upsertExpects(t, c, mine)
		applyExpects(t, c, flow.ExpectChange{Op: flow.Delete, Expect: mine})
		upsertExpects(t, other, theirs)
		applyExpects(t, other, flow.ExpectChange{Op: flow.Delete, Expect: theirs})
		upsertExpects(t, c, flushed)
		run(t, "conntrack", "-F", "expect")
		evs := collect(t, c, func(e flow.Event) bool {
			return e.Type == flow.EventDestroy && e.Expect != nil && e.Expect.Tuple == flushed.Tuple
		})
		want := []told{
			{flow.EventNew, true, false, m.Orig},
			{flow.EventNew, true, true, mine.Tuple}, {flow.EventDestroy, true, true, mine.Tuple},
			{flow.EventNew, false, true, theirs.Tuple}, {flow.EventDestroy, false, true, theirs.Tuple},
			{flow.EventNew, true, true, flushed.Tuple}, {flow.EventDestroy, false, true, flushed.Tuple},
		}
		if got := tell(evs); !slices.Equal(got, want) {
			t.Errorf("got %v\nwant %v", got, want)
		}
		if x := *evs[1].Expect; x.Master != m.Orig || x.Mask != mine.Mask || x.Helper != m.Helper {
			t.Errorf("the event says %+v", x)
		}
	})
}

func TestExpectationsEndWithTheirMaster(t *testing.T) {
	inNetns(t, func() {
		c := open(t)
		m := control(flow.ProtoTCP, client, server, 1021, 21, "ftp")
		upsert(t, c, m)
		evicted, x := expected(&m, 40001), expected(&m, 40002)
		upsertExpects(t, c, evicted, x)
		if _, err := c.Apply(context.Background(), []flow.Change{{Op: flow.Delete, Flow: m}}); err != nil {
			t.Fatal(err)
		}
		evs := collect(t, c, func(e flow.Event) bool {
			return e.Type == flow.EventDestroy && e.Expect != nil && e.Expect.Tuple == x.Tuple
		})
		want := []told{
			{flow.EventNew, true, false, m.Orig},
			{flow.EventNew, true, true, evicted.Tuple}, {flow.EventDestroy, false, true, evicted.Tuple},
			{flow.EventNew, true, true, x.Tuple},
			{flow.EventDestroy, true, false, m.Orig}, {flow.EventDestroy, false, true, x.Tuple},
		}
		if got := tell(evs); !slices.Equal(got, want) {
			t.Errorf("got %v\nwant %v", got, want)
		}
	})
}

// lifeOf lets expectations come and go, and returns what was told about it.
func lifeOf(t *testing.T, c table) (done []flow.Applied, evs []told) {
	m := control(flow.ProtoTCP, client, server, 1021, 21, "ftp")
	m.Zone, m.Has = 5, m.Has|flow.HasZone
	if _, err := c.Apply(context.Background(), []flow.Change{{Op: flow.Upsert, Flow: m}}); err != nil {
		t.Fatal(err)
	}
	x, last := expected(&m, 40001), expected(&m, 40002)
	x.Zone, last.Zone = m.Zone, m.Zone
	orphan := x
	orphan.Master.Sport = 9
	remove := flow.ExpectChange{Op: flow.Delete, Expect: x}
	done = append(done, upsertExpects(t, c, x), upsertExpects(t, c, x), applyExpects(t, c, remove, remove),
		upsertExpects(t, c, x, orphan), upsertExpects(t, c, last))
	last.Zone = 0
	if have := dumpExpects(t, c); len(have) != 1 || have[last.Key()].Master != m.Orig {
		t.Errorf("the table has %v", have)
	}
	if _, err := c.Apply(context.Background(), []flow.Change{{Op: flow.Delete, Flow: m}}); err != nil {
		t.Fatal(err)
	}
	for i := range done {
		for k := range done[i].Failed {
			done[i].Failed[k].Err = nil
		}
	}
	return done, tell(collect(t, c, func(e flow.Event) bool {
		return e.Type == flow.EventDestroy && e.Expect != nil && e.Expect.Tuple == last.Tuple
	}))
}

func TestTheFakeDoesAsTheKernel(t *testing.T) {
	inNetns(t, func() {
		done, evs := lifeOf(t, open(t))
		fakeDone, fakeEvs := lifeOf(t, kerneltest.New())
		if !reflect.DeepEqual(done, fakeDone) {
			t.Errorf("the kernel did %+v\nthe fake did %+v", done, fakeDone)
		}
		if !slices.Equal(evs, fakeEvs) {
			t.Errorf("the kernel told %v\nthe fake told %v", evs, fakeEvs)
		}
	})
}
