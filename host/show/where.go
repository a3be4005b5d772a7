package show

import (
	"bufio"
	"fmt"
	"io"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// Where writes "show conntrack-sync flow": each flow that matches, and where it is
// on every node.
func Where(w io.Writer, x stats.Where) error {
	out := bufio.NewWriter(w)
	if len(x.Flows) == 0 {
		fmt.Fprintln(out, "no such flow: not in the kernel, nor in a cache, of any node that answered")
	}
	roles := map[string]string{}
	for _, p := range x.Peers {
		roles[p.Address] = p.Role
	}
	for i := range x.Flows {
		f := &x.Flows[i]
		t := &f.Flow.Orig
		fmt.Fprintf(out, "%s %s -> %s%s\n", flow.ProtoName(t.Proto), endpoint(t.SrcAddr(), t.Sport, t), endpoint(t.DstAddr(), t.Dport, t), translated(&f.Flow))
		places(out, "here", x.Role, told(f.Sent), &f.Here)
		for _, p := range f.Peers {
			if answered(x.Peers, p.Address) {
				places(out, p.Address, roles[p.Address], acknowledged(p.Acknowledged), &p.Places)
			} else if s := acknowledged(p.Acknowledged); s != "" {
				fmt.Fprintf(out, "  %s%s\n", p.Address, s)
			}
		}
	}
	for _, p := range x.Peers {
		if !p.Answered {
			fmt.Fprintf(out, "%s says nothing: %s\n", p.Address, p.Why)
		}
	}
	if x.Truncated {
		fmt.Fprintln(out, "there are more flows; name protocol and ports")
	}
	return out.Flush()
}

func answered(peers []stats.Asked, address string) bool {
	for _, p := range peers {
		if p.Address == address {
			return p.Answered
		}
	}
	return false
}

func translated(f *flow.Flow) string {
	if f.Has&flow.HasReply == 0 || f.Reply == f.Orig.Inverse() || f.Orig.IsICMP() && f.Reply.Src == f.Orig.Dst && f.Reply.Dst == f.Orig.Src {
		return ""
	}
	t := &f.Reply
	return fmt.Sprintf(", translated to %s -> %s", endpoint(t.DstAddr(), t.Dport, t), endpoint(t.SrcAddr(), t.Sport, t))
}

func told(sent *bool) string {
	switch {
	case sent == nil:
		return ""
	case *sent:
		return ", sent to the peers"
	}
	return ", NOT sent to the peers yet"
}

func acknowledged(yes *bool) string {
	switch {
	case yes == nil:
		return ""
	case *yes:
		return ", has acknowledged it"
	}
	return ", has NOT acknowledged it"
}

func places(out io.Writer, who, role, more string, p *stats.Places) {
	if role != "" {
		who += " (" + role + ")"
	}
	fmt.Fprintf(out, "  %s%s\n", who, more)
	kernel := placed(p.Kernel)
	if p.Filtered != "" {
		kernel += ", NOT replicated: " + p.Filtered
	}
	fmt.Fprintf(out, "    kernel   : %s\n    internal : %s\n    external : %s\n", kernel, placed(p.Internal), placed(p.External))
}

// placed is what one place knows of a flow.
func placed(f *flow.Flow) string {
	if f == nil {
		return "-"
	}
	s := f.StateName()
	if s == "" {
		s = "there"
	}
	if f.Has&flow.HasTimeout != 0 {
		s += fmt.Sprintf(", timeout %d s", f.Timeout)
	}
	if f.Mark != 0 {
		s += fmt.Sprintf(", mark %d", f.Mark)
	}
	if f.Status&flow.StatusAssured != 0 {
		s += ", assured"
	}
	return s
}
