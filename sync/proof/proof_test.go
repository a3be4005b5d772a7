package proof

import (
	"testing"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"pgregory.net/rapid"
)

// TestDigest: the order of what happens does not matter, and a difference shows
// in exactly the bucket it is in.
func TestDigest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 200).Draw(t, "n")
		hash := func(i int) (uint64, uint64) {
			k := flow.Key{Zone: uint16(i), Tuple: flow.Tuple{Family: flow.IPv4, Proto: 6, Sport: uint16(i)}}
			h := KeyHash(&k)
			return h, StateHash(h, &k.Tuple, uint32(i), 0, 3)
		}
		var a, b Digest
		for i := range n {
			a.Add(hash(i))
		}
		for i := range n {
			b.Add(hash(n - 1 - i))
		}
		if a != b {
			t.Fatal("the order matters")
		}
		odd := rapid.IntRange(0, n-1).Draw(t, "odd")
		key, state := hash(odd)
		b.Remove(key, state)
		b.Add(key, state+1)
		bucket := BucketOf(key)
		for g := range Groups {
			x, y := a.Group(g), b.Group(g)
			if (a.Groups()[g] != b.Groups()[g]) != (g == int(bucket)/GroupSize) {
				t.Fatalf("group %d", g)
			}
			for i := range x {
				if (x[i] != y[i]) != (g*GroupSize+i == int(bucket)) {
					t.Fatalf("bucket %d of group %d", i, g)
				}
			}
		}
		for i := range n {
			a.Remove(hash(i))
		}
		if a != (Digest{}) {
			t.Fatal("an empty table has a digest")
		}
	})
}

func TestHashesAreThoseOfTheSpecification(t *testing.T) {
	k := flow.Key{Zone: 5, Tuple: flow.Tuple{Src: [16]byte{10, 1, 0, 10}, Dst: [16]byte{203, 0, 113, 10}, Sport: 40000, Dport: 80, Proto: 6, Family: flow.IPv4}}
	reply := k.Inverse()
	h := KeyHash(&k)
	if got := StateHash(h, &reply, 0x18e, 7, 3); h != wantKey || got != wantState {
		t.Errorf("%#x %#x", h, got)
	}
}

func TestSet(t *testing.T) {
	var s Set
	s.Add(0)
	s.Add(4095)
	s.Add(77)
	if all := All(); s.Len() != 3 || !s.Has(77) || s.Has(78) || all.Len() != Buckets || !all.Has(4095) {
		t.Errorf("%v", s)
	}
}

func BenchmarkStateHash(b *testing.B) {
	k := flow.Key{Tuple: flow.Tuple{Family: flow.IPv4, Proto: 6}}
	for b.Loop() {
		h := KeyHash(&k)
		k.Sport = uint16(StateHash(h, &k.Tuple, 1, 2, 3))
	}
}

// Computed once by this package; a change of them is a change of the protocol.
const (
	wantKey   = 0xe9ca244d0534f369
	wantState = 0x78c7a84fd04732ab
)
