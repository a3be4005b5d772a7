// Package host is what a routing host imports: Load gives it a running
// conntrack-sync in a few lines.
package host

import (
	"context"

	"github.com/conntrack-sync/conntrack-sync/shim"
)

// Options say where things are; see shim.Options.
type Options = shim.Options

// GroupState is what a host may act upon, of one sync group; see shim.GroupState.
type GroupState = shim.GroupState

// Handle is a loaded conntrack-sync.
type Handle struct {
	shim   *shim.Shim
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// Load starts conntrack-sync in the background; it ends with ctx or by Close.
// What goes wrong later, a configuration that cannot be used at the start among
// it, is what Wait returns.
func Load(ctx context.Context, opt Options) *Handle {
	ctx, cancel := context.WithCancel(ctx)
	h := &Handle{shim: shim.New(opt), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(h.done)
		h.err = h.shim.Run(ctx)
	}()
	return h
}

// Watch calls fn with the states of the sync groups, at once and after each
// change, until ctx ends; see shim.Shim.Watch.
func (h *Handle) Watch(ctx context.Context, fn func([]GroupState)) error {
	return h.shim.Watch(ctx, fn)
}

// Obstacle says, under a name of the caller's, why this node should not take over
// from a peer yet; "" takes it back. A MASTER stays one.
func (h *Handle) Obstacle(who, why string) { h.shim.Obstacle(who, why) }

// Wait returns when conntrack-sync has ended; nil when it was told to.
func (h *Handle) Wait() error {
	<-h.done
	return h.err
}

// Close stops it in order and waits.
func (h *Handle) Close() error {
	h.cancel()
	return h.Wait()
}
