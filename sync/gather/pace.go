package gather

import "time"

// Pace measures how fast things come, and says how long the next ones may gather.
// Things that come one by one are read one by one; those of a stream gather until
// Enough that press have come, which takes between Least and Most. It is not for
// concurrent use.
type Pace struct {
	Busy        float64 // things a second from which on they gather
	Enough      int
	Least, Most time.Duration

	since    time.Time // begin of the window
	n, press int       // things in it
	rate     float64   // of the window before, a second
	pressing float64   // likewise
}

const paceWindow = 20 * time.Millisecond

// Took books n things that were read, of which some press.
func (p *Pace) Took(now time.Time, n, press int) {
	p.n += n
	p.press += press
	if d := now.Sub(p.since); d >= paceWindow {
		p.rate, p.pressing = float64(p.n)/d.Seconds(), float64(p.press)/d.Seconds()
		p.since, p.n, p.press = now, 0, 0
	}
}

// Gather is how long the next things are left to gather, from the last reading on; 0
// says that they are waited for.
func (p *Pace) Gather() time.Duration {
	if p.rate < p.Busy {
		return 0
	}
	if float64(p.Enough) >= p.pressing*p.Most.Seconds() {
		return p.Most
	}
	return max(time.Duration(float64(p.Enough)/p.pressing*float64(time.Second)), p.Least)
}
