package conf

import (
	"net/netip"
	"slices"
	"strings"
)

// check runs VyOS's commit checks in VyOS's order and returns the first that
// fails, at the line most to blame for it.
func (l *loader) check(c *Config, sys System) (p Problem, ok bool) {
	if len(c.Interfaces) == 0 {
		return l.treeProblem(l.root, "Interface not defined!"), false
	}
	if sys != nil {
		if p, ok := l.checkMachine(c, sys); !ok {
			return p, false
		}
	}
	if p, ok := l.checkMode(c); !ok {
		return p, false
	}
	if n := l.root.find("expect-sync", "all"); n != nil && len(l.root.find("expect-sync").kids) > 1 {
		return l.treeProblem(n, `Cannot configure expect-sync "all" with other protocols!`), false
	}
	if sys != nil {
		if p, ok := l.checkListen(c, sys); !ok {
			return p, false
		}
	}
	if p, ok := l.checkSyncGroup(c, sys); !ok {
		return p, false
	}
	return l.checkBGP(c)
}

func (l *loader) treeProblem(n *node, message string) Problem {
	return n.at.problem(pathText(nil), message)
}

// checkMachine wants each interface to exist and to have an address of the
// family its datagrams use.
func (l *loader) checkMachine(c *Config, sys System) (p Problem, ok bool) {
	for _, i := range c.Interfaces {
		n := l.root.find("interface", i.Name)
		addrs, exists := sys.Addrs(i.Name)
		if !exists {
			return l.treeProblem(n, `Interface "`+i.Name+`" does not exist!`), false
		}
		if !hasFamily(addrs, i.Peer.Is6()) {
			return l.treeProblem(n, "Interface "+i.Name+" requires an IP address!"), false
		}
	}
	return Problem{}, true
}

func hasFamily(addrs []netip.Addr, six bool) bool {
	for _, a := range addrs {
		if a.IsValid() && a.Unmap().Is6() == six {
			return true
		}
	}
	return false
}

// checkMode blames the first interface that differs from the first of all.
func (l *loader) checkMode(c *Config) (p Problem, ok bool) {
	for _, i := range c.Interfaces {
		if i.Peer.IsValid() != c.Multicast() {
			continue
		}
		n := l.root.find("interface", i.Name)
		if peer := n.find("peer"); peer != nil {
			n = peer
		}
		return l.treeProblem(n, "Cannot mix unicast and multicast mode!"), false
	}
	for _, i := range c.Interfaces {
		if i.Protocol != c.Interfaces[0].Protocol {
			return l.treeProblem(l.root.find("interface", i.Name), "Cannot mix protocols: give all interfaces the same one!"), false
		}
	}
	return Problem{}, true
}

func (l *loader) checkListen(c *Config, sys System) (p Problem, ok bool) {
	for _, a := range c.ListenAddresses {
		if !sys.Local(a) {
			n := l.root.find("listen-address", a.String())
			return l.treeProblem(n, "Specified listen-address "+a.String()+" not assigned to any interface!"), false
		}
	}
	return Problem{}, true
}

// checkSyncGroup wants a group, and one that exists where it is known which do.
func (l *loader) checkSyncGroup(c *Config, sys System) (p Problem, ok bool) {
	if c.SyncGroup == "" {
		n := l.root
		if f := n.find("failover-mechanism"); f != nil {
			n = f
		}
		return l.treeProblem(n, "No VRRP sync-group defined!"), false
	}
	for i, g := range c.Groups() {
		node := "sync-group"
		if i > 0 {
			node = "other-sync-group"
		}
		n := l.root.find("failover-mechanism", "vrrp", node, g)
		message := l.unknownGroup(g, sys)
		switch {
		case i > 0 && g == c.SyncGroup:
			message = "other-sync-group " + shown(g) + " is the sync-group already!"
		case i > 0 && c.Interfaces[0].Protocol == ProtocolConntrackd:
			message = "Several sync groups need our own protocol, the interfaces have protocol conntrackd!"
		}
		if message != "" {
			return l.treeProblem(n, message), false
		}
	}
	return Problem{}, true
}

// unknownGroup says that a group exists neither in the files, where they define
// any, nor in keepalived's configuration, where that is known.
func (l *loader) unknownGroup(group string, sys System) (message string) {
	if len(l.groups) > 0 && !l.groups[group] {
		return "VRRP sync-group " + shown(group) + " not configured!"
	}
	v, ok := sys.(VRRP)
	if !ok {
		return ""
	}
	source, groups := v.SyncGroups()
	if len(groups) == 0 || slices.Contains(groups, group) {
		return ""
	}
	return "VRRP sync-group " + shown(group) + " not configured! " + source + " has: " + shown(strings.Join(groups, " "))
}

// warnIdle names nodes that do nothing in the mode chosen.
func (l *loader) warnIdle(c *Config) {
	word := "mcast-group"
	if c.Multicast() {
		word = "listen-address"
	}
	if n := l.root.find(word); n != nil {
		l.warn(n.at, pathText([]string{word}), "has no effect in this mode")
	}
}
