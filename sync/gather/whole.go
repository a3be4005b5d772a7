package gather

import "time"

// Whole is how long it is from now until the clock shows a multiple of d. What a process
// does once in d, wherever in it, is due then: it is woken once for all of it, and a
// wake-up of an idle process costs more than most of what it wakes for.
func Whole(now time.Time, d time.Duration) time.Duration {
	return now.Truncate(d).Add(d).Sub(now)
}
