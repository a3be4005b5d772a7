package bgp

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"pgregory.net/rapid"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func peer(words string, generation uint32) []Peer {
	if words == "" {
		return nil
	}
	p := Peer{Name: "b", Alive: !strings.Contains(words, "silent")}
	if !strings.Contains(words, "conntrackd") {
		p.Word = &stats.RouteWord{Group: "SG", Settled: strings.Contains(words, "settled"), Raised: strings.Contains(words, "raised"), Generation: generation}
	}
	return []Peer{p}
}

// event is a moment of a script: what is true from then on, and what must be
// wanted at that moment.
type event struct {
	at         time.Duration
	role       string
	committed  bool
	ready      bool
	noEngine   bool
	peer       string // words: alive, settled, raised, silent, conntrackd
	generation uint32
	want       string
}

func TestGate(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	for _, tt := range []struct {
		name   string
		conf   func(c *conf.BGP)
		script []event
	}{
		{"a pair's life", nil, []event{
			{at: 0, want: "unready"},
			{at: 0, role: "BACKUP", want: "unready"},
			{at: 1 * s, role: "BACKUP", ready: true, peer: "alive settled raised", generation: 0, want: "unready"},
			{at: 2 * s, role: "BACKUP", ready: true, peer: "alive settled raised", generation: 0, want: "standby"},
			{at: 3 * s, role: "MASTER", ready: true, peer: "alive raised", generation: 0, want: "standby"},
			{at: 3*s + 20*ms, role: "MASTER", committed: true, peer: "alive raised", generation: 0, want: "master 1"},
			{at: 4 * s, role: "MASTER", committed: true, peer: "alive", generation: 1, want: "master 1"},
			{at: 13 * s, role: "MASTER", committed: true, peer: "alive", generation: 1, want: "master 1"},
			{at: 14 * s, role: "MASTER", committed: true, peer: "alive", generation: 1, want: "master 0"},
			{at: 15 * s, role: "MASTER", committed: true, peer: "alive", generation: 1, want: "master 0"},
			{at: 16 * s, role: "BACKUP", peer: "alive", generation: 0, want: "master 0"},
			{at: 60 * s, role: "BACKUP", peer: "alive", generation: 0, want: "master 0"},
			{at: 61 * s, role: "BACKUP", peer: "alive settled raised", generation: 1, want: "standby"},
			{at: 63 * s, role: "BACKUP", peer: "alive settled raised", generation: 1, want: "standby"},
			{at: 64 * s, role: "BACKUP", peer: "alive settled raised", generation: 1, want: "unready"},
		}},
		{"a dead MASTER's path is beaten", nil, []event{
			{at: 0, role: "BACKUP", ready: true, peer: "alive settled raised", generation: 4, want: "unready"},
			{at: 1 * s, role: "BACKUP", ready: true, peer: "alive settled raised", generation: 4, want: "standby"},
			{at: 2 * s, role: "MASTER", committed: true, peer: "silent settled raised", generation: 4, want: "master 5"},
			// Its path may stand for ever: nothing goes back.
			{at: 200 * s, role: "MASTER", committed: true, peer: "silent settled raised", generation: 4, want: "master 5"},
			{at: 201 * s, role: "MASTER", committed: true, peer: "alive raised", generation: 4, want: "master 5"},
			{at: 202 * s, role: "MASTER", committed: true, peer: "alive", generation: 5, want: "master 5"},
			{at: 213 * s, role: "MASTER", committed: true, peer: "alive", generation: 5, want: "master 0"},
		}},
		{"the link is cut: room is left for a reign nobody heard of", nil, []event{
			{at: 0, role: "MASTER", committed: true, peer: "alive", want: "master 1"},
			{at: 11 * s, role: "MASTER", committed: true, peer: "alive", want: "master 0"},
			{at: 12 * s, role: "BACKUP", peer: "silent", want: "master 0"},
			{at: 14 * s, role: "BACKUP", peer: "silent", want: "master 0"},
			{at: 15 * s, role: "BACKUP", peer: "silent", want: "unready"},
			{at: 20 * s, role: "MASTER", committed: true, peer: "silent", want: "master 2"},
			{at: 21 * s, role: "BACKUP", peer: "silent", want: "master 2"},
			{at: 22 * s, role: "MASTER", committed: true, peer: "silent", want: "master 4"},
		}},
		{"the engine dies under a MASTER: nothing moves", nil, []event{
			{at: 0, role: "MASTER", committed: true, peer: "alive", want: "master 1"},
			{at: 1 * s, role: "MASTER", committed: true, noEngine: true, want: "master 1"},
			{at: 100 * s, role: "MASTER", committed: true, noEngine: true, want: "master 1"},
		}},
		{"the engine dies under a BACKUP", nil, []event{
			{at: 0, role: "BACKUP", ready: true, peer: "alive settled raised", want: "unready"},
			{at: 1 * s, role: "BACKUP", ready: true, peer: "alive settled raised", want: "standby"},
			{at: 2 * s, role: "BACKUP", noEngine: true, want: "standby"},
			{at: 4 * s, role: "BACKUP", ready: true, peer: "alive settled raised", want: "standby"},
			{at: 5 * s, role: "BACKUP", noEngine: true, want: "standby"},
			{at: 9 * s, role: "BACKUP", noEngine: true, want: "unready"},
		}},
		{"a MASTER that has no engine is still the only way", nil, []event{
			{at: 0, role: "MASTER", noEngine: true, want: "unready"},
			{at: 3 * s, role: "MASTER", noEngine: true, want: "master 1"},
			{at: 4 * s, role: "MASTER", want: "master 1"},
			{at: 5 * s, role: "MASTER", committed: true, want: "master 1"},
		}},
		{"FAULT keeps the path until the other has taken over", nil, []event{
			{at: 0, role: "MASTER", committed: true, peer: "alive", want: "master 1"},
			{at: 1 * s, role: "FAULT", peer: "alive", want: "master 1"},
			{at: 2 * s, role: "FAULT", peer: "alive settled raised", generation: 2, want: "unready"},
			{at: 3 * s, role: "FAULT", ready: true, peer: "alive settled raised", generation: 2, want: "unready"},
		}},
		{"a conntrackd says nothing", nil, []event{
			{at: 0, role: "MASTER", committed: true, peer: "alive conntrackd", want: "master 1"},
			{at: 100 * s, role: "BACKUP", ready: true, peer: "alive conntrackd", want: "master 1"},
			{at: 103 * s, role: "BACKUP", ready: true, peer: "alive conntrackd", want: "unready"},
			{at: 103*s + 500*ms, role: "BACKUP", ready: true, peer: "alive conntrackd", want: "unready"},
			{at: 104 * s, role: "BACKUP", ready: true, peer: "alive conntrackd", want: "standby"},
		}},
		{"draining", func(c *conf.BGP) { c.GracefulShutdown = 10 * s }, []event{
			{at: 0, role: "MASTER", committed: true, peer: "alive", want: "master 1"},
			{at: 1 * s, role: "BACKUP", peer: "alive", want: "master 1"},
			{at: 2 * s, role: "BACKUP", peer: "alive settled raised", generation: 2, want: "master 1 draining"},
			{at: 3 * s, role: "BACKUP", ready: true, peer: "alive settled raised", generation: 2, want: "master 1 draining"},
			{at: 12 * s, role: "BACKUP", ready: true, peer: "alive settled raised", generation: 2, want: "standby"},
		}},
		{"draining ends with a new reign", func(c *conf.BGP) { c.GracefulShutdown = 10 * s }, []event{
			{at: 0, role: "MASTER", committed: true, peer: "alive", want: "master 1"},
			{at: 1 * s, role: "BACKUP", peer: "alive settled raised", generation: 2, want: "master 1 draining"},
			{at: 2 * s, role: "MASTER", peer: "alive raised", generation: 2, want: "master 1 draining"},
			{at: 3 * s, role: "MASTER", committed: true, peer: "alive raised", generation: 2, want: "master 3"},
		}},
		{"a repeated MASTER is the same reign", nil, []event{
			{at: 0, role: "MASTER", committed: true, peer: "alive", want: "master 1"},
			{at: 1 * s, role: "MASTER", peer: "alive", want: "master 1"},
			{at: 2 * s, role: "MASTER", committed: true, peer: "alive", want: "master 1"},
		}},
		{"chosen alone, compared when a peer is heard", nil, []event{
			{at: 0, role: "MASTER", committed: true, want: "master 1"},
			{at: 1 * s, role: "MASTER", committed: true, peer: "alive", generation: 7, want: "master 8"},
			{at: 2 * s, role: "MASTER", committed: true, peer: "alive", generation: 9, want: "master 8"},
		}},
		{"what a peer remembers is this node's own path", nil, []event{
			{at: 0, role: "MASTER", committed: true, want: "master 1"},
			{at: 1 * s, role: "MASTER", committed: true, peer: "alive", generation: 1, want: "master 1"},
		}},
		{"a peer's own path is as good", nil, []event{
			{at: 0, role: "MASTER", committed: true, want: "master 1"},
			{at: 1 * s, role: "MASTER", committed: true, peer: "alive raised", generation: 1, want: "master 2"},
		}},
		{"two settled MASTERs do not outbid each other", nil, []event{
			{at: 0, role: "MASTER", committed: true, peer: "alive settled raised", generation: 3, want: "master 4"},
			{at: 1 * s, role: "MASTER", committed: true, peer: "alive settled raised", generation: 5, want: "master 4"},
		}},
		{"flapping readiness is damped", nil, []event{
			{at: 0, role: "BACKUP", ready: true, peer: "alive", want: "unready"},
			{at: 1 * s, role: "BACKUP", ready: true, peer: "alive", want: "standby"},
			{at: 2 * s, role: "BACKUP", peer: "alive", want: "standby"},
			{at: 5 * s, role: "BACKUP", peer: "alive", want: "unready"},
			{at: 6 * s, role: "BACKUP", ready: true, peer: "alive", want: "unready"},
			{at: 7 * s, role: "BACKUP", ready: true, peer: "alive", want: "unready"},
			{at: 8 * s, role: "BACKUP", ready: true, peer: "alive", want: "standby"},
		}},
		{"the MED has an end", func(c *conf.BGP) { c.MasterMED = 2 }, []event{
			{at: 0, role: "MASTER", committed: true, peer: "alive", generation: 1, want: "master 2"},
			{at: 1 * s, role: "BACKUP", peer: "alive", generation: 1, want: "master 2"},
			{at: 2 * s, role: "MASTER", committed: true, peer: "alive raised", generation: 4294967295, want: "master 2"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &conf.BGP{MasterMED: 100, StandbyMED: 200, Grace: 3 * s}
			if tt.conf != nil {
				tt.conf(c)
			}
			g := newGate(c)
			for i, e := range tt.script {
				w, _ := g.step(t0.Add(e.at), &Input{Role: e.role, Committed: e.committed, Ready: e.ready, Engine: !e.noEngine, Peers: peer(e.peer, e.generation)})
				got := w.level.String()
				if w.level == Master {
					got += fmt.Sprint(" ", w.generation)
				}
				if w.draining {
					got += " draining"
				}
				if got != e.want {
					t.Fatalf("line %d, %v: %s (%s), want %s", i+1, e.at, got, w.why, e.want)
				}
				if w.why == "" {
					t.Errorf("line %d does not say why", i+1)
				}
			}
		})
	}
}

// TestGateAsksAgain: a gate that is asked again when it said decides the same as
// one that is asked all the time.
func TestGateAsksAgain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := &conf.BGP{MasterMED: 100, StandbyMED: 200, Grace: 3 * time.Second, GracefulShutdown: time.Duration(rapid.IntRange(0, 5).Draw(t, "drain")) * time.Second}
		lazy, eager := newGate(c), newGate(c)
		var due time.Time
		now := t0
		for range rapid.IntRange(1, 20).Draw(t, "changes") {
			in := drawInput(t)
			for until := now.Add(time.Duration(rapid.IntRange(1, 300).Draw(t, "tenths")) * 100 * time.Millisecond); now.Before(until); now = now.Add(100 * time.Millisecond) {
				want, _ := eager.step(now, &in)
				if due.IsZero() || !now.Before(due) || now.Add(100*time.Millisecond).After(until) {
					_, due = lazy.step(now, &in)
					if due.IsZero() {
						due = now.Add(time.Hour)
					}
				}
				if !lazy.want.same(want) {
					t.Fatalf("%v: %+v, asked all the time %+v", now.Sub(t0), lazy.want, want)
				}
			}
			due = time.Time{} // something changes
		}
	})
}

func drawInput(t *rapid.T) Input {
	in := Input{Role: rapid.SampledFrom([]string{"", "MASTER", "BACKUP", "FAULT", "STOP"}).Draw(t, "role"),
		Ready: rapid.Bool().Draw(t, "ready"), Engine: rapid.Bool().Draw(t, "engine")}
	in.Committed = in.Role == "MASTER" && rapid.Bool().Draw(t, "committed")
	in.Peers = peer(rapid.SampledFrom([]string{"", "alive", "alive raised", "alive settled raised", "silent raised", "alive conntrackd"}).Draw(t, "peer"),
		uint32(rapid.IntRange(0, 5).Draw(t, "generation")))
	return in
}

// TestGatePromises: whatever happens, a path gets the MASTER's attributes only on
// a MASTER that has committed (or has no engine to commit with), better than any
// that was heard of, and a MASTER keeps them; who was MASTER keeps them until
// somebody took over or nobody was heard for the grace time.
func TestGatePromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := &conf.BGP{MasterMED: 1000, StandbyMED: 2000, Grace: 3 * time.Second}
		g := newGate(c)
		now := t0
		var quiet time.Time
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			in := drawInput(t)
			now = now.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "tenths")) * 100 * time.Millisecond)
			speaks, settled := len(in.Peers) > 0 && in.Peers[0].says(), false
			if speaks {
				settled = in.Peers[0].Word.Settled
				quiet = time.Time{}
			} else if quiet.IsZero() {
				quiet = now
			}
			before := g.want
			w, _ := g.step(now, &in)
			was, is := before.level == Master, w.level == Master
			switch {
			case is && !was && (in.Role != "MASTER" || !in.Committed && in.Engine):
				t.Fatalf("MASTER attributes with %+v", in)
			case is && !was && speaks && w.generation <= in.Peers[0].Word.Generation:
				t.Fatalf("generation %d is not better than %+v", w.generation, in.Peers[0].Word)
			case was && !is && in.Role == "MASTER":
				t.Fatalf("a MASTER gave its path up: %s", w.why)
			case was && !is && !settled && (speaks || now.Sub(quiet) < c.Grace):
				t.Fatalf("given up with nobody there to take it: %s, %+v", w.why, in)
			}
		}
	})
}

// TestTwoGates: of two nodes that hear each other's words, one step late, the one
// that took over last announces the better path at every moment, whatever froze
// meanwhile.
func TestTwoGates(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := &conf.BGP{MasterMED: 1 << 20, StandbyMED: 1 << 21, Grace: 3 * time.Second}
		g := [2]*gate{newGate(c), newGate(c)}
		heard := [2]*stats.RouteWord{} // by each, of the other
		last := [2]time.Time{}
		roles := [2]string{"MASTER", "BACKUP"}
		now, reign := t0, 0
		frozen := -1
		for range rapid.IntRange(5, 120).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(1, 20).Draw(t, "tenths")) * 100 * time.Millisecond)
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0: // the other one takes over
				reign = 1 - reign
				roles[reign], roles[1-reign] = "MASTER", "BACKUP"
				if frozen == reign {
					frozen = -1
				}
			case 1: // the one that is not MASTER hangs, its path stays
				frozen = 1 - reign
			case 2:
				frozen = -1
			}
			for i := range g {
				if i == frozen {
					continue
				}
				var peers []Peer
				if heard[i] != nil {
					peers = []Peer{{Name: "other", Alive: now.Sub(last[i]) < 3*time.Second, Word: heard[i]}}
				}
				in := Input{Role: roles[i], Committed: roles[i] == "MASTER", Engine: true, Ready: true, Peers: peers}
				g[i].step(now, &in)
				w := g[i].word("SG", &in, g[i].want.level, true)
				heard[1-i], last[1-i] = &w, now
			}
			a, b := g[reign].want, g[1-reign].want
			if a.level != Master {
				t.Fatalf("the MASTER is %+v", a)
			}
			if b.level == Master && a.generation <= b.generation {
				t.Fatalf("the MASTER's path %d is not better than the other's %d", a.generation, b.generation)
			}
		}
	})
}
