package shim

import (
	"context"
	"net/http"
	"reflect"
	"slices"
	"time"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/plugin/contract"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// RouteGroup is what routes of a sync group follow.
type RouteGroup struct {
	GroupState
	InSync bool // the engine would carry the group's traffic
	Peers  []stats.Peer
}

// RouteState returns which routes are configured and what they follow, and a
// channel that is closed at the next change of it.
func (s *Shim) RouteState() (c *conf.BGP, groups []RouteGroup, wake <-chan struct{}) {
	wake = s.view(func() {
		if s.settings == nil {
			return
		}
		c = s.settings.BGP
		for _, st := range s.groupStates() {
			g := s.groups[st.Name]
			groups = append(groups, RouteGroup{GroupState: st, InSync: g.inSync, Peers: g.peers})
		}
	})
	return c, groups, wake
}

// Announce has the engine say on the sync link what became of the routes, now and
// after its restarts.
func (s *Shim) Announce(words []stats.RouteWord) {
	s.change(func() { s.words = words })
}

// Routes asks what became of the routes.
func (c *Client) Routes(ctx context.Context) (stats.Routes, error) {
	return get[stats.Routes](ctx, c, http.MethodGet, "/routes")
}

// tellRoutes brings the words to the engine: also to a new one, and again after each
// commit, since the engine takes a word back by itself when a reign ends.
func (s *Shim) tellRoutes(ctx context.Context) error {
	var told []stats.RouteWord
	served := 0
	for {
		var (
			e      contract.Engine
			words  []stats.RouteWord
			serial int // of the engine and of the reigns
		)
		wake := s.view(func() {
			e, words, serial = s.engine, s.words, s.serial
			for _, g := range s.groups {
				serial += g.taken
			}
		})
		if e != nil && words != nil && (served != serial || !slices.Equal(told, words)) {
			call, cancel := context.WithTimeout(ctx, time.Second)
			err := e.Announce(call, words)
			cancel()
			if err == nil {
				told, served = words, serial
				continue
			}
			if ctx.Err() == nil {
				s.log.Warn("the peers are not told of the routes", "err", err)
			}
			sleep(ctx, time.Second)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
		}
	}
}

// news reports whether what the engine says of a group is news to its routes; mu is
// held.
func (g *group) news(inSync bool, peers []stats.Peer) bool {
	return g.inSync != inSync || !reflect.DeepEqual(routesOf(g.peers), routesOf(peers))
}

// routesOf is what of peers concerns routes.
func routesOf(peers []stats.Peer) (out []stats.Peer) {
	for _, p := range peers {
		out = append(out, stats.Peer{Address: p.Address, Alive: p.Alive, Routes: p.Routes})
	}
	return out
}
