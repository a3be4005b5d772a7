package cache

import (
	"net/netip"
	"runtime"
	"testing"
	"unsafe"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/proof"
	"pgregory.net/rapid"
)

func udp(i int) flow.Flow {
	src := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
	f := flow.Flow{
		Orig: flow.MakeTuple(flow.ProtoUDP, src, netip.AddrFrom4([4]byte{203, 0, 113, 10}), 1000, 53),
		Has:  flow.HasStatus | flow.HasTimeout | flow.HasReply,
	}
	f.Reply = f.Orig.Inverse()
	return f
}

// TestModel drives a table and a map of whole flows with the same operations
// and wants them equal after each.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tab, model := New(0), map[flow.Key]flow.Flow{}
		var created, destroyed, updated uint64
		draw := func(t *rapid.T) flow.Flow {
			f := udp(rapid.IntRange(0, 20).Draw(t, "flow"))
			f.Zone = uint16(rapid.IntRange(0, 1).Draw(t, "zone"))
			if rapid.IntRange(0, 3).Draw(t, "IPv6") == 0 {
				f.Orig.Family, f.Orig.Dst[9] = flow.IPv6, 1
				f.Reply = f.Orig.Inverse()
			}
			switch rapid.IntRange(0, 5).Draw(t, "reply") {
			case 0: // not known
				f.Reply, f.Has = flow.Tuple{}, f.Has&^flow.HasReply
			case 1: // translated
				f.Reply.Dst[0], f.Reply.Dport = 203, uint16(rapid.IntRange(0, 3).Draw(t, "port"))
			case 2: // such as no kernel says
				f.Reply.Proto++
			case 3:
				f.Reply = flow.Tuple{Family: flow.IPv4}
			}
			f.Status = rapid.Uint32().Draw(t, "status")
			if rapid.Bool().Draw(t, "extra") {
				f.Has |= flow.HasHelper | flow.HasSeqAdj
				f.Helper = flow.MakeHelper(rapid.StringMatching("[a-z]{1,11}").Draw(t, "helper"))
				f.SeqAdjOrig.OffsetAfter = rapid.Int32().Draw(t, "offset")
			}
			return f
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				f := draw(t)
				f.Since = 7
				_, had := model[f.Key()]
				_, replaced, err := tab.Put(&f, 7)
				if err != nil || replaced != had {
					t.Fatalf("put %v: replaced %v, model %v, err %v", f.Orig, replaced, had, err)
				}
				created++
				if had {
					destroyed++
				}
				model[f.Key()] = f
			},
			"merge": func(t *rapid.T) {
				f := draw(t)
				f.Has |= flow.HasMark
				f.Mark = 9
				k := f.Key()
				r := tab.Find(&k)
				m, had := model[k]
				if (r != 0) != had {
					t.Fatalf("find %v: %v, model %v", f.Orig, r, had)
				}
				if had {
					tab.Merge(r, &f)
					m.Merge(&f)
					model[k] = m
					updated++
				}
			},
			"delete": func(t *rapid.T) {
				f := draw(t)
				k := f.Key()
				if r := tab.Find(&k); r != 0 {
					tab.Delete(r)
					delete(model, k)
					destroyed++
				}
			},
			"": func(t *rapid.T) {
				seen := 0
				for r := tab.First(); r != 0; r = tab.Next(r) {
					var f flow.Flow
					tab.Load(r, &f)
					if want := model[f.Key()]; f != want {
						t.Fatalf("table has\n%+v, model\n%+v", f, want)
					}
					seen++
				}
				s := tab.Stats()
				if seen != len(model) || tab.Len() != len(model) || s.Created != created ||
					s.Destroyed != destroyed || s.Updated != updated {
					t.Fatalf("%d entries walked, %+v, model %d", seen, s, len(model))
				}
			},
		})
	})
}

func TestGenerationsFindWhatWasNotRenewed(t *testing.T) {
	tab := New(0)
	a, b, c := udp(1), udp(2), udp(3)
	tab.Put(&a, 1)
	rb, _, _ := tab.Put(&b, 1)
	tab.NewGeneration()
	tab.Merge(rb, &b)
	rc, _, _ := tab.Put(&c, 2)
	ka := a.Key()
	if !tab.Old(tab.Find(&ka)) || tab.Old(rb) || tab.Old(rc) {
		t.Fatal("only the entry that was neither merged nor put is old")
	}
}

func TestDirtyCountsWhatCommitMustWrite(t *testing.T) {
	tab := New(0)
	a, b := udp(1), udp(2)
	ra, _, _ := tab.Put(&a, 1)
	rb, _, _ := tab.Put(&b, 1)
	tab.Clean(ra)
	tab.Clean(ra)
	if tab.DirtyCount() != 1 || tab.Dirty(ra) || !tab.Dirty(rb) {
		t.Fatal("one of two is clean")
	}
	if tab.Merge(ra, &a) || tab.Dirty(ra) {
		t.Fatal("what is repeated changes nothing")
	}
	a.Status = 9
	tab.Merge(ra, &a)
	tab.Put(&b, 2)
	tab.Delete(rb)
	if tab.DirtyCount() != 1 || !tab.Dirty(ra) {
		t.Fatalf("dirty %d after merge and delete", tab.DirtyCount())
	}
}

func TestFull(t *testing.T) {
	tab := New(1)
	a, b := udp(1), udp(2)
	tab.Put(&a, 1)
	if _, _, err := tab.Put(&b, 1); err != ErrFull || tab.Stats().CreatedFailed != 1 {
		t.Fatalf("second put of a table for one: %v, %+v", err, tab.Stats())
	}
	if _, _, err := tab.Put(&a, 1); err != nil {
		t.Fatalf("replacing needs no room: %v", err)
	}
}

func TestHotPathAllocatesNothing(t *testing.T) {
	tab := New(0)
	flows := make([]flow.Flow, 1000)
	for i := range flows {
		flows[i] = udp(i)
		tab.Put(&flows[i], 1)
	}
	n := testing.AllocsPerRun(10, func() {
		var f flow.Flow
		for i := range flows[1:] {
			k := flows[i].Key()
			r := tab.Find(&k)
			tab.Merge(r, &flows[i])
			tab.Load(r, &f)
			tab.Delete(r)
			tab.Put(&flows[i], 1)
		}
	})
	if n != 0 {
		t.Fatalf("%v allocations for a round of 1000 flows", n)
	}
}

func TestRecordsHoldNoPointers(t *testing.T) {
	if s := unsafe.Sizeof(record{}); s != 64 {
		t.Fatalf("a record takes %d bytes, not a line of the cache", s)
	}
	tab := New(0)
	for i := range 200_000 {
		f := udp(i)
		tab.Put(&f, 1)
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	// A scanned table would show in the live heap's pointers; its objects are
	// few whatever the number of flows.
	if m.HeapObjects > 100_000 {
		t.Fatalf("%d heap objects for 200,000 flows", m.HeapObjects)
	}
	runtime.KeepAlive(tab)
}

// TestPrefetch: whatever is asked for may be missing, deleted or never have been.
func TestPrefetch(t *testing.T) {
	tab := New(0)
	prefetch := func() {
		for i := range 5000 {
			f := udp(i)
			k := f.Key()
			tab.PrefetchKey(&k)
			tab.Prefetch(Ref(i))
			tab.PrefetchDelete(Ref(i))
		}
	}
	prefetch()
	var refs []Ref
	for i := range 2000 {
		f := udp(i)
		r, _, _ := tab.Put(&f, 1)
		refs = append(refs, r)
	}
	prefetch()
	for _, r := range refs[1:] {
		tab.Delete(r)
	}
	prefetch()
	if k := tab.Key(refs[0]); tab.Len() != 1 || tab.Find(&k) != refs[0] {
		t.Errorf("%d entries", tab.Len())
	}
	tab.Clear()
	prefetch()
}

func BenchmarkPutFindDelete(b *testing.B) {
	tab := New(0)
	for i := range 1 << 17 {
		f := udp(i)
		tab.Put(&f, 1)
	}
	b.ReportAllocs()
	i := 1 << 17
	for b.Loop() {
		f := udp(i)
		r, _, _ := tab.Put(&f, 1)
		k := f.Key()
		if tab.Find(&k) != r {
			b.Fatal("lost")
		}
		tab.Delete(r)
		i++
	}
}

func BenchmarkMerge(b *testing.B) {
	tab := New(0)
	flows := make([]flow.Flow, 1<<17)
	for i := range flows {
		flows[i] = udp(i)
		tab.Put(&flows[i], 1)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		f := &flows[i&(1<<17-1)]
		k := f.Key()
		tab.Merge(tab.Find(&k), f)
	}
}

// isProved wants the digest of a fresh table with the same entries.
func isProved(t interface{ Fatalf(string, ...any) }, a *Table) {
	b := New(0)
	b.Prove()
	var f flow.Flow
	for r := a.First(); r != 0; r = a.Next(r) {
		a.Load(r, &f)
		_, _, _ = b.Put(&f, 1)
	}
	if *a.Digest() != *b.Digest() {
		t.Fatalf("%d entries: the digest is another", a.Len())
	}
}

// TestTheDigestFollowsTheTable: after any changes it is that of a fresh table
// with the same entries, whenever it is read.
func TestTheDigestFollowsTheTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := New(0)
		a.Prove()
		draw := func() flow.Flow {
			f := flow.Flow{Orig: flow.Tuple{Family: flow.IPv4, Proto: 6, Sport: rapid.Uint16Range(0, 20).Draw(t, "flow")},
				Has: flow.HasStatus | flow.HasTCPState | flow.HasReply, Status: rapid.Uint32Range(0, 3).Draw(t, "status")}
			f.TCP.State = rapid.Uint8Range(0, 3).Draw(t, "state")
			if f.Reply = f.Orig.Inverse(); rapid.Bool().Draw(t, "bare") {
				f.Reply, f.Has = flow.Tuple{}, f.Has&^flow.HasReply
			}
			return f
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(*rapid.T) { f := draw(); _, _, _ = a.Put(&f, 1) },
			"merge": func(*rapid.T) {
				f := draw()
				k := f.Key()
				if r := a.Find(&k); r != 0 {
					a.Merge(r, &f)
				}
			},
			"delete": func(*rapid.T) {
				f := draw()
				k := f.Key()
				if r := a.Find(&k); r != 0 {
					a.Delete(r)
				}
			},
			"read": func(t *rapid.T) { isProved(t, a) },
			"detach": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "seldom") == 0 {
					a.Detach()
				}
			},
		})
		isProved(t, a)
		a.Clear()
		if *a.Digest() != (proof.Digest{}) {
			t.Fatal("emptied, and it has a digest")
		}
	})
}

// TestTheDigestOfManyChanges: more than wait to be counted, of entries that have gone
// and whose place another has.
func TestTheDigestOfManyChanges(t *testing.T) {
	a := New(0)
	a.Prove()
	const n = 3*uncountedMost + 100
	for i := range n {
		f := udp(i)
		r, _, _ := a.Put(&f, 1)
		f.Status = 7
		a.Merge(r, &f)
		if i%3 == 0 {
			a.Delete(r)
		}
		if i%5 == 0 {
			k := f.Key()
			f = udp(i / 2)
			if r := a.Find(&k); r != 0 {
				a.Merge(r, &f)
			}
		}
	}
	isProved(t, a)
	for i := range n / 2 {
		f := udp(i)
		k := f.Key()
		if r := a.Find(&k); r != 0 {
			a.Delete(r)
		}
	}
	isProved(t, a)
}

// TestContradicts: what events tell of counts, what changes without one does not.
func TestContradicts(t *testing.T) {
	tab := New(0)
	f := udp(1)
	f.Status = flow.StatusConfirmed
	r, _, _ := tab.Put(&f, 1)
	for what, x := range map[string]struct {
		change func(f *flow.Flow)
		want   bool
	}{
		"nothing":         {func(*flow.Flow) {}, false},
		"the timeout":     {func(f *flow.Flow) { f.Timeout = 7 }, false},
		"a zero mark":     {func(f *flow.Flow) { f.Has |= flow.HasMark }, false},
		"TCP flags":       {func(f *flow.Flow) { f.TCP.FlagsOrig, f.Has = 9, f.Has|flow.HasTCPFlags }, false},
		"being offloaded": {func(f *flow.Flow) { f.Status |= flow.StatusOffload }, false},
		"the status":      {func(f *flow.Flow) { f.Status |= flow.StatusAssured }, true},
		"the mark":        {func(f *flow.Flow) { f.Mark, f.Has = 1, f.Has|flow.HasMark }, true},
		"the state":       {func(f *flow.Flow) { f.TCP.State, f.Has = 3, f.Has|flow.HasTCPState }, true},
		"the reply":       {func(f *flow.Flow) { f.Reply.Dport++ }, true},
		"labels":          {func(f *flow.Flow) { f.Labels, f.Has = [16]byte{1}, f.Has|flow.HasLabels }, true},
		"a helper":        {func(f *flow.Flow) { f.Helper, f.Has = flow.MakeHelper("ftp"), f.Has|flow.HasHelper }, true},
	} {
		g := f
		x.change(&g)
		if tab.Contradicts(r, &g) != x.want {
			t.Errorf("%s: %v", what, !x.want)
		}
	}
	f = udp(2)
	f.Labels, f.Has = [16]byte{8}, f.Has|flow.HasLabels
	r, _, _ = tab.Put(&f, 1)
	for what, x := range map[string]struct {
		change func(f *flow.Flow)
		want   bool
	}{
		"the same labels": {func(*flow.Flow) {}, false},
		"other labels":    {func(f *flow.Flow) { f.Labels[0] = 9 }, true},
		"labels cleared":  {func(f *flow.Flow) { f.Labels, f.Has = [16]byte{}, f.Has&^flow.HasLabels }, true},
	} {
		g := f
		x.change(&g)
		if tab.Contradicts(r, &g) != x.want {
			t.Errorf("%s: %v", what, !x.want)
		}
	}
	// Once merged it is no contradiction any more.
	f.Labels = [16]byte{}
	tab.Merge(r, &f)
	if f.Has &^= flow.HasLabels; tab.Contradicts(r, &f) {
		t.Error("cleared labels contradict themselves")
	}
}
