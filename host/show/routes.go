package show

import (
	"bufio"
	"fmt"
	"io"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// Routes writes "show conntrack-sync routes": the speaker, its sessions, what is
// wanted for each group, and each prefix with what is announced of it, why and
// since when.
func Routes(w io.Writer, r stats.Routes) error {
	out := bufio.NewWriter(w)
	if !r.Configured {
		fmt.Fprintln(out, "no routes follow roles: set service conntrack-sync bgp prefix PREFIX")
		return out.Flush()
	}
	state := "NOT CONNECTED"
	if r.Connected {
		state = fmt.Sprintf("AS %d, %d of %d sessions established", r.AS, r.Established, len(r.Sessions))
	}
	if r.Since != "" {
		state += ", since " + r.Since
	}
	fmt.Fprintf(out, "%s: %s\n", r.Speaker, state)
	for _, s := range r.Sessions {
		fmt.Fprintf(out, "  neighbor %s, AS %d, %s\n", s.Neighbor, s.AS, s.State)
	}
	for _, p := range r.Problems {
		fmt.Fprintf(out, "problem: %s\n", p)
	}
	for _, g := range r.Groups {
		level := g.Level
		if g.Level == "master" {
			level += fmt.Sprintf(" of generation %d", g.Generation)
		}
		if !g.Taken {
			level += ", NOT ANNOUNCED YET"
		}
		fmt.Fprintf(out, "sync-group %s: %s (%s)\n", g.Group, level, g.Why)
	}
	fmt.Fprintln(out)
	err := table(out, []string{"Prefix", "Sync-group", "Level", "Announced", "Since", "Why"}, 2, func(yield func([]string) error) error {
		for _, x := range r.Routes {
			cells := []string{x.Prefix, x.Group, orDash(x.Level), orDash(x.Text), orDash(x.Since), x.Why}
			if x.Error != "" {
				cells[3] += ", FAILED: " + x.Error
			}
			if err := yield(cells); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return out.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
