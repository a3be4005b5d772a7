package groups

import (
	"context"
	"fmt"
	"slices"

	"github.com/conntrack-sync/conntrack-sync/conf"
)

// Configure starts an engine for each new group, stops those of groups that are
// gone and gives the others their settings. What cannot be had leaves everything as
// it was.
func (g *Groups) Configure(ctx context.Context, s conf.Settings) error {
	g.configMu.Lock()
	defer g.configMu.Unlock()
	if g.stopped {
		return fmt.Errorf("configure a stopped engine: %w", context.Canceled)
	}
	names, before := s.Groups(), g.all()
	next, fresh := g.arrange(names, before)
	was := g.kernel.classes.Load()
	now := newClasses(names, s.GroupAddresses)
	g.adopt(next, now)
	for i, m := range next {
		if err := m.Configure(ctx, settingsOf(s, names[i])); err != nil {
			g.retreat(ctx, before, was, fresh)
			return err
		}
	}
	for i, m := range next {
		m.rename(names[i])
	}
	gone := slices.DeleteFunc(slices.Clone(before), func(m *member) bool { return slices.Contains(next, m) })
	if err := g.stop(ctx, gone); err != nil {
		g.opt.Log.Warn("the engine of a group that is gone does not stop in order", "err", err)
	}
	if was != nil && !now.equal(was) {
		return g.regroup(ctx, next, fresh)
	}
	return nil
}

// arrange finds or makes the engine of each name. A node with one group keeps its
// engine whatever the group is called.
func (g *Groups) arrange(names []string, before []*member) (next, fresh []*member) {
	if len(names) == 1 && len(before) == 1 {
		return before, nil
	}
	for i, name := range names {
		j := slices.IndexFunc(before, func(m *member) bool { return m.name() == name })
		if j >= 0 {
			next = append(next, before[j])
			continue
		}
		m := g.member(name, i == 0)
		next, fresh = append(next, m), append(fresh, m)
	}
	return next, fresh
}

// adopt makes the engines and the classes those of now.
func (g *Groups) adopt(list []*member, c *classes) {
	g.mu.Lock()
	g.members = slices.Clone(list)
	g.mu.Unlock()
	members := slices.Clone(list)
	g.link.members.Store(&members)
	g.kernel.classes.Store(c)
}

// retreat goes back to what there was before a configuration that cannot be had.
func (g *Groups) retreat(ctx context.Context, before []*member, was *classes, fresh []*member) {
	if was != nil {
		g.adopt(before, was)
	}
	if err := g.stop(ctx, fresh); err != nil {
		g.opt.Log.Warn("an engine that could not be configured does not stop in order", "err", err)
	}
	if was == nil {
		g.mu.Lock()
		g.members = nil
		g.mu.Unlock()
	}
}

// regroup has flows that belong to another group now change hands: each engine
// compares what it holds with the kernel's flows of its group.
func (g *Groups) regroup(ctx context.Context, list, fresh []*member) error {
	for _, m := range list {
		if slices.Contains(fresh, m) {
			continue // it has just read them
		}
		if err := m.Resync(ctx); err != nil {
			return fmt.Errorf("flows change their sync group: %w", err)
		}
	}
	return nil
}
