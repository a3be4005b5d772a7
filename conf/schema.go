package conf

import (
	"net/netip"
	"strconv"
	"time"
)

type kind int

const (
	plain kind = iota // has children only
	flag              // its presence is its value
	leaf              // one value, the last one given
	multi             // a list of values
	tag               // a list of named blocks
	entry             // one named block: a plain node that stays when emptied
)

// row describes one node below service conntrack-sync.
type row struct {
	path  string // "*" stands for the name of a tag's block
	kind  kind
	value func(word string) (canonical string, err error) // of leaf, multi and tag
	set   func(c *Config, canonical string)               // below interface: acts on the one added last
}

// schema is the whole tree.
var schema = []row{
	{"", plain, nil, nil},
	{"accept-protocol", multi, checkProtocol, setProtocol},
	{"bgp", plain, nil, nil},
	{"bgp api", leaf, checkAPI, func(c *Config, s string) { c.bgp().API = netip.MustParseAddrPort(s) }},
	{"bgp communities", multi, checkCommunity, setCommunity},
	{"bgp grace-time", leaf, checkGrace, bgpSeconds(func(b *BGP) *time.Duration { return &b.Grace })},
	{"bgp graceful-shutdown", leaf, checkShutdown, bgpSeconds(func(b *BGP) *time.Duration { return &b.GracefulShutdown })},
	{"bgp master", plain, nil, nil},
	{"bgp master med", leaf, checkMED, bgpNumber(func(b *BGP, n uint32) { b.MasterMED = n })},
	{"bgp prefix", tag, checkRoute, setRoute},
	{"bgp prefix *", entry, nil, nil},
	{"bgp prefix * sync-group", leaf, checkGroup, setRouteGroup},
	{"bgp standby", plain, nil, nil},
	{"bgp standby as-path-prepend", leaf, checkPrepend, bgpNumber(func(b *BGP, n uint32) { b.StandbyPrepend = uint8(n) })},
	{"bgp standby med", leaf, checkMED, bgpNumber(func(b *BGP, n uint32) { b.StandbyMED = n })},
	{"bgp standby withdraw", flag, nil, func(c *Config, _ string) { c.bgp().StandbyWithdraw = true }},
	{"bgp unready", plain, nil, nil},
	{"bgp unready med", leaf, checkMED, bgpNumber(func(b *BGP, n uint32) { b.UnreadyMED = n })},
	{"bgp unready withdraw", flag, nil, func(c *Config, _ string) { c.bgp().UnreadyMED = 0 }},
	{"disable-external-cache", flag, nil, func(c *Config, _ string) { c.DisableExternalCache = true }},
	{"disable-syslog", flag, nil, func(c *Config, _ string) { c.DisableSyslog = true }},
	{"event-listen-queue-size", leaf, checkQueue, setEventQueue},
	{"expect-sync", multi, checkExpect, func(c *Config, s string) { c.ExpectSync = append(c.ExpectSync, s) }},
	{"failover-mechanism", plain, nil, nil},
	{"failover-mechanism vrrp", plain, nil, nil},
	{"failover-mechanism vrrp other-sync-group", multi, checkGroup, func(c *Config, s string) { c.OtherGroups = append(c.OtherGroups, s) }},
	{"failover-mechanism vrrp sync-group", leaf, checkGroup, func(c *Config, s string) { c.SyncGroup = s }},
	{"ignore-address", multi, checkIgnore, setIgnore},
	{"interface", tag, checkInterface, setInterface},
	{"interface *", entry, nil, nil},
	{"interface * peer", leaf, checkPeer, func(c *Config, s string) { lastInterface(c).Peer = netip.MustParseAddr(s) }},
	{"interface * port", leaf, checkPort, func(c *Config, s string) { lastInterface(c).Port = uint16(mustInt(s)) }},
	{"interface * protocol", leaf, checkWire, setWire},
	{"listen-address", multi, checkAddr, setListen},
	{"mcast-group", leaf, checkMcast, func(c *Config, s string) { c.McastGroup = netip.MustParseAddr(s) }},
	{"purge-timeout", leaf, checkPurge, func(c *Config, s string) { c.PurgeTimeout = time.Duration(mustInt(s)) * time.Second }},
	{"startup-resync", flag, nil, func(c *Config, _ string) { c.StartupResync = true }},
	{"sync-queue-size", leaf, checkQueue, func(c *Config, s string) { c.SyncQueueMB = mustInt(s) }},
	{"takeover-guard", plain, nil, nil},
	{"takeover-guard disable", flag, nil, func(c *Config, _ string) { c.DisableGuard = true }},
}

var rowOf = func() map[string]*row {
	m := make(map[string]*row, len(schema))
	for i := range schema {
		m[schema[i].path] = &schema[i]
	}
	return m
}()

// below returns the row of a child; for a tag the word is a block's name.
// It is nil where the tree has no such node.
func (r *row) below(word string) *row {
	switch {
	case r.kind == tag:
		return rowOf[r.path+" *"]
	case r.path == "":
		return rowOf[word]
	case word == "*":
		return nil
	}
	return rowOf[r.path+" "+word]
}

func setProtocol(c *Config, s string) {
	n, _ := protocolNumber(s)
	c.AcceptProtocols = append(c.AcceptProtocols, n)
}

func setEventQueue(c *Config, s string) {
	c.EventQueueMB, c.EventQueueSet = mustInt(s), true
}

func setIgnore(c *Config, s string) {
	c.IgnoreAddresses = append(c.IgnoreAddresses, netip.MustParsePrefix(s))
}

func setListen(c *Config, s string) {
	c.ListenAddresses = append(c.ListenAddresses, netip.MustParseAddr(s))
}

func setInterface(c *Config, s string) {
	c.Interfaces = append(c.Interfaces, Interface{Name: s, Port: DefaultPort})
}

func setWire(c *Config, s string) {
	if s != "auto" {
		lastInterface(c).Protocol = s
	}
}

func lastInterface(c *Config) *Interface { return &c.Interfaces[len(c.Interfaces)-1] }

func setCommunity(c *Config, s string) {
	x, _ := parseCommunity(s)
	c.bgp().Communities = append(c.bgp().Communities, x)
}

func setRoute(c *Config, s string) {
	c.bgp().Prefixes = append(c.bgp().Prefixes, BGPPrefix{Prefix: netip.MustParsePrefix(s)})
}

// setRouteGroup acts on the prefix added last.
func setRouteGroup(c *Config, s string) {
	b := c.bgp()
	b.Prefixes[len(b.Prefixes)-1].SyncGroup = s
}

// mustInt reads a canonical number, which its check has passed.
func mustInt(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic("unchecked number " + s)
	}
	return n
}
