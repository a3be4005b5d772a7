package engine

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/ftfw"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// drops counts what was thrown away or missed, by reason.
type drops struct {
	wire      wire.Errors // datagrams
	payload   uint64      // messages whose content makes no sense
	cacheFull uint64
	overruns  uint64
	swept     uint64
	// repeatedEnds are events about the end of an earlier flow with the same key.
	repeatedEnds uint64
	linkLogged   time.Time
}

// Statistics is a snapshot of the counters.
func (e *Engine) Statistics(context.Context) (stats.Statistics, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.settings == nil {
		return stats.Statistics{}, errNotConfigured
	}
	c, n := &e.session.Counters, &e.own.session.Counters
	s := stats.Statistics{
		Main:  e.block(e.internal.Stats(), e.external.Stats(), e.inject.flows),
		Links: e.link.Links(),
		Drops: map[string]uint64{
			"cache_full":              e.drops.cacheFull,
			"event_overruns":          e.drops.overruns,
			"ended_with_address":      e.moved.total,
			"begun_without_address":   e.moved.reborn,
			"malformed_header":        c.Malformed,
			"malformed_payload":       e.drops.payload,
			"malformed_size":          e.drops.wire.BadSize,
			"malformed_truncated":     e.drops.wire.Truncated,
			"malformed_version":       e.drops.wire.Version,
			"expectations_unwanted":   e.exp.ignored,
			"expectations_masterless": e.exp.orphans,
			"far_sequence":            c.Far + n.Far,
			"packets_before":          c.Before,
			"resend_queue_full":       c.Overflow + n.Overflow,
			"unknown_handles":         e.own.unknown,
			"older_epoch":             e.own.stale,
			"not_followed":            e.own.foreign,
			"swept_after_a_copy":      e.drops.swept,
			"repeated_ends":           e.drops.repeatedEnds,
		},
		Excluded: e.excluded(),
		Runtime: stats.Runtime{
			Events: e.events, Comparisons: e.fills, EventBuffer: uint64(e.buffer.size),
			Unacknowledged: uint64(e.unacknowledged()), ResendLimit: ftfw.ResendLimit,
		},
		Session: map[string]uint64{
			"nacks_sent":    c.Nacks,
			"resent":        c.Resent,
			"unanswered":    c.Unanswered,
			"peer_restarts": c.Restarts,
			"native_resent": n.Resent,
			"native_lost":   n.Lost,
			"native_late":   n.Late,
			"report_holes":  n.Holes,
			"repaired":      e.own.proof.repairs,
			"audits":        e.audits,
			"audit_repairs": e.auditRepairs,
			"copied":        e.own.copied,
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
			"rearmed": e.inject.rearmed, "recreated": e.inject.recreated,
		}
		for why, n := range e.inject.refused {
			s.Inject["refused_"+strings.ReplaceAll(why.String(), " ", "_")] = n
		}
	}
	return s, nil
}

// unacknowledged is the length of the resend queue in use.
func (e *Engine) unacknowledged() int {
	if e.own.on {
		return e.own.session.Held()
	}
	return e.session.Unacked()
}

// block is one table's part of the statistics.
func (e *Engine) block(internal, external, injected stats.Cache) stats.Main {
	c := &e.session.Counters
	m := stats.Main{
		CacheInternal: internal,
		Traffic:       e.traffic,
		Channel:       e.link.Stats(),
		Tracking:      stats.Tracking{Malformed: e.drops.wire.Total() + e.drops.payload + c.Malformed, Lost: c.Lost + e.own.session.Counters.Lost},
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
	guard := e.guardStatus()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.settings == nil {
		return stats.Engine{}, errNotConfigured
	}
	now := e.now()
	s := stats.Engine{Release: e.opt.Release, Links: e.link.Links(), Excluded: e.excluded(), Filling: !e.fill.done || e.fill.running && e.fill.audit.cancel == nil, Refilling: e.copyIn.asked && !e.own.on}
	if e.commit != nil {
		s.Commit = new(e.commit.Clone())
	}
	s.Guard = guard
	if e.purge.armed {
		s.Purge = e.purge.due.Format(time.RFC3339)
	}
	s.Peers = e.peers(now)
	if e.own.on {
		s.View, s.Conflict = e.view(now), e.conflict(now)
	}
	return s, nil
}

// watchPeer says when the link goes dead and when it is back.
func (e *Engine) watchPeer(now time.Time) {
	alive := e.alive(now)
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

// peers lists who is known on the link.
func (e *Engine) peers(now time.Time) (all []stats.Peer) {
	if !e.own.on {
		if heard := e.session.Heard(); !heard.IsZero() {
			all = append(all, stats.Peer{
				Address: e.peer.String(), Protocol: "conntrackd", Software: e.kind.String(), Alive: e.session.Alive(now),
				LastHeardMS: now.Sub(heard).Milliseconds(), Unacked: e.session.Unacked(),
			})
		}
		return all
	}
	for _, p := range e.own.session.Peers() {
		l := e.own.lives[p.ID]
		if l == nil {
			continue
		}
		p50, p99 := p.Lag()
		x := stats.Peer{
			Address: l.addr.String(), Protocol: "native", Software: "conntrack-sync " + l.beat.Release, Alive: p.Alive(now),
			LastHeardMS: now.Sub(p.Heard).Milliseconds(), Unacked: e.own.session.Behind(p), Role: roleName(l.role), Epoch: l.epoch,
			Routes: e.own.wordsOf(l), LagP50MS: float64(p50.Microseconds()) / 1000, LagP99MS: float64(p99.Microseconds()) / 1000,
		}
		if since := e.own.session.Since(p); !since.IsZero() {
			x.BehindMS = now.Sub(since).Milliseconds()
		}
		switch {
		case e.role != master && p.ID == e.own.followed:
			x.InSync, x.Differing = new(e.own.proof.fresh(now)), e.own.proof.differing
			sinceProof(&x, now, e.own.proof.at)
		case l.beat.Follows == e.own.session.ID:
			x.InSync, x.Differing = new(l.beat.InSync && p.Alive(now)), int(l.beat.Differing)
			sinceProof(&x, now, l.proven)
		}
		all = append(all, x)
	}
	return all
}

// sinceProof says when the peer's view, or ours of its, was last proven equal.
func sinceProof(x *stats.Peer, now, at time.Time) {
	if *x.InSync && !at.IsZero() {
		x.ProvenMS = max(1, now.Sub(at).Milliseconds())
	}
}

func (e *Engine) view(now time.Time) *stats.View {
	p := &e.own.proof
	v := &stats.View{InSync: p.fresh(now), Entries: p.entries, Differing: p.differing, Repaired: p.repairs, Epoch: e.own.maxEpoch}
	if v.InSync {
		v.ProvenMS = now.Sub(p.at).Milliseconds()
	}
	return v
}

// conflict names another MASTER, where this node is one.
func (e *Engine) conflict(now time.Time) string {
	if e.role != master {
		return ""
	}
	for _, p := range e.own.session.Peers() {
		if l := e.own.lives[p.ID]; l != nil && l.role == wire.RoleMaster && p.Alive(now) {
			return l.addr.String()
		}
	}
	return ""
}

func roleName(r uint8) string {
	return [...]string{"UNKNOWN", "MASTER", "BACKUP", "FAULT", "STOP"}[r]
}

var errNoProof = errors.New("nothing is proven: conntrackd's protocol is spoken on the link, see show conntrack-sync status --detail")

// Diff says how this node's view and the peers' compare.
func (e *Engine) Diff(context.Context) (stats.Diff, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.settings == nil:
		return stats.Diff{}, errNotConfigured
	case !e.own.on:
		return stats.Diff{}, errNoProof
	}
	now := e.now()
	d := stats.Diff{Peers: e.peers(now), Found: slices.Clone(e.own.proof.found)}
	if e.role != master {
		d.View = e.view(now)
	}
	if d.Peers == nil {
		d.Peers = []stats.Peer{}
	}
	if d.Found == nil {
		d.Found = []stats.Difference{}
	}
	return d, nil
}
