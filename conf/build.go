package conf

import (
	"cmp"
	"net/netip"
	"slices"
)

// build turns a tree whose values are all checked into a Config.
func (l *loader) build() *Config {
	c := &Config{
		McastGroup:   DefaultMcastGroup,
		EventQueueMB: DefaultEventQueueMB,
		SyncQueueMB:  DefaultSyncQueueMB,
		PurgeTimeout: DefaultPurgeTimeout,
	}
	l.root.build(c)
	slices.Sort(c.AcceptProtocols)
	slices.Sort(c.OtherGroups)
	slices.SortFunc(c.IgnoreAddresses, comparePrefix)
	if slices.Contains(c.ExpectSync, "all") {
		c.ExpectSync = slices.Clone(allExpect)
	} else {
		slices.Sort(c.ExpectSync)
	}
	if c.BGP != nil {
		c.BGP.finish()
	}
	return c
}

func (n *node) build(c *Config) {
	if n.row.kind == flag {
		n.row.set(c, "")
	}
	for _, kid := range n.ordered() {
		if n.row.set != nil {
			n.row.set(c, kid.word)
		}
		if kid.row != nil {
			kid.build(c)
		}
	}
}

// comparePrefix puts IPv4 before IPv6.
func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
