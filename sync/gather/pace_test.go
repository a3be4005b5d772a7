package gather

import (
	"testing"
	"time"
)

// events is the pace of conntrack events.
var events = Pace{Busy: 2000, Enough: 50, Least: 2500 * time.Microsecond, Most: 8 * time.Millisecond}

// TestPace: an event now and then, or a handshake's few, are read at once; a stream
// gathers for a bounded time, which those that press shorten, and after it has ended events are read at once again.
func TestPace(t *testing.T) {
	for _, c := range []struct {
		every time.Duration
		n     int // events each time
		press int // of them
		want  time.Duration
	}{
		{time.Second, 1, 1, 0},
		{100 * time.Millisecond, 6, 1, 0},
		{10 * time.Millisecond, 10, 10, 0},
		{time.Millisecond, 3, 3, events.Most},
		{time.Millisecond, 10, 10, 5 * time.Millisecond},
		{time.Millisecond, 60, 10, 5 * time.Millisecond},
		{time.Millisecond, 60, 0, events.Most},
		{time.Millisecond, 60, 60, events.Least},
		{time.Millisecond, 1000, 1000, events.Least},
	} {
		p, now := events, time.Unix(1, 0)
		for range 100 {
			now = now.Add(c.every)
			p.Took(now, c.n, c.press)
		}
		if got := p.Gather(); (got - c.want).Abs() > 500*time.Microsecond {
			t.Errorf("%d events every %v: gathers for %v, want %v", c.n, c.every, got, c.want)
		}
		for range 10 { // it finds nothing
			now = now.Add(events.Most)
			p.Took(now, 0, 0)
		}
		if got := p.Gather(); got != 0 {
			t.Errorf("%d events every %v, then a pause: gathers for %v", c.n, c.every, got)
		}
	}
}
