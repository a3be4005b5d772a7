// Package bgp ties routes to roles: what gobgp announces follows the role of a
// sync group, and the commit that makes a new MASTER hold the state. What is
// wanted is decided by a pure gate for each group; the rest brings it to an
// embedded speaker or a gobgpd, and says what became of it.
package bgp

import (
	"context"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// Source is what a Router follows.
type Source interface {
	// State is what is true now, and a channel that is closed at the next change.
	State() (State, <-chan struct{})
	// Announce passes on what the peers are told. It does not block.
	Announce(words []stats.RouteWord)
	// Obstacle says why this node should not take over yet; "" that nothing of the
	// routes speaks against it.
	Obstacle(why string)
}

// State is what a Router is told.
type State struct {
	Conf   *conf.BGP // nil: no routes follow
	Groups []Group   // that are followed, the default one first
}

// Group is a sync group.
type Group struct {
	Name string
	Input
}

// Options are a Router's surroundings.
type Options struct {
	Speaker Speaker // nil: the gobgpd of the configuration
	Log     *slog.Logger
	Now     func() time.Time // nil: time.Now

	verify time.Duration // how often the speaker's paths are looked at; 0: verifyEvery
}

// Router makes routes follow roles. Make one with New; Run does the work.
type Router struct {
	opt Options
	log *slog.Logger

	// Of Run alone.
	conf   *conf.BGP
	gates  map[string]*gate
	met    map[string]bool // groups whose announced paths were looked at
	routes []*route
	link   *link
	served int // serial of the connection that was met
	verify time.Time
	words  []stats.RouteWord

	obstacle string

	mu  sync.Mutex
	doc stats.Routes
}

// route is one prefix.
type route struct {
	conf.BGPPrefix
	group string

	looked bool // the speaker was asked
	held   bool // it has a path of its own now
	found  bool // it had one before ours
	origin attributes
	base   attributes

	level Level // that it was last given
	worn  dress // likewise
	gave  bool  // it was given anything
	since time.Time
	err   string
}

const (
	callTimeout = time.Second
	verifyEvery = 5 * time.Second
)

// New makes a Router.
func New(opt Options) *Router {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.verify == 0 {
		opt.verify = verifyEvery
	}
	return &Router{opt: opt, log: opt.Log, gates: map[string]*gate{}, met: map[string]bool{}}
}

// Run follows src until ctx ends. Paths of a MASTER stay behind; a standby that
// is not looked after any more becomes unready.
func (r *Router) Run(ctx context.Context, src Source) error {
	defer r.disconnect()
	for {
		st, wake := src.State()
		r.configure(ctx, &st)
		at := r.turn(ctx, &st)
		r.tell(src, &st)
		var changed <-chan struct{}
		if r.link != nil {
			changed = r.link.changed
		}
		if !sleep(ctx, r.opt.Now(), at, wake, changed) {
			r.leave(&st)
			return ctx.Err()
		}
	}
}

// sleep waits for one of its reasons; false when it is ctx's end.
func sleep(ctx context.Context, now, at time.Time, wake, changed <-chan struct{}) bool {
	var timer <-chan time.Time
	if !at.IsZero() {
		t := time.NewTimer(at.Sub(now))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-wake:
	case <-changed:
	case <-timer:
	}
	return ctx.Err() == nil
}

// turn decides and carries out, and returns when the next turn is due by itself.
func (r *Router) turn(ctx context.Context, st *State) (wake time.Time) {
	if r.conf == nil {
		return wake
	}
	now := r.opt.Now()
	l := r.link.view()
	if l.up && r.served != l.serial {
		if r.meet(ctx, l) {
			r.served = l.serial
		} else {
			wake = now.Add(reconnectMax)
		}
	}
	for i := range st.Groups {
		g := r.gates[st.Groups[i].Name]
		before := g.want
		w, at := g.step(now, &st.Groups[i].Input)
		wake = earliest(wake, at)
		if !w.same(before) {
			r.log.Info("routes", "group", st.Groups[i].Name, "level", w.level.String(), "generation", w.generation, "why", w.why)
			if g.exhausted() {
				r.log.Warn("routes: no better path is left to announce: raise bgp master med", "group", st.Groups[i].Name, "med", r.conf.MasterMED)
			}
		}
	}
	if !l.up || r.served != l.serial {
		return wake
	}
	ok := r.assert(ctx, l) // first: a take-over waits for no look
	if ok && now.Sub(r.verify) >= r.opt.verify {
		r.look(ctx)
		r.verify = now
		ok = r.assert(ctx, l)
	}
	if !ok {
		return earliest(wake, now.Add(reconnectMax))
	}
	return earliest(wake, r.verify.Add(r.opt.verify))
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// assert gives the speaker every path that it was not given yet; false when it
// does not take one.
func (r *Router) assert(ctx context.Context, l linkView) (ok bool) {
	ok = true
	for _, x := range r.routes {
		g := r.gates[x.group]
		if g == nil {
			continue
		}
		d := r.dress(g.want)
		if x.gave && x.worn.equal(d) && x.held != d.none {
			x.level, x.err = g.want.level, ""
			continue
		}
		if err := r.give(ctx, x, d, l.as); err != nil {
			if x.err == "" {
				r.log.Error("a route cannot be announced", "prefix", x.Prefix, "as", d.String(), "err", err)
			}
			x.err, ok = err.Error(), false
			return ok // the speaker is gone or refuses: the others would wait
		}
		if !x.gave || !x.worn.equal(d) {
			x.since = r.opt.Now()
			r.log.Info("route", "prefix", x.Prefix, "now", d.String(), "why", g.want.why)
		}
		x.gave, x.worn, x.level, x.err, x.held = true, d, g.want.level, "", !d.none
	}
	return ok
}

// dress is what is announced for what is wanted. Where all neighbours are in the
// own AS nothing is put in front: to them that is a loop, and a gobgpd that hears
// one goes on using the path before, which was the MASTER's.
func (r *Router) dress(w want) dress {
	d := dressFor(r.conf, w)
	l := r.link.view()
	external := func(s Session) bool { return s.AS != l.as }
	if len(l.sessions) > 0 && !slices.ContainsFunc(l.sessions, external) {
		d.prepend = 0
	}
	return d
}

// give brings one prefix to the speaker.
func (r *Router) give(ctx context.Context, x *route, d dress, as uint32) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s := r.link.speaker
	if d.none {
		if !x.held {
			return nil
		}
		return s.Delete(ctx, x.Prefix)
	}
	attrs, err := d.put(x.base, as)
	if err != nil {
		return err
	}
	return s.Add(ctx, x.Prefix, attrs)
}

// tell passes on to the peers and to the operator what became of it.
func (r *Router) tell(src Source, st *State) {
	words := make([]stats.RouteWord, 0, len(st.Groups))
	for i := range st.Groups {
		g := &st.Groups[i]
		if r.conf == nil {
			words = append(words, stats.RouteWord{Group: g.Name, Settled: g.Role == master && g.Committed})
			continue
		}
		stood, taken := r.stood(g.Name)
		words = append(words, r.gates[g.Name].word(g.Name, &g.Input, stood, taken))
	}
	if !slices.Equal(words, r.words) {
		r.words = words
		src.Announce(slices.Clone(words))
	}
	doc := r.document(st)
	if why := r.notReady(&doc); why != r.obstacle {
		r.obstacle = why
		src.Obstacle(why)
	}
	r.mu.Lock()
	r.doc = doc
	r.mu.Unlock()
}

// stood is the best level that the group's routes were last given, and whether
// all of them were given what is wanted now.
func (r *Router) stood(group string) (most Level, taken bool) {
	taken = true
	for _, x := range r.routes {
		if x.group != group {
			continue
		}
		most = max(most, x.level)
		taken = taken && x.gave && x.err == "" && x.worn.equal(r.dress(r.gates[group].want))
	}
	return most, taken
}

// configure makes what is configured now the thing to do.
func (r *Router) configure(ctx context.Context, st *State) {
	for _, g := range st.Groups {
		if r.gates[g.Name] == nil && st.Conf != nil {
			r.gates[g.Name] = newGate(st.Conf)
		}
	}
	if reflect.DeepEqual(st.Conf, r.conf) {
		return
	}
	former := r.conf
	r.conf = st.Conf
	for _, g := range r.gates {
		if st.Conf != nil {
			g.conf = st.Conf
		}
	}
	r.adoptRoutes(ctx, st)
	switch {
	case st.Conf == nil:
		r.disconnect()
		clear(r.gates)
		clear(r.met)
	case former == nil || r.opt.Speaker == nil && former.API != st.Conf.API:
		r.disconnect()
		r.connect(ctx)
	}
}

// adoptRoutes keeps what is known of the prefixes that stay and lets go of the
// others.
func (r *Router) adoptRoutes(ctx context.Context, st *State) {
	var next []*route
	if st.Conf != nil {
		for _, p := range st.Conf.Prefixes {
			x := &route{BGPPrefix: p, group: p.SyncGroup}
			if i := slices.IndexFunc(r.routes, func(o *route) bool { return o.Prefix == p.Prefix }); i >= 0 {
				x = r.routes[i]
				x.BGPPrefix, x.group = p, p.SyncGroup
			}
			if x.group == "" && len(st.Groups) > 0 {
				x.group = st.Groups[0].Name
			}
			next = append(next, x)
		}
	}
	for _, x := range r.routes {
		if !slices.Contains(next, x) {
			r.letGo(ctx, x)
		}
	}
	r.routes = next
	r.served = 0 // those that are new are to be looked at
}

// letGo gives a prefix that is not configured any more back: to what the speaker
// had before, or to nobody.
func (r *Router) letGo(ctx context.Context, x *route) {
	if !x.gave || r.link == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var err error
	switch s := r.link.speaker; {
	case x.found:
		err = s.Add(ctx, x.Prefix, x.origin)
	case x.held:
		err = s.Delete(ctx, x.Prefix)
	}
	r.log.Info("route does not follow a role any more", "prefix", x.Prefix, "given_back", x.found, "err", err)
}

// leave is the last thing done: a standby whose table nobody keeps up is unready.
func (r *Router) leave(st *State) {
	if r.conf == nil || r.link == nil {
		return
	}
	for i := range st.Groups {
		if g := r.gates[st.Groups[i].Name]; st.Groups[i].Role != master && g.want.level == Standby {
			g.want = want{why: "conntrack-sync was stopped"}
		}
	}
	if l := r.link.view(); l.up && r.served == l.serial {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		defer cancel()
		r.assert(ctx, l)
	}
}

// Routes is what "show conntrack-sync routes" answers.
func (r *Router) Routes() stats.Routes {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.doc
}
