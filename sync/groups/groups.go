// Package groups runs an engine for each sync group behind one kernel and one
// sync link, so that a node can be MASTER of one group and BACKUP of another. Each
// group has its own role, epoch, session, caches and flows: those that its virtual
// addresses tell. With a single group it adds nothing, on the link or elsewhere.
package groups

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/sync/engine"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// Groups is the engines of a node. Calls say in their context which group they are
// about, or mean all.
type Groups struct {
	opt    engine.Options
	asked  func(context.Context) string // the group a call is about, "" for all
	kernel kernelShare
	link   linkShare

	configMu sync.Mutex // one Configure or Stop at a time
	stopped  bool

	mu      sync.Mutex // guards members
	members []*member  // in order of the configuration
}

// member is a group and its engine.
type member struct {
	*engine.Engine
	id atomic.Pointer[identity]
}

type identity struct {
	name string
	tag  wire.GroupTag
}

func (m *member) name() string { return m.id.Load().name }

func (m *member) rename(name string) { m.id.Store(&identity{name, wire.TagOf(name)}) }

var errNotConfigured = errors.New("the engine is not configured")

// New makes Groups out of the surroundings of an engine; asked says which group a
// call is about.
func New(opt engine.Options, asked func(context.Context) string) *Groups {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	g := &Groups{opt: opt, asked: asked}
	g.kernel.open, g.link.open = opt.OpenKernel, opt.OpenLink
	return g
}

// member makes an engine that shares kernel and link with the others.
func (g *Groups) member(name string, first bool) *member {
	m := &member{}
	m.rename(name)
	opt := g.opt
	if !first {
		opt.Log = opt.Log.With("group", name)
	}
	opt.OpenKernel = func() (engine.Kernel, error) {
		v, err := g.kernel.view(m)
		if err != nil {
			return nil, err // not a typed nil in the interface
		}
		return v, nil
	}
	opt.OpenLink = func(c engine.LinkConfig) (engine.Link, error) { return g.link.view(m, c) }
	m.Engine = engine.New(opt)
	return m
}

// all are the engines of now.
func (g *Groups) all() []*member {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.members)
}

// about are the engines a call is about.
func (g *Groups) about(ctx context.Context) ([]*member, error) { return g.named(g.asked(ctx)) }

func (g *Groups) named(name string) ([]*member, error) {
	all := g.all()
	switch {
	case len(all) == 0:
		return nil, errNotConfigured
	case name == "" || len(all) == 1:
		return all, nil
	}
	for _, m := range all {
		if m.name() == name {
			return []*member{m}, nil
		}
	}
	return nil, fmt.Errorf("no sync group %s is configured", name)
}

// each calls fn for the engines a call is about.
func (g *Groups) each(ctx context.Context, fn func(*engine.Engine) error) error {
	list, err := g.about(ctx)
	for _, m := range list {
		err = errors.Join(err, fn(m.Engine))
	}
	return err
}

// SetRole tells the role of a group.
func (g *Groups) SetRole(ctx context.Context, group, role string) error {
	list, err := g.named(group)
	if err != nil {
		return err
	}
	return list[0].SetRole(ctx, group, role)
}

// Announce says what became of this node's routes: on every group's session, so
// that whoever follows a group hears it there.
func (g *Groups) Announce(ctx context.Context, words []stats.RouteWord) error {
	return g.each(ctx, func(e *engine.Engine) error { return e.Announce(ctx, words) })
}

// Flush, Resync and the other commands are the engine's, for one group or for all.
func (g *Groups) Flush(ctx context.Context, t flow.Table) error {
	return g.each(ctx, func(e *engine.Engine) error { return e.Flush(ctx, t) })
}

func (g *Groups) Resync(ctx context.Context) error {
	return g.each(ctx, func(e *engine.Engine) error { return e.Resync(ctx) })
}

func (g *Groups) Bulk(ctx context.Context) error {
	return g.each(ctx, func(e *engine.Engine) error { return e.Bulk(ctx) })
}

func (g *Groups) RequestResync(ctx context.Context) error {
	return g.each(ctx, func(e *engine.Engine) error { return e.RequestResync(ctx) })
}

func (g *Groups) ShortenTimers(ctx context.Context) error {
	return g.each(ctx, func(e *engine.Engine) error { return e.ShortenTimers(ctx) })
}

// Ping answers once every engine does.
func (g *Groups) Ping(ctx context.Context) error {
	for _, m := range g.all() {
		if err := m.Ping(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Flows hands the entries over, group by group.
func (g *Groups) Flows(ctx context.Context, t flow.Table, fn func([]flow.Flow) error) error {
	return g.each(ctx, func(e *engine.Engine) error { return e.Flows(ctx, t, fn) })
}

// Expects are the expectations of one group or of all.
func (g *Groups) Expects(ctx context.Context, t flow.Table) (all []flow.Expect, err error) {
	err = g.each(ctx, func(e *engine.Engine) error {
		some, err := e.Expects(ctx, t)
		all = append(all, some...)
		return err
	})
	return all, err
}

// Stop ends all engines and waits.
func (g *Groups) Stop(ctx context.Context) error {
	g.configMu.Lock()
	defer g.configMu.Unlock()
	g.stopped = true
	return g.stop(ctx, g.all())
}

func (g *Groups) stop(ctx context.Context, list []*member) error {
	var err error
	for _, m := range list {
		err = errors.Join(err, m.Stop(ctx))
	}
	return err
}

// settingsOf are what the engine of one group is told: all virtual addresses, since
// none of them is the router's own, and which are its own.
func settingsOf(s conf.Settings, name string) conf.Settings {
	one := s
	one.SyncGroup, one.OtherGroups, one.GroupAddresses = name, nil, nil
	for _, g := range s.GroupAddresses {
		if g.Name == name {
			one.GroupAddresses = []conf.Group{g}
		}
	}
	return one
}
