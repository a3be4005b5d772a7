// Package contract is what a host and the engine process agree on: the Engine
// interface, the go-plugin handshake, and the gRPC adapters on both sides.
// Protobuf stays inside the adapters.
//
// Flows cross as protobuf messages in batches. Settings, statistics and status
// cross as the JSON documents they already are for the operator: one schema
// serves both, and an older side skips members it does not know.
package contract

import (
	"context"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// Settings and Table are defined where the engine, which knows nothing of RPC,
// can name them too.
type (
	Settings = conf.Settings
	Table    = flow.Table
)

// The tables an operation can be about.
const (
	Both     = flow.Both
	Internal = flow.Internal
	External = flow.External
)

// Engine is the plugin, as its host sees it. Every method may be called from
// any goroutine; each returns when its work is done, or with ctx's error.
type Engine interface {
	// Configure starts the engine, or applies changed settings to a running
	// one without dropping its caches. At the first call the internal cache is
	// filled from the kernel.
	Configure(ctx context.Context, s Settings) error
	// SetRole tells the role of a sync group, one of keepalived's words. The
	// take-over guard follows it: it stands while the role is known and not MASTER,
	// and in a new MASTER until Commit has ended.
	SetRole(ctx context.Context, group, role string) error
	// Announce says on the sync link what became of this node's routes.
	Announce(ctx context.Context, words []stats.RouteWord) error
	// Commit writes the external cache into the kernel and returns when the
	// last entry is written, those included that arrived meanwhile. A second
	// call while one runs waits for that one and runs again. What was written
	// because a virtual address had arrived is not written again. In a MASTER
	// its end lowers the take-over guard.
	Commit(ctx context.Context) (stats.Commit, error)
	// Flush empties caches. The peers are told of what leaves the internal one.
	Flush(ctx context.Context, t Table) error
	// Resync compares the internal cache with the kernel's table and mends it;
	// peers are sent the differences.
	Resync(ctx context.Context) error
	// Bulk sends the whole internal cache to the peers. It returns when the
	// copy has been handed to the link or queued behind live updates.
	Bulk(ctx context.Context) error
	// RequestResync asks the peers for their tables.
	RequestResync(ctx context.Context) error
	// ShortenTimers arms the purge; a second call while armed changes nothing.
	// Commit, and Flush of Both or Internal, disarm it.
	ShortenTimers(ctx context.Context) error
	// Flows hands the entries of one cache over in batches; fn must not keep
	// the slice.
	Flows(ctx context.Context, t Table, fn func([]flow.Flow) error) error
	// Expects returns the expectations of one cache; an error where they are not
	// replicated.
	Expects(ctx context.Context, t Table) ([]flow.Expect, error)
	// Statistics and Status are snapshots.
	Statistics(ctx context.Context) (stats.Statistics, error)
	Status(ctx context.Context) (stats.Engine, error)
	// Diff says whether this node's view and the peers' were proven equal, and what
	// repairs found to differ.
	Diff(ctx context.Context) (stats.Diff, error)
	// CommitReport is the account of the last commit, with what the kernel refused.
	CommitReport(ctx context.Context) (stats.CommitReport, error)
	// Where says where the flows are that match: here, on the way and on the peers.
	Where(ctx context.Context, q flow.Query) (stats.Where, error)
	// Ping answers at once when the engine's loop is alive: it waits for
	// nothing but the lock that serves events.
	Ping(ctx context.Context) error
	// Stop ends the engine in order: sockets closed, nothing left running. The
	// process exits afterwards.
	Stop(ctx context.Context) error
}
