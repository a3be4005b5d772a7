package show

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

// Format names a layout.
type Format string

// The layouts of VyOS's generations: Vyatta's is the one of the oldest, VyOS's
// that of today.
const (
	Vyatta Format = "vyatta"
	VyOS   Format = "vyos"
)

// Formats are all there are.
var Formats = []string{string(Vyatta), string(VyOS)}

// Row is an entry of a cache as the text layouts show it: 40 bytes and a bit.
type Row struct {
	Tuple flow.Tuple
	Any   bool // any source port is expected
}

// FlowRow is the row of a flow.
func FlowRow(f *flow.Flow) Row { return Row{Tuple: f.Orig} }

// ExpectRow is the row of an expectation; a source port of 0 under a mask of 0
// is any.
func ExpectRow(x *flow.Expect) Row {
	return Row{Tuple: x.Tuple, Any: x.Tuple.Sport == 0 && x.Mask.Sport == 0}
}

// Source hands rows over, in the same order each time while nothing changes. It
// is read more than once.
type Source func(yield func(Row) error) error

// sortLimit is the number of rows that are sorted. A longer list keeps the
// order of its source, so that it need not be held in memory.
const sortLimit = 1 << 16

var errLong = errors.New("longer than is sorted")

// Cache writes the entries of a cache: original direction, sorted by protocol,
// addresses and ports when there are at most 65,536, else in the cache's order.
// Memory does not grow with their number beyond that.
func Cache(w io.Writer, rows Source, f Format) error {
	var sorted []Row
	err := rows(func(r Row) error {
		if len(sorted) == sortLimit {
			return errLong
		}
		sorted = append(sorted, r)
		return nil
	})
	switch {
	case errors.Is(err, errLong):
		sorted = nil
	case err != nil:
		return err
	default:
		slices.SortFunc(sorted, func(a, b Row) int { return compareTuples(&a.Tuple, &b.Tuple) })
		rows = func(yield func(Row) error) error {
			for _, r := range sorted {
				if err := yield(r); err != nil {
					return err
				}
			}
			return nil
		}
	}
	if f == Vyatta {
		return vyattaCache(w, rows)
	}
	return table(w, []string{"Source", "Destination", "Protocol"}, 2, func(yield func([]string) error) error {
		cells := make([]string, 3)
		return rows(func(r Row) error {
			t := &r.Tuple
			cells[0] = endpoint(t.SrcAddr(), t.Sport, t)
			if r.Any && t.HasPorts() {
				cells[0] = bracketed(t.SrcAddr()) + ":any"
			}
			cells[1], cells[2] = endpoint(t.DstAddr(), t.Dport, t), flow.ProtoName(t.Proto)
			return yield(cells)
		})
	})
}

// vyattaCache writes the layout of the first generation.
func vyattaCache(w io.Writer, rows Source) error {
	out := bufio.NewWriterSize(w, 64<<10)
	line := func(src, dst, proto string) {
		_, _ = out.WriteString(strings.TrimRight(fmt.Sprintf("%-30s %-30s %-18s", src, dst, proto), " ") + "\n")
	}
	line("Source", "Destination", "Protocol")
	err := rows(func(r Row) error {
		t := &r.Tuple
		sport, dport := "", ""
		if t.HasPorts() {
			sport, dport = fmt.Sprintf(":%d", t.Sport), fmt.Sprintf(":%d", t.Dport)
			if r.Any {
				sport = ":any"
			}
		}
		line(fmt.Sprintf("|%s|%s", t.SrcAddr(), sport), fmt.Sprintf("|%s|%s", t.DstAddr(), dport),
			fmt.Sprintf("%s [%d]", protocolName(t.Proto), t.Proto))
		return nil
	})
	return errors.Join(err, out.Flush())
}

func bracketed(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

func compareTuples(a, b *flow.Tuple) int {
	return cmp.Or(cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Family, b.Family), bytes.Compare(a.Src[:], b.Src[:]),
		bytes.Compare(a.Dst[:], b.Dst[:]), cmp.Compare(a.Sport, b.Sport), cmp.Compare(a.Dport, b.Dport))
}

// table writes columns as wide as their longest cell, or their title and some
// more. The rows are read twice, for the widths and for the writing; a cell that
// has become longer meanwhile shifts its row.
func table(w io.Writer, titles []string, more int, rows func(yield func(cells []string) error) error) error {
	width := make([]int, len(titles))
	for i, t := range titles {
		width[i] = len(t) + more
	}
	err := rows(func(cells []string) error {
		for i, c := range cells {
			width[i] = max(width[i], len(c))
		}
		return nil
	})
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(w, 64<<10)
	var b []byte
	line := func(cells []string) error {
		b = b[:0]
		for i, c := range cells {
			if i > 0 {
				b = append(b, "  "...)
			}
			b = append(b, c...)
			for range width[i] - len(c) {
				b = append(b, ' ')
			}
		}
		_, err := out.Write(append(bytes.TrimRight(b, " "), '\n'))
		return err
	}
	dashes := make([]string, len(titles))
	for i := range dashes {
		dashes[i] = strings.Repeat("-", width[i])
	}
	_, _ = line(titles), line(dashes) // an error comes again with Flush
	return errors.Join(rows(line), out.Flush())
}
