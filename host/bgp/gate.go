package bgp

import (
	"fmt"
	"time"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// Level is how good a path a node announces.
type Level int

// The levels, the worst first.
const (
	Unready Level = iota
	Standby
	Master
)

// String is the level's name for operators.
func (l Level) String() string { return [...]string{"unready", "standby", "master"}[l] }

// Input is what a sync group's gate is told.
type Input struct {
	Role      string // one of keepalived's words, "" while it is not known
	Committed bool   // MASTER, and the commit of this reign is over
	Engine    bool   // it runs
	Ready     bool   // it would carry the traffic: proven equal, or nobody is heard
	Peers     []Peer
}

// Peer is another node on the sync link.
type Peer struct {
	Name  string
	Alive bool
	Word  *stats.RouteWord // nil: it has none, as a conntrackd
}

// says reports whether the peer is there and has a word.
func (p *Peer) says() bool { return p.Alive && p.Word != nil }

// want is what is to be announced.
type want struct {
	level      Level
	generation uint32 // of a Master path
	draining   bool   // GRACEFUL_SHUTDOWN is on it
	why        string
}

// same reports whether both are announced alike.
func (w want) same(x want) bool { x.why = w.why; return w == x }

// gate decides what one sync group's prefixes are announced with. It is pure:
// what happens goes in with the time, what is wanted comes out.
type gate struct {
	conf *conf.BGP
	want want

	chosen bool            // a generation was chosen, or found announced
	left   bool            // not MASTER since
	told   bool            // a peer's own MASTER path was heard of since
	firm   bool            // it was compared with a peer's
	known  uint32          // the highest generation known to stand
	ghosts map[string]bool // whether peers' MASTER paths stood when they were last heard

	quiet    time.Time // since when no peer has a word; zero while one has
	calm     time.Time // since when nobody else has a MASTER path
	down     time.Time // since when a standby is not ready
	up       time.Time // since when an unready node is
	headless time.Time // since when a MASTER that has not committed has no engine
	drained  time.Time // end of draining
	doubt    bool      // it gave its path up with nobody there
	rises    []time.Time
}

const (
	// calmFor is how long nobody else may have a MASTER path before the MASTER's
	// goes back to the configured MED.
	calmFor = 10 * time.Second
	// riseAfter is how long an unready node must be ready before its path is
	// improved; it doubles with each time that this happened lately.
	riseAfter  = time.Second
	riseMost   = time.Minute
	riseMemory = 10 * time.Minute
)

const (
	master = "MASTER"
	backup = "BACKUP"
)

func newGate(c *conf.BGP) *gate {
	return &gate{conf: c, ghosts: map[string]bool{}, want: want{why: "no role is known yet"}}
}

// adopt takes over what was found announced, by an earlier run of this program,
// before anything was announced by this one. A reign of this run is a new one.
func (g *gate) adopt(l Level, generation uint32) {
	g.known = max(g.known, generation)
	if g.chosen {
		g.left = true
		return
	}
	g.want = want{level: l, generation: generation, why: "found announced at the start"}
	g.chosen, g.left = l == Master, false
}

// step takes what is true now and returns what is wanted, and when to ask again
// if nothing happens before; zero is never.
func (g *gate) step(now time.Time, in *Input) (w want, wake time.Time) {
	if in.Role != master && in.Role != "" && !g.left {
		// Who took over has the grace time to say so.
		g.left, g.told, g.quiet = true, false, time.Time{}
	}
	g.listen(now, in)
	switch {
	case in.Role == master && in.Committed:
		wake = g.reign(now, in)
	case in.Role == master:
		wake = g.await(now, in)
	case g.want.level == Master:
		wake = g.release(now, in)
	case in.Role != "":
		wake = g.follow(now, in)
	}
	return g.want, wake
}

// listen takes the peers' words.
func (g *gate) listen(now time.Time, in *Input) {
	words := false
	for _, p := range in.Peers {
		if !p.says() {
			continue
		}
		words = true
		g.ghosts[p.Name] = p.Word.Raised
		g.told = g.told || p.Word.Raised
		switch {
		case p.Word.Settled && in.Role != master:
			g.known = p.Word.Generation // it may have gone back
		case p.Word.Raised:
			g.known = max(g.known, p.Word.Generation)
		}
	}
	switch {
	case words:
		g.quiet = time.Time{}
	case g.quiet.IsZero():
		g.quiet = now
	}
	if in.Role != master || in.Committed || in.Engine {
		g.headless = time.Time{}
	}
}

// await is for a MASTER whose commit is not over: what was announced stays. One
// that has no engine has nothing to commit, and is the only way there is.
func (g *gate) await(now time.Time, in *Input) (wake time.Time) {
	g.want.why = "MASTER, the commit is not over"
	if in.Engine {
		return wake
	}
	if g.headless.IsZero() {
		g.headless = now
	}
	if at := g.headless.Add(g.conf.Grace); now.Before(at) {
		return at
	}
	wake = g.reign(now, in)
	g.want.why = "MASTER without an engine: nothing can be committed"
	return wake
}

// reign is for a MASTER that has committed: its path is better than that of any
// earlier one.
func (g *gate) reign(now time.Time, in *Input) (wake time.Time) {
	g.doubt, g.down, g.up = false, time.Time{}, time.Time{}
	switch gen := g.want.generation; {
	case g.want.level != Master, g.want.draining, g.left, !g.chosen,
		// What a peer remembers may be this node's own path.
		!g.firm && anyone(in, anyPath) && highest(in, anyPath) > gen,
		highest(in, leftPath) >= gen && anyone(in, leftPath):
		g.choose(in)
	}
	g.firm = g.firm || anyone(in, anyPath)
	g.want.why = "MASTER and committed"
	return g.settle(now, in)
}

// settle takes the path back to the configured MED once nobody else can have one
// that it has to beat.
func (g *gate) settle(now time.Time, in *Input) (wake time.Time) {
	if g.want.generation == 0 || !g.alone(in) {
		g.calm = time.Time{}
		return wake
	}
	if g.calm.IsZero() {
		g.calm = now
	}
	if at := g.calm.Add(calmFor); now.Before(at) {
		return at
	}
	g.want.generation, g.known = 0, 0
	return wake
}

// choose picks a generation above every one that is known. A node that was MASTER
// and has heard of no other's path since leaves room for one.
func (g *gate) choose(in *Input) {
	step := uint64(1)
	if g.chosen && g.left && !g.told {
		step = 2
	}
	n := uint64(max(g.known, g.want.generation, highest(in, anyPath))) + step
	g.want = want{level: Master, generation: uint32(min(n, uint64(g.conf.MasterMED)))}
	g.known = g.want.generation
	g.firm = anyone(in, anyPath)
	g.chosen, g.left, g.calm = true, false, time.Time{}
}

// exhausted reports that no better path can be announced.
func (g *gate) exhausted() bool {
	return g.want.level == Master && g.want.generation >= g.conf.MasterMED
}

// Kinds of words.
func anyPath(*stats.RouteWord) bool       { return true }
func masterPath(w *stats.RouteWord) bool  { return w.Raised || w.Settled }
func settledPath(w *stats.RouteWord) bool { return w.Settled }

// leftPath is the path of a node that is not a settled MASTER. Two of those are
// for keepalived to settle: each would go on beating the other.
func leftPath(w *stats.RouteWord) bool { return w.Raised && !w.Settled }

// highest is the highest generation in the peers' words of a kind.
func highest(in *Input, kind func(*stats.RouteWord) bool) (n uint32) {
	for _, p := range in.Peers {
		if p.says() && kind(p.Word) {
			n = max(n, p.Word.Generation)
		}
	}
	return n
}

// anyone reports whether a peer has a word of a kind.
func anyone(in *Input, kind func(*stats.RouteWord) bool) bool { return first(in, kind) != nil }

func first(in *Input, kind func(*stats.RouteWord) bool) *Peer {
	for i := range in.Peers {
		if p := &in.Peers[i]; p.says() && kind(p.Word) {
			return p
		}
	}
	return nil
}

// alone reports that a peer is there, and that nobody, heard or not, is known to
// have a MASTER path besides this node.
func (g *gate) alone(in *Input) bool {
	for _, raised := range g.ghosts {
		if raised {
			return false
		}
	}
	return anyone(in, anyPath) && !anyone(in, masterPath)
}

// release is for a node that is not MASTER any more and still has its path: it
// keeps it until a new MASTER says that it took over, or nobody is there to say
// so.
func (g *gate) release(now time.Time, in *Input) (wake time.Time) {
	if g.want.draining {
		if now.Before(g.drained) {
			return g.drained
		}
		return g.lower(now, in)
	}
	if p := first(in, settledPath); p != nil {
		g.want.why = p.Name + " has taken over"
		if g.conf.GracefulShutdown == 0 {
			return g.lower(now, in)
		}
		g.drained = now.Add(g.conf.GracefulShutdown)
		g.want.draining, g.want.why = true, g.want.why+", draining"
		return g.drained
	}
	if g.quiet.IsZero() {
		g.want.why = "not MASTER any more, no peer has taken over yet"
		return wake
	}
	if at := g.quiet.Add(g.conf.Grace); now.Before(at) {
		g.want.why = fmt.Sprintf("not MASTER any more, no peer is heard: kept for %v", g.conf.Grace)
		return at
	}
	g.doubt = true
	g.want.why = fmt.Sprintf("not MASTER any more, and no peer was heard for %v", g.conf.Grace)
	return g.lower(now, in)
}

// lower gives the MASTER's path up. A BACKUP has the time that a standby has to
// be proven equal, unless nobody is there who took over.
func (g *gate) lower(now time.Time, in *Input) (wake time.Time) {
	why := g.want.why
	g.want = want{}
	g.down, g.up = time.Time{}, time.Time{}
	if in.Role == backup && !g.doubt {
		g.want.level = Standby
	}
	if in.Role != "" {
		wake = g.follow(now, in)
	}
	g.want.why = why
	return wake
}

// follow is for a node that is not MASTER and has no MASTER path. What makes its
// path worse waits for the grace time where it may pass by itself; what makes it
// better waits the longer the more often it happened.
func (g *gate) follow(now time.Time, in *Input) (wake time.Time) {
	alive := false
	for _, p := range in.Peers {
		alive = alive || p.Alive
	}
	g.doubt = g.doubt && !(in.Ready && alive)
	switch {
	case in.Role != backup:
		g.unready(in.Role)
	case g.doubt:
		g.unready("BACKUP, and no peer is heard since this node was MASTER")
	case in.Ready && g.want.level == Standby:
		g.down, g.want.why = time.Time{}, "BACKUP and in sync"
	case in.Ready:
		return g.rise(now)
	case g.want.level == Standby:
		return g.sink(now)
	default:
		g.unready("BACKUP, not in sync")
	}
	return wake
}

func (g *gate) unready(why string) {
	g.up, g.down, g.want = time.Time{}, time.Time{}, want{why: why}
}

func (g *gate) sink(now time.Time) (wake time.Time) {
	if g.down.IsZero() {
		g.down = now
	}
	if at := g.down.Add(g.conf.Grace); now.Before(at) {
		g.want.why = fmt.Sprintf("BACKUP, not in sync: kept for %v", g.conf.Grace)
		return at
	}
	g.unready("BACKUP, not in sync")
	return wake
}

func (g *gate) rise(now time.Time) (wake time.Time) {
	if g.up.IsZero() {
		g.up = now
	}
	if at := g.up.Add(g.riseDelay(now)); now.Before(at) {
		g.want.why = "BACKUP and in sync, not for long enough"
		return at
	}
	g.up, g.rises = time.Time{}, append(g.rises, now)
	g.want = want{level: Standby, why: "BACKUP and in sync"}
	return wake
}

// riseDelay doubles with each time the path was improved lately.
func (g *gate) riseDelay(now time.Time) time.Duration {
	for len(g.rises) > 0 && now.Sub(g.rises[0]) > riseMemory {
		g.rises = g.rises[1:]
	}
	d := riseAfter
	for range g.rises {
		d = min(2*d, riseMost)
	}
	return d
}

// word is what the peers are told. stood is what the speaker was last given, and
// taken whether it said that it has what is wanted now.
func (g *gate) word(group string, in *Input, stood Level, taken bool) stats.RouteWord {
	w := stats.RouteWord{Group: group, Generation: g.known, Raised: stood == Master || g.want.level == Master}
	if g.want.level == Master {
		w.Generation = g.want.generation
	}
	w.Settled = in.Role == master && in.Committed && taken
	return w
}
