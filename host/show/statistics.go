package show

import (
	"bufio"
	"fmt"
	"io"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// Statistics writes "show conntrack-sync statistics".
func Statistics(w io.Writer, s stats.Statistics) error {
	out := bufio.NewWriter(w)
	fmt.Fprint(out, "\nMain Table Statistics:\n\n")
	block(out, &s.Main)
	if s.Expect != nil {
		fmt.Fprint(out, "\nExpect Table Statistics:\n\n")
		block(out, s.Expect)
	}
	return out.Flush()
}

func block(w io.Writer, m *stats.Main) {
	fmt.Fprintf(w, "cache internal:\n%s\n", cacheLines(&m.CacheInternal, true))
	if m.ExternalInject != nil {
		fmt.Fprintf(w, "external inject:\n%s\n", cacheLines(m.ExternalInject, false))
	} else if m.CacheExternal != nil {
		fmt.Fprintf(w, "cache external:\n%s\n", cacheLines(m.CacheExternal, true))
	}
	fmt.Fprintf(w, "traffic processed:\n%20d Bytes      %20d Pckts\n\n", m.Traffic.Bytes, m.Traffic.Packets)
	c := &m.Channel
	title := "multicast"
	if c.Type == "udp" {
		title = "UDP"
	}
	fmt.Fprintf(w, "%s traffic (active device=%s):\n", title, c.Device)
	fmt.Fprintf(w, "%20d Bytes sent %20d Bytes recv\n", c.BytesSent, c.BytesRecv)
	fmt.Fprintf(w, "%20d Pckts sent %20d Pckts recv\n", c.PacketsSent, c.PacketsRecv)
	fmt.Fprintf(w, "%20d Error send %20d Error recv\n\n", c.ErrorsSent, c.ErrorsRecv)
	fmt.Fprintf(w, "message tracking:\n%20d Malformed msgs %20d Lost msgs\n\n", m.Tracking.Malformed, m.Tracking.Lost)
}

func cacheLines(c *stats.Cache, active bool) (s string) {
	if active {
		s = fmt.Sprintf("current active connections:     %12d\n", c.Active)
	}
	for _, l := range []struct {
		label      string
		ok, failed uint64
	}{{"created:", c.Created, c.CreatedFailed}, {"updated:", c.Updated, c.UpdatedFailed}, {"destroyed:", c.Destroyed, c.DestroyedFailed}} {
		s += fmt.Sprintf("connections %-20s%12d    failed: %12d\n", l.label, l.ok, l.failed)
	}
	return s
}
