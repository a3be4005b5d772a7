// Package host is what a routing host imports: Load gives it a running
// conntrack-sync in a few lines, with roles, readiness and events to act upon.
// Routes of an embedded BGP server follow the roles when the host hands it over;
// otherwise those of the gobgpd that the configuration names.
package host

import (
	"context"

	"github.com/conntrack-sync/conntrack-sync/host/bgp"
	"github.com/conntrack-sync/conntrack-sync/shim"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// Options say where things are, as shim.Options do, and which speaker's routes
// follow the roles.
type Options struct {
	shim.Options
	// Speaker is the host's own, see bgp.Embedded; nil: the gobgpd of the
	// configuration.
	Speaker bgp.Speaker
}

// GroupState is what a host may act upon, of one sync group; see shim.GroupState.
type GroupState = shim.GroupState

// Handle is a loaded conntrack-sync.
type Handle struct {
	shim   *shim.Shim
	router *bgp.Router
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// Load starts conntrack-sync in the background; it ends with ctx or by Close.
// What goes wrong later, a configuration that cannot be used at the start among
// it, is what Wait returns.
func Load(ctx context.Context, opt Options) *Handle {
	ctx, cancel := context.WithCancel(ctx)
	h := &Handle{cancel: cancel, done: make(chan struct{})}
	h.router = bgp.New(bgp.Options{Speaker: opt.Speaker, Log: opt.Log, Now: opt.Now})
	opt.Routes = h.router.Routes
	h.shim = shim.New(opt.Options)
	go func() {
		defer close(h.done)
		h.err = h.run(ctx)
	}()
	return h
}

// run ends when the shim does; the routes are left last but one, while the engine
// can still say so.
func (h *Handle) run(ctx context.Context) error {
	routes, stop := context.WithCancel(ctx)
	left := make(chan struct{})
	go func() {
		defer close(left)
		_ = h.router.Run(routes, source{h.shim})
	}()
	err := h.shim.Run(ctx)
	stop()
	<-left
	return err
}

// Roles are the sync groups and their states now, in order of the configuration.
func (h *Handle) Roles() []GroupState { return h.shim.Groups() }

// Watch calls fn with the states of the sync groups, at once and after each
// change, until ctx ends; see shim.Shim.Watch.
func (h *Handle) Watch(ctx context.Context, fn func([]GroupState)) error {
	return h.shim.Watch(ctx, fn)
}

// Obstacle says, under a name of the caller's, why this node should not take over
// from a peer yet; "" takes it back. A MASTER stays one.
func (h *Handle) Obstacle(who, why string) { h.shim.Obstacle(who, why) }

// Status is the document of "show conntrack-sync status".
func (h *Handle) Status(ctx context.Context) (stats.Status, error) { return h.shim.Status(ctx) }

// Readiness says whether this node would carry the traffic now, and if not why.
func (h *Handle) Readiness(ctx context.Context) (stats.Readiness, error) {
	st, err := h.shim.Status(ctx)
	return st.Readiness, err
}

// Routes is the document of "show conntrack-sync routes".
func (h *Handle) Routes() stats.Routes { return h.router.Routes() }

// Wait returns when conntrack-sync has ended; nil when it was told to.
func (h *Handle) Wait() error {
	<-h.done
	return h.err
}

// Close stops it in order and waits. Routes of a MASTER stay announced.
func (h *Handle) Close() error {
	h.cancel()
	return h.Wait()
}
