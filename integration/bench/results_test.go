package main

import "testing"

// TestRatio: a machine that is slow for a while, for all in turn, changes no ratio.
func TestRatio(t *testing.T) {
	for _, c := range []struct {
		what         string
		mine, theirs []float64
		want         float64
		ok           bool
	}{
		{"slow runs", []float64{5, 10, 12}, []float64{10, 20, 24}, 0.5, true},
		{"one of ours was slow alone", []float64{5, 18, 6}, []float64{10, 20, 12}, 0.5, true},
		{"a run failed", []float64{5, 6, 7}, []float64{12, 10}, 0.5, true},
		{"nothing to compare with", []float64{5}, nil, 0, false},
		{"nothing at all", nil, nil, 0, false},
		{"theirs is nothing", []float64{5}, []float64{0}, 0, false},
	} {
		f := figure{Values: map[string][]float64{ours: c.mine, conntrackd: c.theirs}}
		if got, ok := f.ratio(ours); ok != c.ok || ok && got != c.want {
			t.Errorf("%s: %v %v", c.what, got, ok)
		}
	}
}
