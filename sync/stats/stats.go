// Package stats holds what the engine counts and what it says of itself. The
// types are plain values with JSON tags: the same documents cross the plugin's
// RPC, the control socket and reach the operator as --json.
package stats

import (
	"maps"
	"slices"
	"strings"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

// Cache counts one cache. Active is the number of entries now; the others
// only grow, re-insertions included, and survive a flush.
type Cache struct {
	Active          uint64 `json:"active"`
	Created         uint64 `json:"created"`
	CreatedFailed   uint64 `json:"created_failed"`
	Updated         uint64 `json:"updated"`
	UpdatedFailed   uint64 `json:"updated_failed"`
	Destroyed       uint64 `json:"destroyed"`
	DestroyedFailed uint64 `json:"destroyed_failed"`
}

// Traffic sums the kernel's accounting of flows that ended
// (nf_conntrack_acct).
type Traffic struct {
	Bytes   uint64 `json:"bytes"`
	Packets uint64 `json:"packets"`
}

// Channel counts the datagrams of the active sync interface; bytes are UDP
// payload.
type Channel struct {
	Type        string `json:"type"` // multicast or udp
	Device      string `json:"device"`
	BytesSent   uint64 `json:"bytes_sent"`
	BytesRecv   uint64 `json:"bytes_recv"`
	PacketsSent uint64 `json:"packets_sent"`
	PacketsRecv uint64 `json:"packets_recv"`
	ErrorsSent  uint64 `json:"errors_sent"`
	ErrorsRecv  uint64 `json:"errors_recv"`
	// Refused counts datagrams thrown away before they were parsed, by reason.
	Refused map[string]uint64 `json:"refused,omitempty"`
}

// Link is one sync interface.
type Link struct {
	Interface   string  `json:"interface"`
	Address     string  `json:"address"` // group or peer that is sent to
	Port        uint16  `json:"port"`
	State       string  `json:"state"` // up, down, absent or failed
	MTU         int     `json:"mtu,omitempty"`
	Active      bool    `json:"active"` // the one that is sent on
	LastHeardMS *int64  `json:"last_heard_ms,omitempty"`
	Channel     Channel `json:"channel"`
}

// Tracking counts damaged and missing messages. Lost counts each missing
// message once, also those recovered afterwards.
type Tracking struct {
	Malformed uint64 `json:"malformed"`
	Lost      uint64 `json:"lost"`
}

// Main is one statistics block: connections, or expectations. Exactly one of
// CacheExternal and ExternalInject is set.
type Main struct {
	CacheInternal  Cache    `json:"cache_internal"`
	CacheExternal  *Cache   `json:"cache_external,omitempty"`
	ExternalInject *Cache   `json:"external_inject,omitempty"`
	Traffic        Traffic  `json:"traffic"`
	Channel        Channel  `json:"channel"`
	Tracking       Tracking `json:"tracking"`
}

// Statistics is the answer of "show conntrack-sync statistics".
type Statistics struct {
	Main   Main  `json:"main"`
	Expect *Main `json:"expect,omitempty"` // only with expect-sync
	// Drops counts everything thrown away or missed, by reason.
	Drops map[string]uint64 `json:"drops,omitempty"`
	// Excluded counts kernel events about flows that are never replicated, by class.
	Excluded map[string]uint64 `json:"excluded,omitempty"`
	// Session counts the work of the reliable session.
	Session map[string]uint64 `json:"session,omitempty"`
	// Inject describes direct injection: entries held, waiting, armed again, made anew,
	// refused by reason.
	Inject  map[string]uint64 `json:"inject,omitempty"`
	Runtime Runtime           `json:"runtime"`
	// Links counts each sync interface.
	Links []Link `json:"links"`
	// Groups are the counters of each sync group, where there are several; the
	// counters above are their sums.
	Groups map[string]Statistics `json:"groups,omitempty"`
}

// Runtime is what the engine does beside the caches.
type Runtime struct {
	Events         uint64 `json:"events_received"`    // of the kernel, excluded ones among them
	Comparisons    uint64 `json:"comparisons"`        // with the kernel's table
	EventBuffer    uint64 `json:"event_buffer_bytes"` // asked for
	Unacknowledged uint64 `json:"unacknowledged"`     // messages kept until the peers have them
	ResendLimit    uint64 `json:"resend_limit"`       // how many of those can be kept
}

// Commit is the account of the last commit of the external cache, or of the one
// that runs.
type Commit struct {
	// Trigger is what it began with: MASTER, the role; virtual address, its arrival
	// before the role; operator.
	Trigger string `json:"trigger"`
	Running bool   `json:"running,omitempty"`
	At      string `json:"at"` // RFC 3339
	// Total is how many entries there were to write when it began, Entries how many
	// are done; more may have come meanwhile.
	Total   int `json:"total"`
	Entries int `json:"entries"`
	// Early of the Entries were written before the role, by a commit that began so
	// long before this one.
	Early       int            `json:"early,omitempty"`
	EarlyLeadMS float64        `json:"early_lead_ms,omitempty"`
	FirstMS     float64        `json:"first_ms,omitempty"` // until the first entries were written
	Created     int            `json:"created"`
	Updated     int            `json:"updated"`
	Recreated   int            `json:"recreated"`
	Refused     map[string]int `json:"refused,omitempty"`
	DurationMS  float64        `json:"duration_ms"`
	// Ended are entries of this node's former reign that ended during the other's
	// and were removed from the kernel.
	Ended int `json:"ended,omitempty"`
	// Expects are the expectations there were, ExpectsWritten those the kernel took.
	Expects        int `json:"expects,omitempty"`
	ExpectsWritten int `json:"expects_written,omitempty"`
}

// Clone is a copy that shares nothing.
func (c *Commit) Clone() Commit {
	d := *c
	d.Refused = maps.Clone(c.Refused)
	return d
}

// CommitReport is the answer of "show conntrack-sync commit".
type CommitReport struct {
	Commit *Commit `json:"commit,omitempty"` // absent before the first
	// Refused names the entries the kernel refused, by reason, at most 1,000.
	Refused []Refusal `json:"refused"`
}

// Refusal is an entry the kernel refused: a flow or an expectation.
type Refusal struct {
	Reason string       `json:"reason"`
	Error  string       `json:"error"`
	Flow   *flow.Flow   `json:"flow,omitempty"`
	Expect *flow.Expect `json:"expect,omitempty"`
}

// SortRefusals sorts by reason and leaves the order within.
func SortRefusals(r []Refusal) {
	slices.SortStableFunc(r, func(a, b Refusal) int { return strings.Compare(a.Reason, b.Reason) })
}

// Guard says how the take-over guard stands.
type Guard struct {
	State        string `json:"state"` // disabled, absent, down, up, armed or window
	InputDrops   uint64 `json:"input_drops"`
	ForwardDrops uint64 `json:"forward_drops"`
	Problem      string `json:"problem,omitempty"`
}

// Peer is what is known of a node on the sync link.
type Peer struct {
	Address     string `json:"address"`
	Protocol    string `json:"protocol"` // spoken with it: conntrackd or native
	Software    string `json:"software"` // what it is and its release, "unknown" at first
	LastHeardMS int64  `json:"last_heard_ms"`
	Alive       bool   `json:"alive"`
	Unacked     int    `json:"unacknowledged"` // messages it has not said to have
	// The rest is known where our own protocol is spoken.
	Role  string `json:"role,omitempty"`
	Epoch uint32 `json:"epoch,omitempty"` // of its last reign
	// InSync says that its view of our table, or ours of its, was proven equal;
	// absent between nodes of which neither follows the other.
	InSync    *bool   `json:"in_sync,omitempty"`
	Differing int     `json:"differing,omitempty"` // buckets of 4096, at the last comparison
	ProvenMS  int64   `json:"proven_ms,omitempty"` // since the last proof, where in sync
	BehindMS  int64   `json:"behind_ms,omitempty"` // since the oldest of the unacknowledged messages was sent
	LagP50MS  float64 `json:"lag_p50_ms,omitempty"`
	LagP99MS  float64 `json:"lag_p99_ms,omitempty"`
	// Routes is what it says of its routes, a word for each sync group.
	Routes []RouteWord `json:"routes,omitempty"`
}

// Engine is what the engine says of itself; the shim makes a Status of it.
type Engine struct {
	Release   string            `json:"release"`
	Peers     []Peer            `json:"peers"`
	Links     []Link            `json:"links"`
	Excluded  map[string]uint64 `json:"excluded"`
	View      *View             `json:"view,omitempty"`     // with our own protocol
	Conflict  string            `json:"conflict,omitempty"` // another node that says it is MASTER, as this one does
	Commit    *Commit           `json:"commit,omitempty"`
	Guard     Guard             `json:"guard"`
	Filling   bool              `json:"filling,omitempty"`   // the internal cache is being read from the kernel
	Refilling bool              `json:"refilling,omitempty"` // a full copy of the peer's table is under way
	Purge     string            `json:"purge,omitempty"`     // RFC 3339 time at which the timed purge is due
	// Groups say the same of each sync group, where there are several; what stands
	// above is then the first one's, but for alarms and counters.
	Groups map[string]Engine `json:"groups,omitempty"`
	// ForeignGroup says that somebody sends of sync groups that are not configured
	// here.
	ForeignGroup bool `json:"foreign_group,omitempty"`
}

// View is what is known of the equality of this node's external cache with the
// table of the node it follows.
type View struct {
	InSync    bool   `json:"in_sync"`
	Entries   uint32 `json:"entries"`             // of the followed node's table
	Differing int    `json:"differing"`           // buckets of 4096, at the last comparison
	ProvenMS  int64  `json:"proven_ms,omitempty"` // since the last comparison that was equal
	Repaired  uint64 `json:"repaired"`            // flows that repairs found to differ
	Epoch     uint32 `json:"epoch"`               // the highest known
}

// Where is the answer of "show conntrack-sync flow": where the flows are that
// match.
type Where struct {
	Query     flow.Query    `json:"query"`
	Role      string        `json:"role,omitempty"`
	Flows     []Whereabouts `json:"flows"`
	Peers     []Asked       `json:"peers"`
	Truncated bool          `json:"truncated,omitempty"` // there are more
}

// Asked is a peer that was asked where flows are.
type Asked struct {
	Address  string `json:"address"`
	Role     string `json:"role,omitempty"`
	Answered bool   `json:"answered"`
	Why      string `json:"why,omitempty"` // it did not
}

// Whereabouts is where one flow is.
type Whereabouts struct {
	Flow  flow.Flow   `json:"flow"` // as one of the places has it
	Here  Places      `json:"here"`
	Sent  *bool       `json:"sent,omitempty"` // the peers were told of it; absent where it is not this node's
	Peers []PeerPlace `json:"peers"`
}

// PeerPlace is where a flow is on a peer.
type PeerPlace struct {
	Address string `json:"address"`
	// Acknowledged says that the peer has reported all that was sent about the
	// flow; absent where nothing was.
	Acknowledged *bool `json:"acknowledged,omitempty"`
	Places
}

// Places are those of a flow on one node; absent ones do not have it.
type Places struct {
	Kernel   *flow.Flow `json:"kernel,omitempty"`
	Internal *flow.Flow `json:"internal,omitempty"`
	External *flow.Flow `json:"external,omitempty"`
	Filtered string     `json:"filtered,omitempty"` // why the kernel's is not replicated
}

// Diff is the answer of "show conntrack-sync diff".
type Diff struct {
	View  *View  `json:"view,omitempty"` // of the node that is followed; absent on a MASTER
	Peers []Peer `json:"peers"`
	// Found are the flows that the last repairs found to differ, oldest first, at
	// most 1,000: what is different now is among them once it is repaired.
	Found []Difference `json:"found"`
	// Groups are the same of each sync group, where there are several; what stands
	// above is of all of them, the view the first one's.
	Groups map[string]Diff `json:"groups,omitempty"`
}

// Difference is a flow that a repair found.
type Difference struct {
	At   string    `json:"at"`   // RFC 3339
	Kind string    `json:"kind"` // missing, stale or differing, in this node's view
	Flow flow.Flow `json:"flow"`
}

// Readiness says whether this node would carry the traffic now.
type Readiness struct {
	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons"`
}

// Configuration names what is loaded and what was refused since.
type Configuration struct {
	Files  []string `json:"files"`
	Errors []string `json:"errors"`
}

// Plugin describes the engine process.
type Plugin struct {
	PID      int    `json:"pid,omitempty"`
	Release  string `json:"release,omitempty"`
	Restarts int    `json:"restarts"`
	UpSince  string `json:"up_since,omitempty"` // RFC 3339
}

// Status is the answer of "show conntrack-sync status".
type Status struct {
	SyncInterface  string   `json:"sync_interface"` // SyncInterfaces joined with ", "
	SyncInterfaces []string `json:"sync_interfaces"`
	Failover       string   `json:"failover_mechanism"` // vrrp
	SyncGroup      string   `json:"sync_group"`
	LastTransition string   `json:"last_transition"` // "" before the first
	SyncProtocols  []string `json:"sync_protocols"`  // expectations, in printing order

	Release       string        `json:"release"` // of this command's daemon; the engine's is in Plugin
	Role          string        `json:"role"`
	Since         string        `json:"since,omitempty"`
	Configuration Configuration `json:"configuration"`
	Plugin        Plugin        `json:"plugin"`
	Peers         []Peer        `json:"peers"`
	Links         []Link        `json:"links"`
	Alarms        []string      `json:"alarms"` // what is wrong now, one line each
	Readiness     Readiness     `json:"readiness"`
	View          *View         `json:"view,omitempty"`
	// Excluded counts kernel events about flows that are not replicated, by class.
	Excluded map[string]uint64 `json:"excluded"`
	Commit   *Commit           `json:"commit,omitempty"`
	Guard    Guard             `json:"guard"`
	// Groups say of each sync group, where there are several, what is said above of
	// the sync-group.
	Groups []GroupStatus `json:"groups,omitempty"`
}

// GroupStatus is how a node stands in one sync group.
type GroupStatus struct {
	Group     string    `json:"group"`
	Role      string    `json:"role"`
	Since     string    `json:"since,omitempty"`
	Readiness Readiness `json:"readiness"`
	Peers     []Peer    `json:"peers"`
	View      *View     `json:"view,omitempty"`
	Commit    *Commit   `json:"commit,omitempty"`
	Guard     Guard     `json:"guard"`
}
