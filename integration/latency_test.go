package integration

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/integration/lab"
)

// TestTakeOverLatency measures how long after the group's MASTER line on the fifo
// all entries are in the new router's kernel, and those in use. An observer in the
// router hears the kernel's events. It asserts nothing about time; run it alone,
// with CONNTRACK_SYNC_LATENCY=ROUNDS and -v. "fifo alone" is the line without a
// virtual address before it; "keepalived" is an orderly stop of the active's, where
// a negative number says that all was written before the line.
func TestTakeOverLatency(t *testing.T) {
	rounds, err := strconv.Atoi(os.Getenv("CONNTRACK_SYNC_LATENCY"))
	if err != nil {
		rounds = 1
	}
	sizes := []int{1000, 20000}
	if rounds == 1 {
		sizes = sizes[:1] // that the measurement works
	}
	for _, n := range sizes {
		t.Run(fmt.Sprintf("fifo alone, %d entries", n), func(t *testing.T) { latencyByFIFO(t, n, rounds) })
		t.Run(fmt.Sprintf("keepalived, %d entries", n), func(t *testing.T) { latencyByKeepalived(t, n, rounds) })
	}
}

// latencies are those of the rounds, in milliseconds.
type latencies struct{ first, used, all []float64 }

func (l *latencies) add(line time.Time, seen lab.Observed) {
	ms := func(at time.Time) float64 { return float64(at.Sub(line).Microseconds()) / 1000 }
	l.first, l.used, l.all = append(l.first, ms(seen.First)), append(l.used, ms(seen.LastOf)), append(l.all, ms(seen.Last))
}

func (l *latencies) String() string {
	word := func(v []float64) string {
		slices.Sort(v)
		return fmt.Sprintf("%.1f ms (%.1f to %.1f)", v[len(v)/2], v[0], v[len(v)-1])
	}
	return fmt.Sprintf("median of %d from the line on: first entry %s, all in use %s, all %s", len(l.all), word(l.first), word(l.used), word(l.all))
}

// standbyHolds waits until the standby holds n entries, proven.
func standbyHolds(t *testing.T, standby *lab.Node, n int) {
	t.Helper()
	wait(t, standby.Name+"'s view", func() (bool, error) {
		s, err := standby.Status()
		return err == nil && s.View != nil && s.View.InSync && int(s.View.Entries) >= n, fmt.Errorf("%+v, %w", s.View, err)
	})
}

// sees waits until the observer has seen n entries appear.
func sees(t *testing.T, o *lab.Observer, n int) (all lab.Observed) {
	t.Helper()
	wait(t, "the entries in the kernel", func() (bool, error) {
		seen, err := o.Look()
		if all.All == 0 {
			all = seen
		} else if seen.All > 0 {
			all.All, all.Last = all.All+seen.All, seen.Last
			if seen.Used > 0 {
				all.Used, all.LastOf = all.Used+seen.Used, seen.LastOf
			}
		}
		return all.All >= n, fmt.Errorf("%d of %d, %w", all.All, n, err)
	})
	return all
}

func latencyByFIFO(t *testing.T, n, rounds int) {
	l := newLab(t, lab.Options{})
	for _, r := range l.R {
		startSync(t, r)
	}
	say := func(r *lab.Node, role string) time.Time {
		f, err := os.OpenFile(r.FIFO(), os.O_WRONLY, 0)
		ok(t, err)
		defer f.Close()
		at := time.Now()
		_, err = fmt.Fprintf(f, "GROUP %q %s 100\n", lab.Group, role)
		ok(t, err)
		return at
	}
	become := func(r *lab.Node, role string) {
		say(r, role)
		waitRole(t, r, role)
	}
	become(l.R[0], "MASTER")
	become(l.R[1], "BACKUP")
	ok(t, l.R[0].Plant(n))
	o := must[*lab.Observer](t)(l.R[1].Observe())
	defer o.Close()
	var got latencies
	for range rounds {
		standbyHolds(t, l.R[1], n)
		become(l.R[0], "BACKUP")
		must[lab.Observed](t)(o.Look())
		at := say(l.R[1], "MASTER")
		got.add(at, sees(t, o, n))
		waitRole(t, l.R[1], "MASTER")
		standbyHolds(t, l.R[0], n)
		become(l.R[1], "BACKUP")
		become(l.R[0], "MASTER")
		emptied(t, l.R[1])
	}
	t.Log(&got)
}

// emptied empties a router's kernel and leaves its daemon time to hear of it.
func emptied(t *testing.T, n *lab.Node) {
	t.Helper()
	must[string](t)(n.Run("conntrack", "-F"))
	time.Sleep(time.Second)
}

// masterLine is what the daemon logs when it reads the group's line.
var masterLine = regexp.MustCompile(`time=(\S+) level=INFO msg="\S+ transitioning to MASTER state[^"]*" source=fifo`)

func latencyByKeepalived(t *testing.T, n, rounds int) {
	l := newLab(t, lab.Options{Track: true})
	rs := startPair(t, l)
	ok(t, l.R[0].Plant(n))
	o := must[*lab.Observer](t)(l.R[1].Observe())
	defer o.Close()
	var got latencies
	for range rounds {
		standbyHolds(t, l.R[1], n)
		emptied(t, l.R[1])
		must[lab.Observed](t)(o.Look())
		lines := len(masterLine.FindAllString(rs[1].sync.Output(), -1))
		_ = rs[0].keepalived.Stop()
		seen := sees(t, o, n)
		waitRole(t, l.R[1], "MASTER")
		found := masterLine.FindAllStringSubmatch(rs[1].sync.Output(), -1)
		if len(found) != lines+1 {
			t.Fatalf("%d MASTER lines where one was expected", len(found)-lines)
		}
		at, err := time.Parse(time.RFC3339, found[lines][1])
		ok(t, err)
		got.add(at, seen)
		standbyHolds(t, l.R[0], n)
		startKeepalived(t, &rs[0], l.R[0])
		waitRole(t, l.R[0], "MASTER")
		waitRole(t, l.R[1], "BACKUP")
	}
	t.Log(&got)
}
