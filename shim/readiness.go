package shim

import (
	"fmt"
	"slices"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
)

// readiness says whether this node would carry the traffic now, and if not why. A
// MASTER carries it already, whatever else is wrong. A node that hears no peer is
// ready: nobody else would take over. e is nil while no engine answers; young says
// that it has not run for long enough to have heard everybody.
func readiness(role vrrpwatch.State, e *stats.Engine, young bool) stats.Readiness {
	r := stats.Readiness{Reasons: []string{}}
	add := func(ok bool, why string) { r.Ready, r.Reasons = ok, append(r.Reasons, why) }
	switch {
	case e == nil:
		add(role == vrrpwatch.Master, "the engine is not running")
	case e.Filling:
		add(role == vrrpwatch.Master, "the internal cache is being read from the kernel")
	case role == vrrpwatch.Master:
		add(true, "MASTER")
	case !peerAlive(e) && young:
		add(false, "the engine has begun just now, no peer is heard yet")
	case !peerAlive(e):
		add(true, "no peer is heard")
	case e.View != nil && e.View.InSync:
		add(true, fmt.Sprintf("proven equal to the MASTER's table of %d entries %d ms ago", e.View.Entries, e.View.ProvenMS))
	case e.View != nil:
		add(false, fmt.Sprintf("not proven equal to the MASTER's table: %d of 4096 buckets differ", e.View.Differing))
	case e.Refilling:
		add(false, "the peer's table is still being copied")
	default:
		add(true, "a peer is heard and its table was copied")
	}
	return r
}

func peerAlive(e *stats.Engine) bool {
	return slices.ContainsFunc(e.Peers, func(p stats.Peer) bool { return p.Alive })
}

// proven reports whether the tables of this group's nodes are proven equal: a
// MASTER's when every other node says so.
func proven(role vrrpwatch.State, e *stats.Engine) bool {
	if role != vrrpwatch.Master {
		return e.View != nil && e.View.InSync
	}
	some := false
	for _, p := range e.Peers {
		if p.Alive && (p.InSync == nil || !*p.InSync) {
			return false
		}
		some = some || p.Alive
	}
	return some
}
