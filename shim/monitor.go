package shim

import (
	"context"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/gather"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
)

// The engine is asked how it stands every lookEvery while something moves and every
// calmEvery else. What hangs on it, readiness and the proof of equality, is settled
// once a second by the nodes.
const (
	lookEvery = 200 * time.Millisecond
	calmEvery = time.Second
	// restless is how long a role is new.
	restless = 10 * time.Second
)

// youth is how long an engine may not have heard a peer that is there.
const youth = 3 * time.Second

// young reports whether the engine has begun just now; mu is held.
func (s *Shim) young() bool { return s.opt.Now().Sub(s.engineAt) < youth }

// monitor looks at how the node stands: it logs alarms when they come and go,
// completes receipts and keeps the readiness files.
func (s *Shim) monitor(ctx context.Context) error {
	files := readyFiles{shim: s, failed: map[string]string{}, have: map[string]written{}}
	touched, lost, stop := files.watch()
	defer stop()
	alarms := alarmLog{}
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		looked := s.opt.Now()
		changed := s.view(func() {})
		if st, e, err := s.look(ctx); err == nil && ctx.Err() == nil {
			alarms.look(s, looked, st.Alarms)
			s.judge(e)
			s.watchLowered()
			files.write()
		}
		pause := gather.Whole(looked, calmEvery)
		if alarms.doubtful() || s.moves(looked) {
			pause = lookEvery
		}
		for due := looked.Add(pause); due.After(looked); {
			t.Reset(due.Sub(s.opt.Now()))
			select {
			case <-ctx.Done():
				files.leave()
				return ctx.Err()
			case <-t.C:
				due = looked
			case <-s.kick:
				due = looked
			case <-lost:
				due = looked
			case <-changed:
				changed, due = nil, earlier(due, looked.Add(lookEvery))
			case e := <-touched:
				if files.ours(e.Name) && s.configured() {
					files.write()
				}
			}
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// moves reports whether more than what a second brings is to be expected: a role or
// an engine is new, a hand-over or a commit runs, a node is not ready.
func (s *Shim) moves(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.engine == nil || s.young() || s.lastCommit != nil && s.lastCommit.Running {
		return true
	}
	for _, g := range s.groups {
		if !g.ready.Ready || g.handing || g.lowered != "" || g.receipt != nil && now.Sub(g.receipt.at) < restless {
			return true
		}
	}
	return false
}

// lookNow asks the monitor for a look without waiting for its time.
func (s *Shim) lookNow() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// alarmLasts is how long an alarm must stand to be worth a line: at a start and
// during a take-over there are some for a moment.
const alarmLasts = time.Second

// alarmLog is what was said of the alarms.
type alarmLog map[string]*alarm

type alarm struct {
	since  time.Time
	logged bool
}

// look says which alarms are new and which are over.
func (l alarmLog) look(s *Shim, now time.Time, alarms []string) {
	stands := map[string]bool{}
	for _, text := range alarms {
		key := alarmKey(text)
		stands[key] = true
		a := l[key]
		if a == nil {
			a = &alarm{since: now}
			l[key] = a
		}
		if !a.logged && now.Sub(a.since) >= alarmLasts {
			a.logged = true
			s.log.Warn("alarm: " + text)
		}
	}
	for key, a := range l {
		if stands[key] {
			continue
		}
		if a.logged {
			s.log.Info("alarm is over: " + key)
		}
		delete(l, key)
	}
}

// doubtful reports whether there is an alarm of which it is not known yet whether it
// lasts.
func (l alarmLog) doubtful() bool {
	for _, a := range l {
		if !a.logged {
			return true
		}
	}
	return false
}

// alarmKey is an alarm without its numbers, which change from look to look.
func alarmKey(a string) string {
	key := []rune{}
	for _, r := range a {
		if r < '0' || r > '9' {
			key = append(key, r)
		}
	}
	return string(key)
}

// said is what an engine said of a group; nil where it said nothing.
func said(e *stats.Engine, group string) *stats.Engine {
	if e == nil || e.Groups == nil {
		return e
	}
	if one, ok := e.Groups[group]; ok {
		return &one
	}
	return nil
}

// groupReadiness is a group's, with what hosts have against it; mu is held.
func (s *Shim) groupReadiness(g *group, e *stats.Engine) stats.Readiness {
	r := readiness(g.role.State, e, s.young())
	if g.role.State == vrrpwatch.Master {
		return r
	}
	for _, why := range s.obstacles {
		r.Ready, r.Reasons = false, append(r.Reasons, why)
	}
	return r
}

// judge takes what the engine said of each group.
func (s *Shim) judge(all *stats.Engine) {
	var equal []*group
	guards, serials := map[*group]stats.Guard{}, map[*group]int{}
	news := false
	s.mu.Lock()
	for _, g := range s.groups {
		e := said(all, g.name)
		inSync, peers := readiness(g.role.State, e, s.young()).Ready && e != nil, []stats.Peer(nil)
		if e != nil {
			peers = e.Peers
		}
		news = g.news(inSync, peers) || news
		g.inSync = inSync
		r := s.groupReadiness(g, e)
		news = news || r.Ready != g.ready.Ready || len(g.ready.Reasons) == 0
		if r.Ready != g.ready.Ready {
			s.log.Info("readiness", "group", g.name, "ready", r.Ready, "reasons", r.Reasons)
		}
		g.ready, g.peers = r, nil
		if e == nil {
			continue
		}
		g.peers, g.guard = e.Peers, e.Guard
		guards[g], serials[g] = e.Guard, g.serial
		if proven(g.role.State, e) {
			equal = append(equal, g)
		}
	}
	if all != nil {
		news = s.seeCommit(all.Commit) || news
	}
	s.mu.Unlock()
	if news {
		s.change(func() {})
	}
	for g, now := range guards {
		s.noteGuard(g, serials[g], now)
	}
	for _, g := range equal {
		s.noteEqual(g, serials[g])
	}
}

// Obstacle lets a host say, under a name of its own, why this node should not take
// over from a peer yet; "" takes it back. A MASTER stays one.
func (s *Shim) Obstacle(who, why string) {
	s.change(func() {
		if why == "" {
			delete(s.obstacles, who)
		} else {
			s.obstacles[who] = why
		}
	})
	s.lookNow()
}
