package show

import (
	"bufio"
	"fmt"
	"io"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// The views of conntrackd's statistics, in its layout, tabs included, for
// scripts that parse it. What cannot happen here, such as a child process that
// fails, stands there as 0.

// ConntrackdViews are the views by conntrackd's names; "ct" is the usual one.
var ConntrackdViews = []string{"network", "cache", "runtime", "link", "rsqueue", "process", "queue", "ct", "expect"}

// Conntrackd writes one view. up is how long the engine runs.
func Conntrackd(w io.Writer, view string, s *stats.Statistics, up time.Duration) error {
	out := bufio.NewWriter(w)
	switch view {
	case "network":
		cdNetwork(out, s)
	case "cache":
		cdCaches(out, &s.Main)
	case "runtime":
		cdRuntime(out, s, up)
	case "link":
		for i := range s.Links {
			cdLink(out, &s.Links[i])
		}
	case "rsqueue":
		fmt.Fprintf(out, "resent queue (len=%d)\n", s.Runtime.Unacknowledged)
	case "process": // there are no child processes
	case "queue":
		cdQueues(out, &s.Runtime, s.Drops["resend_queue_full"])
	case "expect":
		if s.Expect != nil {
			cdBlock(out, s.Expect)
		}
	default:
		cdBlock(out, &s.Main)
	}
	return out.Flush()
}

func cdBlock(w io.Writer, m *stats.Main) {
	cdCounts(w, "cache internal", &m.CacheInternal, true)
	if m.ExternalInject != nil {
		cdCounts(w, "external inject", m.ExternalInject, false)
	} else if m.CacheExternal != nil {
		cdCounts(w, "cache external", m.CacheExternal, true)
	}
	fmt.Fprintf(w, "traffic processed:\n%20d Bytes      %20d Pckts\n\n", m.Traffic.Bytes, m.Traffic.Packets)
	cdActive(w, &m.Channel)
	fmt.Fprintf(w, "message tracking:\n%20d Malformed msgs %20d Lost msgs\n\n", m.Tracking.Malformed, m.Tracking.Lost)
}

func cdCounts(w io.Writer, title string, c *stats.Cache, active bool) {
	fmt.Fprintf(w, "%s:\n", title)
	if active {
		fmt.Fprintf(w, "current active connections:\t%12d\n", c.Active)
	}
	fmt.Fprintf(w, "connections created:\t\t%12d\tfailed:\t%12d\n", c.Created, c.CreatedFailed)
	fmt.Fprintf(w, "connections updated:\t\t%12d\tfailed:\t%12d\n", c.Updated, c.UpdatedFailed)
	fmt.Fprintf(w, "connections destroyed:\t\t%12d\tfailed:\t%12d\n\n", c.Destroyed, c.DestroyedFailed)
}

// cdActive is the channel in use.
func cdActive(w io.Writer, c *stats.Channel) {
	fmt.Fprintf(w, "%s traffic (active device=%s):\n", cdKind(c), c.Device)
	cdChannel(w, c)
}

func cdKind(c *stats.Channel) string {
	if c.Type == "udp" {
		return "UDP"
	}
	return c.Type
}

func cdChannel(w io.Writer, c *stats.Channel) {
	fmt.Fprintf(w, "%20d Bytes sent %20d Bytes recv\n", c.BytesSent, c.BytesRecv)
	fmt.Fprintf(w, "%20d Pckts sent %20d Pckts recv\n", c.PacketsSent, c.PacketsRecv)
	fmt.Fprintf(w, "%20d Error send %20d Error recv\n\n", c.ErrorsSent, c.ErrorsRecv)
}

func cdLink(w io.Writer, l *stats.Link) {
	status, role := "DOWN", "BACKUP"
	if l.State == "up" {
		status = "RUNNING"
	}
	if l.Active {
		role = "ACTIVE"
	}
	fmt.Fprintf(w, "%s traffic device=%s status=%s role=%s:\n", cdKind(&l.Channel), l.Interface, status, role)
	cdChannel(w, &l.Channel)
}

func cdNetwork(w io.Writer, s *stats.Statistics) {
	d := s.Drops
	fmt.Fprint(w, "network statistics:\n\trecv:\n")
	for _, l := range []struct {
		label string
		n     uint64
	}{
		{"Malformed messages", s.Main.Tracking.Malformed},
		{"Wrong protocol version", d["malformed_version"]},
		{"Malformed header", d["malformed_header"]},
		{"Malformed payload", d["malformed_payload"]},
		{"Bad message type", 0}, // counted with the headers
		{"Truncated message", d["malformed_truncated"]},
		{"Bad message size", d["malformed_size"]},
	} {
		fmt.Fprintf(w, "\t\t%s:\t%20d\n", l.label, l.n)
	}
	fmt.Fprintf(w, "\tsend:\n\t\tMalformed messages:\t%20d\n\n", 0)
	fmt.Fprintf(w, "sequence tracking statistics:\n\trecv:\n\t\tPackets lost:\t\t%20d\n\t\tPackets before:\t\t%20d\n\n",
		s.Main.Tracking.Lost, d["packets_before"]+s.Session["native_late"])
	cdActive(w, &s.Main.Channel)
}

func cdCaches(w io.Writer, m *stats.Main) {
	cdCache(w, "internal", &m.CacheInternal)
	if m.ExternalInject != nil {
		cdCounts(w, "external inject", m.ExternalInject, false)
	} else if m.CacheExternal != nil {
		cdCache(w, "external", m.CacheExternal)
	}
}

func cdCache(w io.Writer, name string, c *stats.Cache) {
	fmt.Fprintf(w, "cache:%s\tactive objects:\t\t%12d\n", name, c.Active)
	fmt.Fprintf(w, "\tactive/total entries:\t\t%12d/%12d\n", c.Active, c.Active)
	fmt.Fprintf(w, "\tcreation OK/failed:\t\t%12d/%12d\n", c.Created, c.CreatedFailed)
	fmt.Fprintf(w, "\t\tno memory available:\t%12d\n\t\tno space left in cache:\t%12d\n", 0, c.CreatedFailed)
	fmt.Fprintf(w, "\tupdate OK/failed:\t\t%12d/%12d\n\t\tentry not found:\t%12d\n", c.Updated, c.UpdatedFailed, 0)
	fmt.Fprintf(w, "\tdeletion created/failed:\t%12d/%12d\n\t\tentry not found:\t%12d\n\n", c.Destroyed, c.DestroyedFailed, 0)
}

func cdRuntime(w io.Writer, s *stats.Statistics, up time.Duration) {
	filtered := uint64(0)
	for _, n := range s.Excluded {
		filtered += n
	}
	r := &s.Runtime
	fmt.Fprintf(w, "daemon uptime: %s\n\nnetlink stats:\n", uptime(up))
	fmt.Fprintf(w, "\tevents received:\t%20d\n\tevents filtered:\t%20d\n", r.Events, filtered)
	fmt.Fprintf(w, "\tevents unknown type:\t\t%12d\n\tcatch event failed:\t\t%12d\n\tdump unknown type:\t\t%12d\n", 0, 0, 0)
	fmt.Fprintf(w, "\tnetlink overrun:\t\t%12d\n\tflush kernel table:\t\t%12d\n", s.Drops["event_overruns"], 0)
	fmt.Fprintf(w, "\tresync with kernel table:\t%12d\n", r.Comparisons)
	fmt.Fprintf(w, "\tcurrent buffer size (in bytes):\t%12d\n\nruntime stats:\n", r.EventBuffer)
	fmt.Fprintf(w, "\tchild process failed:\t\t%12d\n\t\tchild process segfault:\t%12d\n\t\tchild process termsig:\t%12d\n", 0, 0, 0)
	fmt.Fprintf(w, "\tselect failed:\t\t\t%12d\n\twait failed:\t\t\t%12d\n", 0, 0)
	fmt.Fprintf(w, "\tlocal read failed:\t\t%12d\n\tlocal unknown request:\t\t%12d\n\n", 0, 0)
}

// uptime as conntrackd says it.
func uptime(up time.Duration) string {
	m := int64(up / time.Minute)
	switch {
	case m >= 24*60:
		return fmt.Sprintf("%d day(s) %d h %d min", m/(24*60), m/60%24, m%60)
	case m >= 60:
		return fmt.Sprintf("%d h %d min", m/60, m%60)
	}
	return fmt.Sprintf("%d min", m)
}

func cdQueues(w io.Writer, r *stats.Runtime, full uint64) {
	fmt.Fprintf(w, "allocated queue nodes:\t\t%12d\n\n", r.Unacknowledged)
	for _, q := range []struct {
		name           string
		now, max, full uint64
	}{
		{"txqueue", 0, 1<<31 - 1, 0}, // nothing waits across a hold of the engine's lock
		{"errorq", 0, 0, 0},          // there is none
		{"rsqueue", r.Unacknowledged, r.ResendLimit, full},
	} {
		fmt.Fprintf(w, "queue %s:\ncurrent elements:\t\t%12d\nmaximum elements:\t\t%12d\nnot enough space errors:\t%12d\n\n", q.name, q.now, q.max, q.full)
	}
}
