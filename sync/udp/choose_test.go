package udp

import (
	"testing"
	"time"
)

// TestChooser plays what happens to two interfaces against the clock.
func TestChooser(t *testing.T) {
	type step struct {
		ms    int
		heard int // interface a datagram arrives on, -1 for none
		up    [2]bool
		want  int // the one in use afterwards
	}
	both, only0, only1, none := [2]bool{true, true}, [2]bool{true, false}, [2]bool{false, true}, [2]bool{}
	for name, steps := range map[string][]step{
		"the first is preferred":               {{0, 0, both, 0}, {1000, 0, both, 0}, {2000, 0, both, 0}},
		"link down moves at once":              {{0, 0, both, 0}, {10, -1, only1, 1}},
		"and not back when it returns":         {{0, 0, both, 0}, {10, -1, only1, 1}, {20, 1, both, 1}, {1000, 1, both, 1}},
		"all down: stays until one is back":    {{0, 0, both, 0}, {10, -1, only1, 1}, {20, -1, none, 1}, {30, -1, only0, 0}},
		"silence moves":                        {{0, 0, both, 0}, {2999, -1, both, 0}, {3001, -1, both, 1}},
		"silence with nowhere to go":           {{0, 0, only0, 0}, {9000, -1, only0, 0}},
		"nobody anywhere: each in turn":        {{0, -1, both, 0}, {3000, -1, both, 1}, {6000, -1, both, 0}, {9000, -1, both, 1}},
		"the peer moved: followed":             {{0, 0, both, 0}, {1000, 1, both, 1}, {2000, 1, both, 1}},
		"a late datagram does not pull back":   {{0, 0, both, 0}, {1000, 1, both, 1}, {1100, 0, both, 1}, {1200, 1, both, 1}},
		"a peer heard on both stays on one":    {{0, 0, both, 0}, {100, 1, both, 0}, {200, 0, both, 0}, {300, 1, both, 0}},
		"one direction broken: we follow soon": {{0, 0, both, 0}, {900, 0, both, 0}, {1000, 1, both, 0}, {1300, 1, both, 1}},
		"heard on one that is down here":       {{0, 0, only0, 0}, {1000, 1, only0, 1}, {1100, -1, only0, 0}},
	} {
		start := time.Unix(1000, 0)
		c := newChooser(2, start)
		for i := range c.links {
			c.links[i].usable = steps[0].up[i]
		}
		for k, s := range steps {
			now := start.Add(time.Duration(s.ms) * time.Millisecond)
			for i, up := range s.up {
				c.usable(i, up, now)
			}
			if s.heard >= 0 {
				c.heard(s.heard, now)
			}
			c.tick(now)
			if c.active != s.want {
				t.Errorf("%s: step %d: interface %d in use, want %d", name, k, c.active, s.want)
			}
		}
	}
}
