package bgp

import (
	"fmt"
	"slices"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

func (d dress) equal(x dress) bool {
	return d.none == x.none && d.med == x.med && d.prepend == x.prepend && d.draining == x.draining && slices.Equal(d.communities, x.communities)
}

func (d dress) document() *stats.Announced {
	a := &stats.Announced{Withdrawn: d.none, MED: d.med, Prepended: d.prepend, GracefulShutdown: d.draining}
	for _, c := range d.communities {
		a.Communities = append(a.Communities, c.String())
	}
	return a
}

// document is what an operator reads.
func (r *Router) document(st *State) stats.Routes {
	doc := stats.Routes{Sessions: []stats.RouteSession{}, Groups: []stats.RouteGroup{}, Routes: []stats.Route{}, Problems: []string{}}
	if r.conf == nil {
		return doc
	}
	doc.Configured = true
	l := r.link.view()
	if r.link != nil {
		doc.Speaker = r.link.speaker.Name()
	}
	doc.Connected, doc.AS, doc.Error = l.up, l.as, l.err
	if !l.since.IsZero() {
		doc.Since = l.since.Format(time.RFC3339)
	}
	for _, s := range l.sessions {
		doc.Sessions = append(doc.Sessions, stats.RouteSession{Neighbor: s.Neighbor, AS: s.AS, State: s.State, Up: s.Up})
		if s.Up {
			doc.Established++
		}
	}
	for i := range st.Groups {
		g := r.gates[st.Groups[i].Name]
		_, taken := r.stood(st.Groups[i].Name)
		doc.Groups = append(doc.Groups, stats.RouteGroup{Group: st.Groups[i].Name, Level: g.want.level.String(),
			Generation: g.want.generation, Draining: g.want.draining, Why: g.want.why, Taken: taken && l.up})
	}
	for _, x := range r.routes {
		y := stats.Route{Prefix: x.Prefix.String(), Group: x.group, Error: x.err, Kept: x.found}
		if g := r.gates[x.group]; g != nil {
			y.Wanted, y.Why = r.dress(g.want).String(), g.want.why
		}
		if x.gave {
			y.Level, y.Announced, y.Since = x.level.String(), x.worn.document(), x.since.Format(time.RFC3339)
			y.Text = x.worn.String()
		}
		doc.Routes = append(doc.Routes, y)
	}
	doc.Problems = append(obstacles(&doc), r.unheard(&doc)...)
	return doc
}

// obstacles are what speaks against a take-over and needs somebody's attention.
func obstacles(doc *stats.Routes) []string {
	list := []string{}
	switch {
	case !doc.Connected && doc.Error == "":
		list = append(list, fmt.Sprintf("routes: %s has not answered yet", doc.Speaker))
	case !doc.Connected:
		list = append(list, fmt.Sprintf("routes: %s is not reached, routes follow nothing: %s", doc.Speaker, doc.Error))
	case doc.Established == 0:
		list = append(list, fmt.Sprintf("routes: %s has no established session", doc.Speaker))
	}
	for _, x := range doc.Routes {
		if x.Error != "" && doc.Connected {
			list = append(list, fmt.Sprintf("routes: %s cannot be announced: %s", x.Prefix, x.Error))
		}
	}
	return list
}

// unheard are the address families of which nobody hears although other sessions are
// established, and for which there is nothing to wait. That keeps nobody from taking
// over: the peer may have no such session either.
func (r *Router) unheard(doc *stats.Routes) (list []string) {
	if !doc.Connected || doc.Established == 0 {
		return nil
	}
	l := r.link.view()
	for _, six := range []bool{false, true} {
		i := slices.IndexFunc(r.routes, func(x *route) bool { return x.Prefix.Addr().Is6() == six })
		if i < 0 {
			continue
		}
		prefix, carrying, hope := r.routes[i].Prefix, 0, false
		for _, s := range l.sessions {
			if s.carries(prefix) {
				carrying++
				hope = hope || s.Up || r.hopes(s, l.down[s.Neighbor])
			}
		}
		family := map[bool]string{false: "IPv4", true: "IPv6"}[six]
		switch {
		case hope:
		case carrying == 0:
			list = append(list, fmt.Sprintf("routes: no neighbour is configured for %s unicast, nobody hears of %s", family, prefix))
		default:
			list = append(list, fmt.Sprintf("routes: no session for %s unicast is established, nobody hears of %s", family, prefix))
		}
	}
	return list
}

// sessionWait is how long a session that is not established speaks against a
// take-over. One that comes back after a power loss waits for its neighbour's hold
// timer, commonly 90 s, when the neighbour has not seen the links go down; one that
// is away for longer is not about to come.
const sessionWait = 2 * time.Minute

// hopes reports that a session that is not established may come by itself.
func (r *Router) hopes(s Session, down time.Time) bool {
	return !s.Disabled && r.opt.Now().Sub(down) < sessionWait
}

// awaited is the session that routes would need after a take-over and that may
// still come.
func (r *Router) awaited() (s Session, waits bool) {
	l := r.link.view()
	for _, s := range l.sessions {
		if s.Up || !r.hopes(s, l.down[s.Neighbor]) {
			continue
		}
		if slices.ContainsFunc(r.routes, func(x *route) bool { return s.carries(x.Prefix) }) {
			return s, true
		}
	}
	return s, false
}

// notReady says why routes would not carry traffic here after a take-over: a
// session that they need is not established, or the speaker has not taken what is
// wanted.
func (r *Router) notReady(doc *stats.Routes) string {
	if !doc.Configured {
		return ""
	}
	if list := obstacles(doc); len(list) > 0 {
		return list[0]
	}
	if s, waits := r.awaited(); waits {
		return fmt.Sprintf("routes: the session with %s is not established yet", s.Neighbor)
	}
	for _, g := range doc.Groups {
		if !g.Taken {
			return "routes: the speaker has not taken them yet"
		}
	}
	return ""
}
