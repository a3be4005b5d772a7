package kernel

import "time"

// Events that come one by one are read one by one. Under load each wake-up costs
// more than the events it finds, so they are left to gather: until some 64 have
// come, which takes between gatherLeast and gatherMost.
const (
	gatherMost   = 9 * time.Millisecond
	gatherLeast  = 4 * time.Millisecond
	gatherEvents = 64
	busyRate     = 2000 // events a second from which on they gather
	paceWindow   = 20 * time.Millisecond
)

// pace measures how fast events come. Its zero value has seen none.
type pace struct {
	since time.Time // begin of the window
	n     int       // events in it
	rate  float64   // of the window before, a second
}

// took books events that were read.
func (p *pace) took(now time.Time, n int) {
	p.n += n
	if d := now.Sub(p.since); d >= paceWindow {
		p.rate = float64(p.n) / d.Seconds()
		p.since, p.n = now, 0
	}
}

// gather is how long the next events are left to gather.
func (p *pace) gather() time.Duration {
	if p.rate < busyRate {
		return 0
	}
	return min(max(time.Duration(gatherEvents/p.rate*float64(time.Second)), gatherLeast), gatherMost)
}
