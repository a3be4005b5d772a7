package shim

import (
	"context"
	"path/filepath"
	"slices"
	"time"

	"github.com/conntrack-sync/conntrack-sync/plugin/contract"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
)

// group is what is known of a sync group.
type group struct {
	name   string
	role   vrrpwatch.Change
	since  time.Time
	serial int      // grows with each change of the role, a repeated one included
	done   int      // the last one whose sequence ran to its end
	taken  int      // the last one whose commit ended
	doubts []string // what speaks against the role

	receipt *receipt // of the role; nil before the first

	ready   stats.Readiness // at the last look
	peers   []stats.Peer    // the same
	guard   stats.Guard     // the same
	lowered string          // why the node has made itself less wanted: it handed over
	fault   bool            // and asks keepalived for FAULT
	handing bool            // a hand-over waits
	missed  time.Time       // since when no peer is MASTER after one
	inSync  bool            // the engine would carry its traffic, at the last look
}

// recordDir holds the roles the fifo gave.
func (s *Shim) recordDir() string { return filepath.Join(s.opt.RunDir, "roles") }

// adoptGroups makes the configured groups the ones that are followed; mu is held.
func (s *Shim) adoptGroups() {
	names := s.groupNames()
	for name := range s.groups {
		if !slices.Contains(names, name) {
			delete(s.groups, name)
		}
	}
	for i, name := range names {
		if s.groups[name] == nil {
			s.groups[name] = &group{name: name, lowered: s.wasLowered(name, i == 0)}
		}
	}
}

// groupNames are the configured groups, the sync-group first; mu is held.
func (s *Shim) groupNames() []string {
	if s.settings == nil {
		return nil
	}
	return s.settings.Groups()
}

// followedGroups are the same, for others.
func (s *Shim) followedGroups() (names []string) {
	s.view(func() { names = s.groupNames() })
	return names
}

// first is the sync-group, or an empty one; mu is held.
func (s *Shim) first() *group {
	if s.settings != nil {
		if g := s.groups[s.settings.SyncGroup]; g != nil {
			return g
		}
	}
	return &group{}
}

// watchRoles takes the changes of the configured sync groups.
func (s *Shim) watchRoles(ctx context.Context) error {
	w := vrrpwatch.New(vrrpwatch.Options{
		StateDir:  s.opt.StateDir,
		RecordDir: s.recordDir(),
		FIFO:      s.opt.VRRPFIFO,
		Groups:    s.followedGroups,
		Members:   s.members,
		Running:   s.opt.running,
		Report: func(name string, doubts []string) {
			s.change(func() {
				if g := s.groups[name]; g != nil {
					g.doubts = doubts
				}
			})
		},
		Log: s.log,
		Now: s.opt.Now,
	})
	return w.Run(ctx, s.onRole)
}

// follow keeps a follower running for each group.
func (s *Shim) follow(ctx context.Context) error {
	type follower struct {
		cancel context.CancelFunc
		ended  chan struct{}
	}
	running := map[*group]follower{}
	stop := func(g *group) {
		running[g].cancel()
		<-running[g].ended
		delete(running, g)
	}
	defer func() {
		for g := range running {
			stop(g)
		}
	}()
	for {
		var groups []*group
		wake := s.view(func() {
			for _, g := range s.groups {
				groups = append(groups, g)
			}
		})
		for g := range running {
			if !slices.Contains(groups, g) {
				stop(g)
			}
		}
		for _, g := range groups {
			if _, ok := running[g]; ok {
				continue
			}
			ctx, cancel := context.WithCancel(ctx)
			f := follower{cancel, make(chan struct{})}
			running[g] = f
			go func() {
				defer close(f.ended)
				s.followGroup(ctx, g)
			}()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
		}
	}
}

// engineOf is the running engine where it knows the group; mu is held.
func (s *Shim) engineOf(g *group) contract.Engine {
	if s.engine == nil || !slices.Contains(s.applied.Groups(), g.name) {
		return nil
	}
	return contract.Of(s.engine, g.name)
}
