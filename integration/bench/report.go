package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// markdown is the table of medians and ratios, and the comparison of the tables.
func (r *results) markdown() string {
	b := &strings.Builder{}
	fmt.Fprintf(b, "%s, `%s`, %s; %s. Medians of %s; the ratio is the median of the runs' ratios.%s\n\n",
		r.At, r.Command, r.Machine, strings.Join(r.Versions, ", "), runs(r.plan.repeat), r.theft())
	fmt.Fprintln(b, "| figure | unit | conntrackd | floor | ours | ours / conntrackd |\n|---|---|---|---|---|---|")
	for _, f := range r.Figures {
		fmt.Fprintf(b, "| %s | %s |", f.Name, f.Unit)
		for _, s := range systemNames {
			if v, ok := f.median(s); ok {
				fmt.Fprintf(b, " %s |", number(v))
			} else {
				fmt.Fprint(b, " |")
			}
		}
		if v, ok := f.ratio(ours); ok {
			fmt.Fprintf(b, " %.2f |\n", v)
		} else {
			fmt.Fprint(b, " |\n")
		}
	}
	fmt.Fprintln(b, "\nTables compared tuple by tuple, the active's kernel with the standby's cache; worst of all runs:\n\n"+
		"| after | | system | entries | missing | stale | wrong state |\n|---|---|---|---|---|---|---|")
	for _, t := range r.Tables {
		d := t.worst()
		fmt.Fprintf(b, "| %s | %s | %s | %d | %d | %d | %d |\n", t.Name, t.When, t.System, d.Entries, d.Missing, d.Stale, d.Wrong)
	}
	return b.String()
}

func runs(n int) string {
	if n == 1 {
		return "one run"
	}
	return fmt.Sprintf("%d runs", n)
}

func (t *table) worst() (w difference) {
	for _, d := range t.Runs {
		w.Entries = max(w.Entries, d.Entries)
		w.Missing, w.Stale, w.Wrong = max(w.Missing, d.Missing), max(w.Stale, d.Stale), max(w.Wrong, d.Wrong)
	}
	return w
}

// number prints three digits that mean something.
func number(v float64) string {
	switch {
	case math.Abs(v) >= 100:
		return fmt.Sprintf("%.0f", v)
	case math.Abs(v) >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// plot draws the ratios to conntrackd, less is better, conntrackd being the line.
func (r *results) plot() string {
	const row, left, unit, width = 26, 320, 240, 900
	b, y := &strings.Builder{}, 40
	for _, f := range r.Figures {
		mine, ok := f.ratio(ours)
		if !ok || f.Unit == "flows/s" {
			continue
		}
		fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", left-8, y+13, html.EscapeString(f.Name))
		bar := func(v float64, dy int, colour string) {
			fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.0f" height="8" fill="%s"/>`+"\n", left, y+dy, min(v*unit, width-left-60), colour)
		}
		bar(mine, 0, "#1f6f8b")
		if v, ok := f.ratio(floor); ok {
			bar(v, 9, "#c9c9c9")
		}
		fmt.Fprintf(b, `<text x="%.0f" y="%d">%.2f</text>`+"\n", left+6+min(mine*unit, width-left-60), y+9, mine)
		y += row
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">
<rect width="100%%" height="100%%" fill="white"/>
<text x="%d" y="18">ratio to conntrackd (the line), less is better: conntrack-sync blue, the floor grey</text>
%s<line x1="%d" y1="28" x2="%d" y2="%d" stroke="#b33"/>
</svg>
`, width, y+20, left-300, b, left+unit, left+unit, y)
}
