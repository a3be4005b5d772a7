package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/cache"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

const (
	commitSlice  = 1024 // entries given to the kernel at once
	commitPasses = 8    // walks over the cache for what arrives meanwhile
	// minTimeout is the least a committed entry is given, in seconds. Packets
	// refresh the active's entry without an event, so the time left there is
	// never known; the entry must live until the flow's next packet.
	minTimeout = 30
	// refusalsKept is how many refused entries are named afterwards.
	refusalsKept = 1000
	// progressEvery is how often a long commit says how far it is.
	progressEvery = time.Second
)

// What makes a commit begin.
const (
	earlySign  = "virtual address"
	byRole     = master
	byOperator = "operator"
)

// Commit writes the external cache into the kernel: all of it, or what was not
// written when the virtual address came, and what arrived or changed meanwhile;
// flows before those they are masters of.
func (e *Engine) Commit(ctx context.Context) (stats.Commit, error) {
	done, err := e.runCommit(ctx, byRole)
	e.applyGuard()
	return done, err
}

func (e *Engine) runCommit(ctx context.Context, trigger string) (stats.Commit, error) {
	e.commitMu.Lock()
	defer e.commitMu.Unlock()
	e.drain()
	c, err := e.beginCommit(ctx, trigger)
	if err != nil {
		return stats.Commit{}, err
	}
	err = e.drainInjections(ctx)
	if err == nil && trigger != earlySign {
		c.ended, err = e.bury(ctx)
	}
	if err == nil {
		err = c.removeEnded(ctx)
	}
	if err == nil {
		err = c.write(ctx)
	}
	if err == nil {
		err = c.commitExpects(ctx)
	}
	doc := c.end(err)
	e.log.Info("external cache committed", "for", doc.Trigger, "entries", doc.Entries, "created", doc.Created,
		"updated", doc.Updated, "recreated", doc.Recreated, "before the role", doc.Early, "expectations", doc.Expects,
		"refused", refused(&doc), "ms", doc.DurationMS)
	if err != nil {
		return doc, fmt.Errorf("commit: %w", err)
	}
	return doc, nil
}

// commit is one run. What it writes down is guarded by the engine's lock.
type commit struct {
	engine *Engine
	early  context.Context // of an early commit: ends when its take-over is abandoned
	began  time.Time
	said   time.Time
	doc    stats.Commit
	batch  []flow.Change
	// children that were refused for want of their master are tried again as
	// long as the commit gets on.
	orphans int
	ended   int
	last    bool
}

func (e *Engine) beginCommit(ctx context.Context, trigger string) (c *commit, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.settings == nil {
		return nil, errNotConfigured
	}
	if trigger == earlySign && (ctx.Err() != nil || !e.takeover.early) {
		return nil, errNoTakeover
	}
	if trigger == byRole && e.role != master {
		trigger = byOperator
	}
	now := e.now()
	c = &commit{engine: e, began: now, said: now, doc: stats.Commit{
		Trigger: trigger, At: now.Format(time.RFC3339), Running: true, Total: e.external.DirtyCount(), Refused: map[string]int{}}}
	if trigger == earlySign {
		c.early = ctx
	} else {
		e.purge.armed = false
	}
	t := &e.takeover
	if trigger == earlySign {
		t.wrote, t.undo = append(t.wrote, t.undo...), nil
	} else {
		t.gone, t.undo = append(t.gone, t.undo...), nil
	}
	if trigger == byRole && t.early {
		d := t.entries
		c.doc.Early, c.doc.Entries, c.doc.Created, c.doc.Updated, c.doc.Recreated = d.entries, d.entries, d.created, d.updated, d.recreated
		c.doc.EarlyLeadMS = millis(now.Sub(d.began))
	}
	e.commit, e.refusals = &c.doc, nil
	return c, nil
}

// errNoTakeover is why an early commit ends: its take-over was abandoned, or is
// through.
var errNoTakeover = errors.New("the take-over it belongs to is over")

// abandoned reports whether an early commit has lost its take-over; the engine's lock
// is held.
func (c *commit) abandoned() bool { return c.early != nil && c.early.Err() != nil }

// end closes the account and returns a copy of it.
func (c *commit) end(err error) stats.Commit {
	e := c.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	c.doc.Running, c.doc.Ended = false, c.ended
	c.doc.DurationMS = millis(now.Sub(c.began))
	e.wroteAt = now
	t := &e.takeover
	switch {
	case c.abandoned():
	case c.doc.Trigger == earlySign:
		t.entries.entries += c.doc.Entries
		t.entries.created += c.doc.Created
		t.entries.updated += c.doc.Updated
		t.entries.recreated += c.doc.Recreated
		t.whole = t.whole || err == nil
	case c.doc.Trigger == byRole && err == nil && e.role == master:
		e.taken()
	}
	return c.doc.Clone()
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// removeEnded removes what was written when the address came and has ended since.
func (c *commit) removeEnded(ctx context.Context) error {
	e := c.engine
	e.mu.Lock()
	ended := e.takeover.gone
	e.takeover.gone = nil
	c.batch = c.batch[:0]
	for _, k := range ended {
		if e.external.Find(&k) == 0 {
			c.batch = append(c.batch, removal(k))
		}
	}
	e.mu.Unlock()
	if len(c.batch) == 0 {
		return nil
	}
	_, err := e.kernel.Apply(ctx, c.batch)
	return err
}

func removal(k flow.Key) flow.Change {
	ch := flow.Change{Op: flow.Delete, Flow: flow.Flow{Orig: k.Tuple, Zone: k.Zone}}
	if k.Zone != 0 {
		ch.Flow.Has = flow.HasZone
	}
	return ch
}

// write writes the flows.
func (c *commit) write(ctx context.Context) error {
	e := c.engine
	e.mu.Lock()
	changed := e.direct() || e.takeover.whole // then only what is not in the kernel yet
	n := e.external.DirtyCount()
	e.mu.Unlock()
	hear, err := c.deafen(n)
	if err != nil {
		e.log.Warn("events of new flows cannot be turned off, the commit takes longer", "err", err)
	}
	return errors.Join(c.run(ctx, changed), hear())
}

func (c *commit) run(ctx context.Context, changed bool) error {
	for range commitPasses {
		wrote, err := c.pass(ctx, changed)
		if err != nil {
			return err
		}
		if wrote == 0 {
			break
		}
		changed = true
	}
	if c.orphans == 0 {
		return nil
	}
	c.last = true
	_, err := c.pass(ctx, true)
	return err
}

// pass writes what the cache holds now, or what of it changed.
func (c *commit) pass(ctx context.Context, changed bool) (wrote int, err error) {
	c.orphans = 0
	order := c.engine.commitOrder(changed)
	for len(order) > 0 {
		n := min(commitSlice, len(order))
		if !c.collect(order[:n]) {
			return wrote, errNoTakeover
		}
		order = order[n:]
		if len(c.batch) == 0 {
			continue
		}
		done, err := c.engine.kernel.Apply(ctx, c.batch)
		if err != nil {
			c.soil()
			return wrote, err
		}
		wrote += c.account(&done)
	}
	return wrote, nil
}

// collect takes the next entries and marks them clean; none when there is no
// take-over any more for which they would be removed again.
func (c *commit) collect(refs []cache.Ref) bool {
	e := c.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	if c.abandoned() {
		return false
	}
	t := &e.takeover
	undoable := c.doc.Trigger == earlySign && !e.direct()
	c.batch = c.batch[:0]
	for _, r := range refs {
		if !e.external.Used(r) {
			continue // it ended meanwhile
		}
		c.batch = append(c.batch, flow.Change{Op: flow.Upsert})
		f := &c.batch[len(c.batch)-1].Flow
		e.loadCommittable(r, f)
		e.external.Clean(r)
		if k := f.Key(); undoable && e.internal.Find(&k) == 0 {
			t.wrote = append(t.wrote, k)
		}
	}
	return true
}

// loadCommittable loads an entry of the peer's as it is to be written here.
func (e *Engine) loadCommittable(r cache.Ref, f *flow.Flow) {
	e.external.Load(r, f)
	f.Timeout = max(f.Timeout, minTimeout)
	f.Has |= flow.HasTimeout
	f.Has &^= flow.HasID
}

// soil marks the batch as still to be written.
func (c *commit) soil() {
	e := c.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range c.batch {
		c.soilKey(c.batch[i].Flow.Key())
	}
}

func (c *commit) soilKey(k flow.Key) {
	if r := c.engine.external.Find(&k); r != 0 {
		c.engine.external.Soil(r)
	}
}

// account books what became of the batch; wrote does not count what is tried
// again.
func (c *commit) account(done *flow.Applied) (wrote int) {
	e := c.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	if c.doc.FirstMS == 0 && done.Created+done.Updated+done.Recreated > 0 {
		c.doc.FirstMS = millis(now.Sub(c.began))
	}
	wrote = len(c.batch)
	for _, f := range done.Failed {
		if f.Reason == flow.ReasonNoMaster && !c.last {
			c.orphans++
			wrote--
			c.soilKey(c.batch[f.Index].Flow.Key())
			continue
		}
		c.refuseFlow(f, &c.batch[f.Index].Flow)
	}
	c.doc.Entries += wrote
	c.doc.Created += done.Created
	c.doc.Updated += done.Updated
	c.doc.Recreated += done.Recreated
	if now.Sub(c.said) >= progressEvery {
		c.said = now
		e.log.Info("the commit goes on", "entries", c.doc.Entries, "of", max(c.doc.Total, c.doc.Entries))
	}
	return wrote
}

func (c *commit) refuseFlow(f flow.Failure, fl *flow.Flow) {
	kept := *fl // the batch is used again
	c.engine.births.miss(fl.Key())
	c.refuse(f, "flow", fl.Orig, stats.Refusal{Flow: &kept})
}

func (c *commit) refuseExpect(f flow.Failure, x *flow.Expect) {
	c.refuse(f, "expectation", x.Tuple, stats.Refusal{Expect: x})
}

// refuse books a refusal; the first of each reason is logged.
func (c *commit) refuse(f flow.Failure, kind string, t flow.Tuple, r stats.Refusal) {
	e := c.engine
	r.Reason, r.Error = f.Reason.String(), f.Err.Error()
	if c.doc.Refused[r.Reason] == 0 {
		e.log.Warn("the kernel refuses an entry", "reason", r.Reason, kind, t, "err", f.Err)
	}
	c.doc.Refused[r.Reason]++
	if len(e.refusals) < refusalsKept {
		e.refusals = append(e.refusals, r)
	}
}

func refused(c *stats.Commit) (n int) {
	for _, k := range c.Refused {
		n += k
	}
	return n
}

// CommitReport is the account of the last commit with the entries the kernel
// refused, by reason.
func (e *Engine) CommitReport(context.Context) (stats.CommitReport, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.settings == nil {
		return stats.CommitReport{}, errNotConfigured
	}
	r := stats.CommitReport{Refused: append([]stats.Refusal{}, e.refusals...)}
	stats.SortRefusals(r.Refused)
	if e.commit != nil {
		r.Commit = new(e.commit.Clone())
	}
	return r, nil
}
