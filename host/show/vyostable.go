package show

import (
	"fmt"
	"io"
	"net/netip"
	"strconv"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

// VyOSTable writes the kernel's table in the layout of VyOS's present
// generation. flows is read twice.
func VyOSTable(w io.Writer, flows func(yield func(*flow.Flow) error) error) error {
	titles := []string{"Id", "Original src", "Original dst", "Reply src", "Reply dst", "Protocol", "State", "Timeout", "Mark", "Zone"}
	some := false
	rows := func(yield func([]string) error) error {
		cells := make([]string, len(titles))
		return flows(func(f *flow.Flow) error {
			some = true
			o, r := &f.Orig, &f.Reply
			cells[0] = strconv.FormatUint(uint64(f.ID), 10)
			cells[1], cells[2] = plainEndpoint(o.SrcAddr(), o.Sport, o), plainEndpoint(o.DstAddr(), o.Dport, o)
			cells[3], cells[4] = plainEndpoint(r.SrcAddr(), r.Sport, r), plainEndpoint(r.DstAddr(), r.Dport, r)
			cells[5], cells[6] = flow.ProtoName(o.Proto), f.StateName()
			cells[7] = "n/a"
			if f.Has&flow.HasTimeout != 0 {
				cells[7] = strconv.FormatUint(uint64(f.Timeout), 10)
			}
			cells[8], cells[9] = known(f.Has&flow.HasMark != 0, f.Mark), known(f.Has&flow.HasZone != 0, uint32(f.Zone))
			return yield(cells)
		})
	}
	// An empty table has a layout of its own.
	if err := rows(func([]string) error { return errLong }); err != nil && some {
		return table(w, titles, 2, rows)
	} else if err != nil {
		return err
	}
	_, err := io.WriteString(w, "Entries not found\n")
	return err
}

func known(has bool, v uint32) string {
	if !has {
		return ""
	}
	return strconv.FormatUint(uint64(v), 10)
}

// plainEndpoint is addr:port without brackets, as VyOS prints IPv6 too.
func plainEndpoint(a netip.Addr, port uint16, t *flow.Tuple) string {
	if !t.HasPorts() {
		return a.String()
	}
	return fmt.Sprintf("%s:%d", a, port)
}
