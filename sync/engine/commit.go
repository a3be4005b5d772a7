package engine

import (
	"context"
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
)

// Commit writes the external cache into the kernel: all of it, then what
// arrived or changed meanwhile; flows before those they are masters of.
func (e *Engine) Commit(ctx context.Context) (stats.Commit, error) {
	e.commitMu.Lock()
	defer e.commitMu.Unlock()
	if !e.beginCommit() {
		return stats.Commit{}, errNotConfigured
	}
	start := e.now()
	c := commit{engine: e, doc: stats.Commit{At: start.Format(time.RFC3339), Refused: map[string]int{}}}
	err := e.drainInjections(ctx)
	if err == nil {
		c.doc.Ended, err = e.bury(ctx)
	}
	if err == nil {
		err = c.run(ctx)
	}
	if err == nil {
		err = c.commitExpects(ctx)
	}
	c.doc.DurationMS = float64(e.now().Sub(start).Microseconds()) / 1000
	e.mu.Lock()
	e.wroteAt = e.now()
	e.commit = &c.doc
	e.mu.Unlock()
	e.log.Info("external cache committed", "entries", c.doc.Entries, "created", c.doc.Created,
		"updated", c.doc.Updated, "recreated", c.doc.Recreated, "expectations", c.doc.Expects, "refused", c.refused(), "ms", c.doc.DurationMS)
	if err != nil {
		return c.doc, fmt.Errorf("commit: %w", err)
	}
	return c.doc, nil
}

func (e *Engine) beginCommit() (ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.purge.armed = false
	return e.settings != nil
}

// commit is one run.
type commit struct {
	engine *Engine
	doc    stats.Commit
	batch  []flow.Change
}

func (c *commit) run(ctx context.Context) error {
	c.engine.mu.Lock()
	direct := c.engine.direct() // then only what is not in the kernel yet
	c.engine.mu.Unlock()
	for pass := range commitPasses {
		before := c.doc.Entries
		for _, children := range [...]bool{false, true} {
			if err := c.walk(ctx, pass > 0 || direct, children); err != nil {
				return err
			}
		}
		if c.doc.Entries == before {
			return nil
		}
	}
	return nil
}

func (c *commit) walk(ctx context.Context, dirtyOnly, children bool) error {
	for at, more := cache.Ref(0), true; more; {
		at = c.collect(at, dirtyOnly, children)
		more = at != 0
		if len(c.batch) == 0 {
			continue
		}
		done, err := c.engine.kernel.Apply(ctx, c.batch)
		if err != nil {
			c.soil()
			return err
		}
		c.account(&done)
	}
	return nil
}

// collect takes the next slice of entries to be written and marks them clean.
func (c *commit) collect(at cache.Ref, dirtyOnly, children bool) cache.Ref {
	e := c.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	c.batch = c.batch[:0]
	for len(c.batch) < commitSlice {
		if at = e.external.Next(at); at == 0 {
			break
		}
		if dirtyOnly && !e.external.Dirty(at) || e.external.HasMaster(at) != children {
			continue
		}
		c.batch = append(c.batch, flow.Change{Op: flow.Upsert})
		e.loadCommittable(at, &c.batch[len(c.batch)-1].Flow)
		e.external.Clean(at)
	}
	return at
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
		k := c.batch[i].Flow.Key()
		if r := e.external.Find(&k); r != 0 {
			e.external.Soil(r)
		}
	}
}

func (c *commit) account(done *flow.Applied) {
	c.doc.Entries += len(c.batch)
	c.doc.Created += done.Created
	c.doc.Updated += done.Updated
	c.doc.Recreated += done.Recreated
	for _, f := range done.Failed {
		c.refuse(f.Reason, f.Err, "flow", c.batch[f.Index].Flow.Orig)
	}
}

// refuse books a refusal; the first of each reason is logged.
func (c *commit) refuse(why flow.Reason, err error, kind string, t flow.Tuple) {
	reason := why.String()
	if c.doc.Refused[reason] == 0 {
		c.engine.log.Warn("the kernel refuses an entry", "reason", reason, kind, t, "err", err)
	}
	c.doc.Refused[reason]++
}

func (c *commit) refused() (n int) {
	for _, k := range c.doc.Refused {
		n += k
	}
	return n
}
