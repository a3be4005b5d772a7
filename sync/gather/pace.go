package gather

import "time"

// Pace measures how fast things come, and says how long the next ones may gather.
// Things that come one by one are read one by one; those of a stream gather until
// Enough have come, which takes between Least and Most. It is not for concurrent use.
type Pace struct {
	Busy        float64 // things a second from which on they gather
	Enough      int
	Least, Most time.Duration

	since time.Time // begin of the window
	n     int       // things in it
	rate  float64   // of the window before, a second
}

const paceWindow = 20 * time.Millisecond

// Took books n things that were read.
func (p *Pace) Took(now time.Time, n int) {
	p.n += n
	if d := now.Sub(p.since); d >= paceWindow {
		p.rate = float64(p.n) / d.Seconds()
		p.since, p.n = now, 0
	}
}

// Gather is how long the next things are left to gather, from the last reading on; 0
// says that they are waited for.
func (p *Pace) Gather() time.Duration {
	if p.rate < p.Busy {
		return 0
	}
	return min(max(time.Duration(float64(p.Enough)/p.rate*float64(time.Second)), p.Least), p.Most)
}
