package wire

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/proof"
)

func TestQuestionAndAnswer(t *testing.T) {
	for _, addr := range []string{"10.1.0.10", "fd01::10"} {
		q := Question{To: 5, ID: 6, Query: flow.Query{Src: netip.MustParseAddr(addr), Dst: netip.MustParseAddr(addr).Next(), Proto: 6, Sport: 7, Dport: 8}}
		if got, ok := ParseQuestion(AppendQuestion(nil, &q)); !ok || got != q {
			t.Errorf("%+v became %+v", q, got)
		}
	}
	f := tcp()
	want := []Entry{{Place: PlaceKernel, Flow: f}, {Place: PlaceFiltered, Why: "router", Flow: f}}
	a := Answer{To: 5, ID: 6, Part: 1, Of: 2}
	for i := range want {
		a.Entries = AppendEntry(a.Entries, &want[i])
	}
	got, ok := ParseAnswer(AppendAnswer(nil, &a))
	if !ok || !reflect.DeepEqual(got, a) {
		t.Fatalf("%+v became %+v", a, got)
	}
	for b := got.Entries; len(b) > 0; want = want[1:] {
		var e Entry
		if e, b, ok = NextEntry(b); !ok || e != want[0] {
			t.Fatalf("%+v became %+v", want[0], e)
		}
	}
	if len(want) > 0 {
		t.Errorf("%d entries are lost", len(want))
	}
	for _, bad := range []Answer{{Of: 0}, {Part: 2, Of: 2}} {
		if _, ok := ParseAnswer(AppendAnswer(nil, &bad)); ok {
			t.Errorf("%+v is believed", bad)
		}
	}
}

// FuzzSized: the bodies of sized messages, whatever they say, end in a value or a
// refusal; what was read is written and read again as the same.
func FuzzSized(f *testing.F) {
	q := Question{Query: flow.Query{Src: netip.MustParseAddr("10.1.0.10"), Dst: netip.MustParseAddr("10.1.0.11")}}
	one := tcp()
	f.Add(AppendQuestion(nil, &q))
	f.Add(AppendAnswer(nil, &Answer{Of: 1, Entries: AppendEntry(nil, &Entry{Place: 1, Flow: one})}))
	f.Add(AppendReport(nil, &Report{To: 1, From: 2, Upto: 9, Missing: []Range{{3, 4}}}))
	f.Add(AppendBeat(nil, &Beat{Advert: Advert{Low: 1, High: 2, Release: "x"}}))
	f.Add(AppendRouteWord(nil, RouteWord{Group: 3, Settled: true}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, ok := ParseQuestion(b); ok {
			if again, ok := ParseQuestion(AppendQuestion(nil, &q)); !ok || again != q {
				t.Fatalf("%+v became %+v", q, again)
			}
		}
		if a, ok := ParseAnswer(b); ok {
			for left := a.Entries; len(left) > 0; {
				e, rest, ok := NextEntry(left)
				if !ok {
					break
				}
				if len(rest) >= len(left) {
					t.Fatal("no progress")
				}
				left = rest
				_ = AppendEntry(nil, &e)
			}
		}
		if r, ok := ParseReport(b); ok {
			if again, ok := ParseReport(AppendReport(nil, &r)); !ok || !reflect.DeepEqual(again, r) {
				t.Fatalf("%+v became %+v", r, again)
			}
		}
		if x, ok := ParseBeat(b); ok {
			if again, ok := ParseBeat(AppendBeat(nil, &x)); !ok || !reflect.DeepEqual(again, x) {
				t.Fatalf("%+v became %+v", x, again)
			}
		}
		_, _ = ParseRoutes(b)
		var sums proof.Sums
		var set proof.Set
		_, _ = ParseDigest(b, &sums)
		_, _ = ParseBuckets(b, &sums)
		_, _, _ = ParseAskBuckets(b)
		if to, ok := ParseAskCopy(b, &set); ok {
			var again proof.Set
			if n, ok := ParseAskCopy(AppendAskCopy(nil, to, &set), &again); !ok || n != to || again != set {
				t.Fatalf("%v became %v", set, again)
			}
		}
		_, _ = ParseCopyMark(b, &set)
	})
}
