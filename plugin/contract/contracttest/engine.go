// Package contracttest has an engine for the tests of hosts: a process that
// answers like an engine and touches nothing. Only tests use it.
package contracttest

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/conntrack-sync/conntrack-sync/plugin/contract"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// Main makes the test binary an engine where a host has launched it as one: then
// it never returns. It is the first thing that TestMain calls; the host's Plugin
// is os.Executable.
func Main() {
	if os.Getenv(contract.Handshake.MagicCookieKey) != contract.Handshake.MagicCookieValue {
		return
	}
	contract.Serve(&engine{}, func() { os.Exit(0) })
	os.Exit(0)
}

// engine answers what a host asks for by itself; of the rest it has nothing.
type engine struct {
	contract.Engine

	mu     sync.Mutex
	commit *stats.Commit
}

func (*engine) Configure(context.Context, contract.Settings) error       { return nil }
func (*engine) SetRole(context.Context, string, string) error            { return nil }
func (*engine) Announce(context.Context, []stats.RouteWord) error        { return nil }
func (*engine) Flush(context.Context, contract.Table) error              { return nil }
func (*engine) Resync(context.Context) error                             { return nil }
func (*engine) Bulk(context.Context) error                               { return nil }
func (*engine) RequestResync(context.Context) error                      { return nil }
func (*engine) ShortenTimers(context.Context) error                      { return nil }
func (*engine) Ping(context.Context) error                               { return nil }
func (*engine) Stop(context.Context) error                               { return nil }
func (*engine) Statistics(context.Context) (s stats.Statistics, _ error) { return s, nil }

// Commit has written ten entries.
func (e *engine) Commit(context.Context) (stats.Commit, error) {
	c := stats.Commit{Trigger: "MASTER", At: time.Now().Format(time.RFC3339), Total: 10, Entries: 10, Created: 10}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.commit = &c
	return c, nil
}

// Status says that a peer is there.
func (e *engine) Status(context.Context) (stats.Engine, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return stats.Engine{Peers: []stats.Peer{{Address: "192.0.2.2", Alive: true}}, Commit: e.commit}, nil
}
