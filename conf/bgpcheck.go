package conf

import (
	"fmt"
	"slices"
)

// checkBGP wants the nodes below bgp to agree with each other: a path that is
// to be worse than another one has to be.
func (l *loader) checkBGP(c *Config) (p Problem, ok bool) {
	b, n := c.BGP, l.root.find("bgp")
	if b == nil {
		return p, true
	}
	fail := func(at *node, message string) (Problem, bool) {
		return at.at.problem(pathText([]string{"bgp"}), message), false
	}
	if len(b.Prefixes) == 0 {
		return fail(n, "no prefix is given, so there is nothing to announce!")
	}
	for _, x := range b.Prefixes {
		if g := n.find("prefix", x.Prefix.String(), "sync-group", x.SyncGroup); g != nil && !slices.Contains(c.Groups(), x.SyncGroup) {
			return fail(g, fmt.Sprintf("prefix %s follows sync-group %s, which is not among failover-mechanism vrrp sync-group!", x.Prefix, shown(x.SyncGroup)))
		}
	}
	standby, unready := n.find("standby"), n.find("unready")
	switch {
	case b.StandbyWithdraw && len(standby.kids) > 1:
		return fail(standby.find("withdraw"), "standby withdraw leaves no path for med or as-path-prepend!")
	case b.StandbyMED <= b.MasterMED && !b.StandbyWithdraw:
		return fail(firstOf(standby, n), fmt.Sprintf("standby med %d must be above master med %d!", b.StandbyMED, b.MasterMED))
	case unready != nil && len(unready.kids) > 1:
		return fail(unready.find("withdraw"), "unready withdraw leaves no path for med!")
	case b.UnreadyMED != 0 && b.StandbyWithdraw:
		return fail(unready, "unready med announces a path where standby withdraw has none!")
	case b.UnreadyMED != 0 && b.UnreadyMED < b.StandbyMED:
		return fail(unready, fmt.Sprintf("unready med %d must not be below standby med %d!", b.UnreadyMED, b.StandbyMED))
	}
	return p, true
}

func firstOf(a, b *node) *node {
	if a != nil {
		return a
	}
	return b
}
