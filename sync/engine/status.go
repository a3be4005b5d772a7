package engine

import (
	"context"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// drops counts what was thrown away or missed, by reason.
type drops struct {
	malformed  uint64
	cacheFull  uint64
	overruns   uint64
	swept      uint64
	linkLogged time.Time
}

// Statistics is a snapshot of the counters.
func (e *Engine) Statistics(context.Context) (stats.Statistics, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.settings == nil {
		return stats.Statistics{}, errNotConfigured
	}
	c := &e.session.Counters
	s := stats.Statistics{
		Main:  e.block(e.internal.Stats(), e.external.Stats(), e.inject.flows),
		Links: e.link.Links(),
		Drops: map[string]uint64{
			"cache_full":              e.drops.cacheFull,
			"event_overruns":          e.drops.overruns,
			"expectations_unwanted":   e.exp.ignored,
			"expectations_masterless": e.exp.orphans,
			"far_sequence":            c.Far,
			"packets_before":          c.Before,
			"resend_queue_full":       c.Overflow,
			"swept_after_a_copy":      e.drops.swept,
		},
		Excluded: e.excluded(),
		Session: map[string]uint64{
			"nacks_sent":    c.Nacks,
			"resent":        c.Resent,
			"unanswered":    c.Unanswered,
			"peer_restarts": c.Restarts,
		},
	}
	if e.settings.syncsExpects() {
		x := e.block(e.exp.internal.Stats(), e.exp.external.Stats(), e.inject.expectations)
		s.Expect = &x
	}
	if e.direct() {
		s.Inject = map[string]uint64{
			"held":    uint64(e.external.Len()),
			"waiting": uint64(len(e.inject.queue) + len(e.inject.again)),
			"rearmed": e.inject.rearmed,
		}
	}
	return s, nil
}

// block is one table's part of the statistics.
func (e *Engine) block(internal, external, injected stats.Cache) stats.Main {
	c := &e.session.Counters
	m := stats.Main{
		CacheInternal: internal,
		Traffic:       e.traffic,
		Channel:       e.link.Stats(),
		Tracking:      stats.Tracking{Malformed: e.drops.malformed + c.Malformed, Lost: c.Lost},
	}
	if e.direct() {
		m.ExternalInject = &injected
	} else {
		m.CacheExternal = &external
	}
	return m
}

func (e *Engine) excluded() map[string]uint64 {
	m := map[string]uint64{}
	for c := classKeep + 1; c < classes; c++ {
		m[c.String()] = e.filter.excluded[c]
	}
	return m
}

// Status is a snapshot of what the engine is about.
func (e *Engine) Status(context.Context) (stats.Engine, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.settings == nil {
		return stats.Engine{}, errNotConfigured
	}
	now := e.now()
	s := stats.Engine{Release: e.opt.Release, Links: e.link.Links(), Excluded: e.excluded(), Commit: e.commit, Filling: !e.fill.done || e.fill.running, Refilling: e.copyIn.asked}
	if e.purge.armed {
		s.Purge = e.purge.due.Format(time.RFC3339)
	}
	if heard := e.session.Heard(); !heard.IsZero() {
		s.Peers = append(s.Peers, stats.Peer{
			Address: e.peer.String(), Protocol: "conntrackd", Software: e.kind.String(), Alive: e.session.Alive(now),
			LastHeardMS: now.Sub(heard).Milliseconds(), Unacked: e.session.Unacked(),
		})
	}
	return s, nil
}

// watchPeer says when the link goes dead and when it is back.
func (e *Engine) watchPeer(now time.Time) {
	alive := e.session.Alive(now)
	if alive == e.heard {
		return
	}
	e.heard = alive
	if alive {
		e.log.Info("a peer is heard on the sync link", "peer", e.peer)
		return
	}
	e.log.Warn("no peer is heard on the sync link any more", "peer", e.peer, "unacknowledged", e.session.Unacked())
}
