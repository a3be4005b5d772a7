package gather

import (
	"testing"
	"time"
)

// events is the pace of conntrack events.
var events = Pace{Busy: 2000, Enough: 112, Least: 3 * time.Millisecond, Most: 8 * time.Millisecond}

// TestPace: an event now and then, or a handshake's few, are read at once; a stream
// gathers for a bounded time, and after it has ended events are read at once again.
func TestPace(t *testing.T) {
	for _, c := range []struct {
		every time.Duration
		n     int // events each time
		want  time.Duration
	}{
		{time.Second, 1, 0},
		{100 * time.Millisecond, 6, 0},
		{10 * time.Millisecond, 10, 0},
		{time.Millisecond, 3, events.Most},
		{time.Millisecond, 25, 112 * time.Second / 25000},
		{time.Millisecond, 60, events.Least},
		{time.Millisecond, 1000, events.Least},
	} {
		p, now := events, time.Unix(1, 0)
		for range 100 {
			now = now.Add(c.every)
			p.Took(now, c.n)
		}
		if got := p.Gather(); (got - c.want).Abs() > 500*time.Microsecond {
			t.Errorf("%d events every %v: gathers for %v, want %v", c.n, c.every, got, c.want)
		}
		for range 10 { // it finds nothing
			now = now.Add(events.Most)
			p.Took(now, 0)
		}
		if got := p.Gather(); got != 0 {
			t.Errorf("%d events every %v, then a pause: gathers for %v", c.n, c.every, got)
		}
	}
}
