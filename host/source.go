package host

import (
	"github.com/conntrack-sync/conntrack-sync/host/bgp"
	"github.com/conntrack-sync/conntrack-sync/shim"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
)

// source is the shim as the routes follow it.
type source struct{ shim *shim.Shim }

func (s source) State() (st bgp.State, wake <-chan struct{}) {
	c, groups, wake := s.shim.RouteState()
	st.Conf = c
	for _, g := range groups {
		in := bgp.Input{Role: string(g.Role), Committed: g.Role == vrrpwatch.Master && g.Committed, Engine: g.Engine, Ready: g.InSync}
		for _, p := range g.Peers {
			in.Peers = append(in.Peers, bgp.Peer{Name: p.Address, Alive: p.Alive, Word: wordOf(&p, g.Name)})
		}
		st.Groups = append(st.Groups, bgp.Group{Name: g.Name, Input: in})
	}
	return st, wake
}

func wordOf(p *stats.Peer, group string) *stats.RouteWord {
	for i := range p.Routes {
		if p.Routes[i].Group == group {
			return &p.Routes[i]
		}
	}
	return nil
}

func (s source) Obstacle(why string) { s.shim.Obstacle("routes", why) }

func (s source) Announce(words []stats.RouteWord) { s.shim.Announce(words) }
