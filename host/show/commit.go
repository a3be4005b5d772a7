package show

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// CommitReport writes "show conntrack-sync commit": the account, then the entries
// the kernel refused, by reason.
func CommitReport(w io.Writer, r stats.CommitReport) error {
	out := bufio.NewWriter(w)
	if r.Commit == nil {
		fmt.Fprintln(out, "no commit yet!")
		return out.Flush()
	}
	fmt.Fprintln(out, commit(r.Commit))
	if len(r.Refused) == 0 {
		return out.Flush()
	}
	fmt.Fprintln(out)
	err := table(out, []string{"Reason", "Source", "Destination", "Protocol", "Kernel's error"}, 2, func(yield func([]string) error) error {
		for i := range r.Refused {
			x := &r.Refused[i]
			t, kind := tupleOf(x)
			err := yield([]string{x.Reason, endpoint(t.SrcAddr(), t.Sport, t), endpoint(t.DstAddr(), t.Dport, t), flow.ProtoName(t.Proto) + kind, x.Error})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, out.Flush())
}

func tupleOf(r *stats.Refusal) (t *flow.Tuple, kind string) {
	switch {
	case r.Flow != nil:
		return &r.Flow.Orig, ""
	case r.Expect != nil:
		return &r.Expect.Tuple, " expectation"
	}
	return &flow.Tuple{}, ""
}

// commit is the account in a line.
func commit(c *stats.Commit) string {
	s := fmt.Sprintf("%s, by %s, ", c.At, orUnknown(c.Trigger))
	if c.Running {
		return s + fmt.Sprintf("RUNNING: %d entries of %d", c.Entries, max(c.Total, c.Entries))
	}
	return s + fmt.Sprintf("%d entries in %.1f ms: %s", c.Entries, c.DurationMS, written(c))
}

// written is what a commit did.
func written(c *stats.Commit) string {
	s := fmt.Sprintf("%d created, %d updated, %d recreated", c.Created, c.Updated, c.Recreated)
	if c.Early > 0 {
		s += fmt.Sprintf("; %d of them before the role, from %.1f ms earlier on", c.Early, c.EarlyLeadMS)
	}
	if c.Ended > 0 {
		s += fmt.Sprintf(", %d that ended elsewhere removed", c.Ended)
	}
	if len(c.Refused) == 0 {
		return s + ", none refused"
	}
	return s + ", refused: " + refusals(c)
}

func refusals(c *stats.Commit) string {
	refused := map[string]uint64{}
	for why, n := range c.Refused {
		refused[why] = uint64(n)
	}
	if len(refused) == 0 {
		return "none"
	}
	return counts(refused)
}

func guard(g *stats.Guard) string {
	s := orUnknown(g.State)
	if g.Problem != "" {
		s += ", DOES NOT WORK: " + g.Problem
	}
	if g.InputDrops+g.ForwardDrops > 0 {
		s += fmt.Sprintf(", %d packets to virtual addresses and %d forwarded ones dropped", g.InputDrops, g.ForwardDrops)
	}
	return s
}
