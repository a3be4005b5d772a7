package shim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
)

// HandOver is how a hand-over is wanted.
type HandOver struct {
	Group  string // "" is the sync-group
	Force  bool   // a short break, where priorities move nothing
	Cancel bool   // be wanted again
	// Wait is how long each of its two parts may take: until the peer is in sync,
	// and until keepalived gives the role away.
	Wait time.Duration
}

const handOverWait = 30 * time.Second

var (
	errNotMaster   = errors.New("this node is not MASTER, it has nothing to hand over")
	errNotLowered  = errors.New("this node has not handed over, there is nothing to cancel")
	errNoSuchGroup = errors.New("no such sync group is configured")
)

// HandOver gives the MASTER role to a peer that is in sync, by making this node
// less wanted through the file keepalived tracks, and returns when keepalived has
// made it BACKUP; otherwise everything is as it was before. The node stays less
// wanted, so that it does not take the role back by itself, until it is told to or
// the peer is not MASTER any more.
func (s *Shim) HandOver(ctx context.Context, h HandOver) error {
	if h.Wait <= 0 {
		h.Wait = handOverWait
	}
	var g *group
	path := ""
	var names []string
	s.view(func() {
		names = s.groupNames()
		for i, name := range names {
			if name == h.Group || h.Group == "" && i == 0 {
				g, path = s.groups[name], s.readyPath(name, i == 0)
			}
		}
	})
	switch {
	case !s.configured():
		return ErrNotConfigured
	case g == nil:
		return fmt.Errorf("%w: %s; configured: %s", errNoSuchGroup, h.Group, strings.Join(names, " "))
	case h.Cancel:
		return s.cancelHandOver(g)
	}
	if err := s.canHandOver(g, path, h.Force); err != nil {
		return err
	}
	s.change(func() { g.handing = true })
	defer s.change(func() { g.handing = false })
	if err := s.await(ctx, h.Wait, func() error { return s.peerInSync(g) }); err != nil {
		return fmt.Errorf("not handed over: %w", err)
	}
	s.log.Info("handing over", "group", g.name, "force", h.Force)
	why := handedOver + " at " + s.opt.Now().Format(time.RFC3339)
	s.lower(g, why, h.Force)
	err := s.await(ctx, h.Wait, func() error { return s.given(g) })
	if err != nil {
		s.lower(g, "", false)
		return fmt.Errorf("keepalived did not give the role away within %v, this node is as wanted as before: %w", h.Wait, err)
	}
	s.log.Info("handed over", "group", g.name)
	if h.Force {
		err = s.await(ctx, h.Wait, func() error { return s.peerMaster(g) })
		if s.noPreempt(g) {
			why = "" // the role stays where it is
		}
		s.lower(g, why, false)
	}
	return err
}

func (s *Shim) noPreempt(g *group) bool {
	k := s.knownKeepalived()
	return k != nil && k.NoPreempt(g.name)
}

func (s *Shim) cancelHandOver(g *group) error {
	was := ""
	s.view(func() { was = g.lowered })
	if was == "" {
		return errNotLowered
	}
	s.lower(g, "", false)
	s.log.Info("the hand-over is cancelled: this node is as wanted as before", "group", g.name)
	return nil
}

// canHandOver says why priorities would move nothing.
func (s *Shim) canHandOver(g *group, path string, force bool) (err error) {
	s.view(func() {
		k := s.keepalived.Keepalived
		switch {
		case g.role.State != vrrpwatch.Master:
			err = errNotMaster
		case k == nil || !k.HasGroup(g.name):
			// Whether the file is followed is not known: the wait will tell.
		case !tracked(k, g.name, path):
			err = fmt.Errorf("keepalived does not follow %s for sync group %s: give the group a track_file with it (docs/KEEPALIVED.md)", path, g.name)
		case k.NoPreempt(g.name) && !force:
			err = fmt.Errorf("instances of sync group %s have nopreempt: priorities move nothing; --force hands over through FAULT, a short break", g.name)
		}
	})
	return err
}

func tracked(k *vrrpwatch.Keepalived, group, path string) bool {
	_, ok := k.Tracks(group, path)
	return ok
}

// await calls ok after each change and each look until it has no objection; the
// last one is returned when the time is up.
func (s *Shim) await(ctx context.Context, limit time.Duration, ok func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	t := time.NewTicker(lookEvery / 4)
	defer t.Stop()
	for {
		var err error
		wake := s.view(func() { err = ok() })
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-t.C:
		case <-wake:
		}
	}
}

// lower makes the node less wanted, or with "" as wanted as before.
func (s *Shim) lower(g *group, why string, fault bool) {
	s.change(func() { g.lowered, g.fault = why, fault })
	s.lookNow()
}

// peerInSync says why no peer could take over without losing a flow; mu is held.
func (s *Shim) peerInSync(g *group) error {
	alive := slices.DeleteFunc(slices.Clone(g.peers), func(p stats.Peer) bool { return !p.Alive })
	if len(alive) == 0 {
		return errors.New("no peer is heard")
	}
	var err error
	for _, p := range alive {
		switch {
		case p.InSync == nil && p.Protocol != "native" && p.Unacked == 0, p.InSync != nil && *p.InSync:
			return nil
		case p.InSync == nil:
			err = fmt.Errorf("peer %s does not hold this node's table", p.Address)
		default:
			err = fmt.Errorf("peer %s is not in sync, %d of 4096 buckets differ", p.Address, p.Differing)
		}
	}
	return err
}

// given says that the role is still here; mu is held.
func (s *Shim) given(g *group) error {
	if g.role.State == vrrpwatch.Master {
		return errors.New("the role is still MASTER")
	}
	return nil
}

// peerMaster says that no peer is MASTER yet; mu is held.
func (s *Shim) peerMaster(g *group) error {
	for _, p := range g.peers {
		if p.Alive && (p.Role == string(vrrpwatch.Master) || p.Protocol != "native") {
			return nil
		}
	}
	return errors.New("no peer says that it is MASTER")
}

// leaveLowered is how long a node that handed over lets its peer not be MASTER.
const leaveLowered = 3 * time.Second

// watchLowered makes a node that handed over as wanted as before when the peer it
// handed over to is lost.
func (s *Shim) watchLowered() {
	now := s.opt.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.groups {
		if g.lowered == "" || g.handing || s.peerMaster(g) == nil || s.engine == nil || s.young() {
			g.missed = time.Time{}
			continue
		}
		if g.missed.IsZero() {
			g.missed = now
		}
		if now.Sub(g.missed) >= leaveLowered {
			g.lowered = ""
			s.log.Warn("the peer this node handed over to is not MASTER any more: this node is as wanted as before", "group", g.name)
		}
	}
}
