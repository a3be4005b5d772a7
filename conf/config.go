// Package conf turns configuration text, VyOS's set lines or its brace form,
// into a checked Config. It is pure: files are read by its callers, the
// system's interfaces are asked for through System.
package conf

import (
	"net/netip"
	"slices"
	"time"
)

// Config is one checked "service conntrack-sync" tree. Nothing downstream
// meets an unchecked value.
type Config struct {
	AcceptProtocols      []uint8        `json:"accept_protocols"` // layer-4 numbers, sorted; empty: all
	IgnoreAddresses      []netip.Prefix `json:"ignore_addresses"` // host bits masked off
	Interfaces           []Interface    `json:"interfaces"`       // in order of appearance, at least one
	ListenAddresses      []netip.Addr   `json:"listen_addresses"` // unicast only; empty: any
	McastGroup           netip.Addr     `json:"mcast_group"`
	SyncGroup            string         `json:"sync_group"`
	OtherGroups          []string       `json:"other_groups,omitempty"` // sorted
	ExpectSync           []string       `json:"expect_sync"`            // words of the tree; "all" is expanded; empty: off
	DisableExternalCache bool           `json:"disable_external_cache"`
	DisableSyslog        bool           `json:"disable_syslog"`
	DisableGuard         bool           `json:"disable_takeover_guard"`
	StartupResync        bool           `json:"startup_resync"`
	EventQueueMB         int            `json:"event_queue_mb"`
	EventQueueSet        bool           `json:"event_queue_set"` // the operator wrote it
	SyncQueueMB          int            `json:"sync_queue_mb"`
	PurgeTimeout         time.Duration  `json:"purge_timeout"`
	BGP                  *BGP           `json:"bgp,omitempty"` // nil: routes follow nothing
}

// Interface is one sync interface.
type Interface struct {
	Name string     `json:"name"`
	Peer netip.Addr `json:"peer"` // invalid: multicast
	Port uint16     `json:"port"`
	// Protocol of the sync link; all interfaces agree.
	Protocol string `json:"protocol,omitempty"`
}

// The protocols of the sync link.
const (
	ProtocolAuto       = ""           // ours where every node of the link speaks it; the tree's word is auto
	ProtocolConntrackd = "conntrackd" // conntrackd's, version 1
	ProtocolNative     = "native"     // ours, whoever is there
)

// Settings is all the engine is told: the operator's configuration, and what
// the shim learned elsewhere.
type Settings struct {
	Config
	// VirtualAddresses are the addresses keepalived moves. Where none are
	// known no flow is excluded for ending at this router.
	VirtualAddresses []netip.Addr `json:"virtual_addresses"`
	// GroupAddresses say which of them belong to which group, with their prefixes;
	// needed only where there are several.
	GroupAddresses []Group `json:"group_addresses,omitempty"`
}

// Moves are the addresses that the sync-group moves, as far as they are known apart
// from those of other groups.
func (s *Settings) Moves() (addrs []netip.Addr) {
	for _, g := range s.GroupAddresses {
		if g.Name == s.SyncGroup {
			for _, p := range g.Virtual {
				addrs = append(addrs, p.Addr())
			}
			return addrs
		}
	}
	return s.VirtualAddresses
}

// Group is a sync group and what it moves.
type Group struct {
	Name    string         `json:"name"`
	Virtual []netip.Prefix `json:"virtual"`
}

// Defaults of nodes that were not given.
const (
	DefaultPort         = 3780
	DefaultEventQueueMB = 128
	DefaultSyncQueueMB  = 16
	DefaultPurgeTimeout = 60 * time.Second
)

// DefaultMcastGroup is the group used where none is given.
var DefaultMcastGroup = netip.AddrFrom4([4]byte{225, 0, 0, 50})

// Multicast reports whether the sync link uses the multicast group; the check
// has made sure that all interfaces agree.
func (c *Config) Multicast() bool {
	return len(c.Interfaces) > 0 && !c.Interfaces[0].Peer.IsValid()
}

// Groups are the sync groups whose roles are followed, the sync-group first.
func (c *Config) Groups() []string { return append([]string{c.SyncGroup}, c.OtherGroups...) }

// ExpectAll reports whether expect-sync all was written: expectations of any
// helper, also those the tree has no word for.
func (c *Config) ExpectAll() bool { return slices.Equal(c.ExpectSync, allExpect) }

// AllExpect is what ExpectSync is when expect-sync all was written.
func AllExpect() []string { return slices.Clone(allExpect) }

// System answers what the checks must know of the machine.
type System interface {
	// Addrs returns the addresses of the named interface; ok is false when
	// there is no such interface.
	Addrs(name string) (addrs []netip.Addr, ok bool)
	// Local reports whether the address is assigned to any interface.
	Local(addr netip.Addr) bool
}

// VRRP is a System that also knows the sync groups of keepalived's
// configuration, which source names; none where nothing is known of them.
type VRRP interface {
	SyncGroups() (source string, groups []string)
}
