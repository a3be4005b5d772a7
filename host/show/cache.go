package show

import (
	"bufio"
	"bytes"
	"cmp"
	"io"
	"slices"
	"strings"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

// Cache writes entries of a cache: original direction, sorted by protocol,
// addresses and ports. A column is as wide as its longest cell, or its title
// and two. flows is sorted in place.
func Cache(w io.Writer, flows []flow.Flow) error {
	slices.SortFunc(flows, func(a, b flow.Flow) int { return compareTuples(&a.Orig, &b.Orig) })
	rows := make([][3]string, len(flows))
	for i := range flows {
		t := &flows[i].Orig
		rows[i] = [3]string{endpoint(t.SrcAddr(), t.Sport, t), endpoint(t.DstAddr(), t.Dport, t), flow.ProtoName(t.Proto)}
	}
	return table(w, [3]string{"Source", "Destination", "Protocol"}, rows)
}

func compareTuples(a, b *flow.Tuple) int {
	return cmp.Or(cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Family, b.Family), bytes.Compare(a.Src[:], b.Src[:]),
		bytes.Compare(a.Dst[:], b.Dst[:]), cmp.Compare(a.Sport, b.Sport), cmp.Compare(a.Dport, b.Dport))
}

func table(w io.Writer, titles [3]string, rows [][3]string) error {
	var width [3]int
	for i, t := range titles {
		width[i] = len(t) + 2
	}
	for _, r := range rows {
		for i, c := range r {
			width[i] = max(width[i], len(c))
		}
	}
	out := bufio.NewWriterSize(w, 64<<10)
	line := func(cells [3]string) {
		var b strings.Builder
		for i, c := range cells {
			if i > 0 {
				b.WriteString("  ")
			}
			b.WriteString(c)
			b.WriteString(strings.Repeat(" ", width[i]-len(c)))
		}
		_, _ = out.WriteString(strings.TrimRight(b.String(), " ") + "\n")
	}
	line(titles)
	var dashes [3]string
	for i := range dashes {
		dashes[i] = strings.Repeat("-", width[i])
	}
	line(dashes)
	for _, r := range rows {
		line(r)
	}
	return out.Flush()
}
