package main

import "testing"

// TestSteal: the number of /proc/stat, and what the table says of it.
func TestSteal(t *testing.T) {
	for _, c := range []struct {
		stat string
		want uint64
	}{
		{"cpu  157912 0 79178 797628 1003 0 26345 10355 0 0\ncpu0 67212 0 40452 394734 229 0 25149 5618 0 0\n", 10355},
		{"cpu  157912 0 79178\n", 0},
		{"", 0},
	} {
		if got := parseSteal(c.stat); got != c.want {
			t.Errorf("%q: %d, want %d", c.stat, got, c.want)
		}
	}
	r := &results{plan: &plan{}}
	if got := r.theft(); got != "" {
		t.Errorf("nothing measured: %q", got)
	}
	for i, part := range []string{"udp", "tcp", "idle"} {
		r.robbed(part, ours, []float64{0.011, 0.002, 0.004}[i])
	}
	const want = " Of the CPUs' time the host gave 0.4 % to others during a measurement, at worst 1.1 % (udp, ours)."
	if got := r.theft(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
