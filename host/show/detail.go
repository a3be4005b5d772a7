package show

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// Detail writes "show conntrack-sync status --detail": what the short form says,
// and behind it everything an operator asks next, beginning with whether this
// node would carry the traffic now.
func Detail(w io.Writer, s stats.Status) error {
	out := bufio.NewWriter(w)
	if err := Status(out, s); err != nil {
		return err
	}
	line := func(label, format string, args ...any) {
		fmt.Fprintf(out, "%-22s: %s\n", label, fmt.Sprintf(format, args...))
	}
	ready := "yes"
	if !s.Readiness.Ready {
		ready = "NO"
	}
	line("would carry traffic", "%s: %s", ready, strings.Join(s.Readiness.Reasons, "; "))
	for _, a := range s.Alarms {
		line("alarm", "%s", a)
	}
	role := s.Role
	if s.Since != "" {
		role += " since " + s.Since
	}
	line("role", "%s", role)
	for i := range s.Groups {
		line("sync group", "%s", group(&s.Groups[i]))
	}
	if s.View != nil && s.Role != "MASTER" {
		line("view of the MASTER", "%s", view(s.View))
	}
	for _, p := range s.Peers {
		line("peer", "%s", peer(&p))
	}
	for _, l := range s.Links {
		line("sync link", "%s", link(&l))
	}
	if c := s.Commit; c != nil {
		line("last commit", "%s", commit(c))
	}
	line("take-over guard", "%s", guard(&s.Guard))
	line("not replicated", "%s", counts(s.Excluded))
	line("configuration", "%s", strings.Join(s.Configuration.Files, ", "))
	line("releases", "host %s, engine %s", orUnknown(s.Release), orUnknown(s.Plugin.Release))
	line("engine", "pid %d, up since %s, crashed %d times", s.Plugin.PID, orUnknown(s.Plugin.UpSince), s.Plugin.Restarts)
	return out.Flush()
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// group is how the node stands in one of several sync groups.
func group(g *stats.GroupStatus) string {
	s := g.Group + ", " + g.Role
	if g.Since != "" {
		s += " since " + g.Since
	}
	if !g.Readiness.Ready {
		s += ", NOT ready"
	}
	s += ": " + strings.Join(g.Readiness.Reasons, "; ")
	for i := range g.Peers {
		p := &g.Peers[i]
		s += fmt.Sprintf("; peer %s %s", p.Address, orUnknown(p.Role))
		if p.InSync != nil && *p.InSync {
			s += ", in sync"
		}
	}
	return s
}

func peer(p *stats.Peer) string {
	state := "alive"
	if !p.Alive {
		state = "SILENT"
	}
	s := fmt.Sprintf("%s, %s, %s, heard %s ago, %d messages unacknowledged", p.Address, p.Software, state, ago(p.LastHeardMS), p.Unacked)
	if p.Protocol != "native" {
		return s
	}
	if p.BehindMS > 0 {
		s += fmt.Sprintf(" for %d ms", p.BehindMS)
	}
	s += fmt.Sprintf(", %s, epoch %d", p.Role, p.Epoch)
	switch {
	case p.InSync == nil || !p.Alive: // what was proven before it fell silent says nothing
	case *p.InSync:
		s += ", in sync"
		if p.ProvenMS > 0 {
			s += ", proven " + ago(p.ProvenMS) + " ago"
		}
	case p.Differing == 0:
		s += ", NOT proven equal"
	default:
		s += fmt.Sprintf(", DIFFERS in %d of 4096 buckets", p.Differing)
	}
	if p.LagP50MS > 0 {
		s += fmt.Sprintf(", lag %.1f ms (p50) %.1f ms (p99)", p.LagP50MS, p.LagP99MS)
	}
	return s
}

func link(l *stats.Link) string {
	s := fmt.Sprintf("%s to %s port %d, %s", l.Interface, l.Address, l.Port, l.State)
	if l.Active {
		s += ", in use"
	}
	if l.LastHeardMS != nil {
		return s + ", heard " + ago(*l.LastHeardMS) + " ago"
	}
	return s + ", never heard"
}

// counts writes what is not zero, by name.
func counts(m map[string]uint64) string {
	var parts []string
	for name, n := range m {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", name, n))
		}
	}
	if len(parts) == 0 {
		return "nothing seen"
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

func ago(ms int64) string {
	return (time.Duration(ms) * time.Millisecond).Round(100 * time.Millisecond).String()
}

func view(v *stats.View) string {
	equal := "NOT proven equal"
	switch {
	case v.InSync:
		equal = fmt.Sprintf("proven equal %s ago", ago(v.ProvenMS))
	case v.Differing > 0:
		equal = fmt.Sprintf("DIFFERS in %d of 4096 buckets", v.Differing)
	}
	return fmt.Sprintf("%s, %d entries, %d repaired, epoch %d", equal, v.Entries, v.Repaired, v.Epoch)
}

// Diff writes "show conntrack-sync diff": how views compare now, then what the
// last repairs found.
func Diff(w io.Writer, d stats.Diff) error {
	out := bufio.NewWriter(w)
	if d.View != nil {
		fmt.Fprintf(out, "view of the MASTER: %s\n", view(d.View))
	}
	for _, p := range d.Peers {
		fmt.Fprintf(out, "peer %s\n", peer(&p))
	}
	fmt.Fprintf(out, "\nfound to differ and repaired: %d\n", len(d.Found))
	err := table(out, []string{"Time", "Kind", "Source", "Destination", "Protocol"}, 2, func(yield func([]string) error) error {
		for _, x := range d.Found {
			t := &x.Flow.Orig
			cells := []string{x.At, x.Kind, endpoint(t.SrcAddr(), t.Sport, t), endpoint(t.DstAddr(), t.Dport, t), flow.ProtoName(t.Proto)}
			if err := yield(cells); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, out.Flush())
}
