package show

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// Transitions writes "show conntrack-sync transitions": a time line for each
// change of role, oldest first.
func Transitions(w io.Writer, list []stats.Transition) error {
	out := bufio.NewWriter(w)
	if len(list) == 0 {
		fmt.Fprintln(out, "no transition yet!")
	}
	for i, t := range list {
		if i > 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprintf(out, "%s  %s  %s  from %s, %s\n", t.At, t.Group, t.State, t.Source, t.Outcome)
		for _, l := range timeLine(&t) {
			fmt.Fprintf(out, "  %+10.1f ms  %s\n", l.at, l.text)
		}
	}
	return out.Flush()
}

type moment struct {
	at   float64
	text string
}

func timeLine(t *stats.Transition) []moment {
	line := []moment{{0, "role seen"}}
	add := func(at *float64, format string, args ...any) {
		if at != nil {
			line = append(line, moment{*at, fmt.Sprintf(format, args...)})
		}
	}
	for _, s := range t.Steps {
		text := fmt.Sprintf("%s, %.1f ms", s.Name, s.DurationMS)
		if s.Error != "" {
			text += ": FAILED: " + s.Error
		}
		line = append(line, moment{s.AtMS, text})
	}
	add(t.FirstEntryMS, "first entries are in the kernel")
	if c := t.Commit; c != nil {
		add(t.LastEntryMS, "the last of %d entries is in the kernel: %s", c.Entries, written(c))
	}
	if g := t.Guard; g != nil && g.State != "disabled" {
		add(t.DoneMS, "take-over guard: %s", guard(g))
	}
	add(t.BulkMS, "everything is queued for the peers")
	add(t.DoneMS, "sequence done")
	add(t.EqualMS, "tables proven equal again")
	slices.SortStableFunc(line, func(a, b moment) int { return cmp.Compare(a.at, b.at) })
	return line
}
