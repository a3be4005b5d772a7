package vrrpwatch

import (
	"fmt"
	"slices"
)

// doubt says what speaks against the roles that are believed.
func (w *Watcher) doubt() {
	// A keepalived that was never seen may be hidden from us, in a container.
	gone := !w.lookForKeepalived() && w.seen
	for _, g := range w.groups {
		var doubts []string
		if gone && g.current.State != "" && g.current.State != Stop {
			doubts = append(doubts, fmt.Sprintf("keepalived does not run any more; %s is the last role it gave to sync group %s", g.current.State, g.group))
		}
		if file, found := g.Contradiction(w.opt.Now()); found {
			doubts = append(doubts, fmt.Sprintf("the state file of sync group %s says %s, the notify fifo, which is believed, %s", g.group, file, g.current.State))
		}
		if slices.Equal(doubts, g.doubts) {
			continue
		}
		for _, d := range doubts {
			if !slices.Contains(g.doubts, d) {
				w.log.Warn(d)
			}
		}
		g.doubts = doubts
		if w.opt.Report != nil {
			w.opt.Report(g.group, doubts)
		}
	}
}

// lookForKeepalived reports whether keepalived runs, and remembers that it did.
func (w *Watcher) lookForKeepalived() (running bool) {
	if w.opt.Running != nil {
		_, running = w.opt.Running()
	}
	w.seen = w.seen || running
	return running
}
