package gather

import (
	"testing"
	"time"
)

func TestWhole(t *testing.T) {
	at := func(text string) time.Time {
		v, err := time.Parse(time.TimeOnly, text)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, c := range []struct {
		now  string
		want time.Duration
	}{
		{"10:00:00", time.Second}, // never 0: who has just been woken sleeps
		{"10:00:00.000050", 999950 * time.Microsecond},
		{"10:00:00.999999", time.Microsecond},
	} {
		if got := Whole(at(c.now), time.Second); got != c.want {
			t.Errorf("from %s: %v, want %v", c.now, got, c.want)
		}
	}
}
