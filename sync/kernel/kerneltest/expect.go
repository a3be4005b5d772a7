package kerneltest

import (
	"context"
	"errors"
	"slices"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

// PutExpect is a helper at work: an expectation is born, in the place of one
// with the same key.
func (t *Table) PutExpect(x flow.Expect) { t.mutate(func() { t.putExpect(x, false) }) }

// RemoveExpect is an expectation that was met, or timed out.
func (t *Table) RemoveExpect(k flow.Key) { t.mutate(func() { t.removeExpect(k, false) }) }

// RemoveExpectSilently is RemoveExpect without an event.
func (t *Table) RemoveExpectSilently(k flow.Key) {
	t.mutate(func() {
		t.expects = slices.DeleteFunc(t.expects, func(x flow.Expect) bool { return x.Key() == k })
	})
}

// Expects returns the expectations, oldest first.
func (t *Table) Expects() []flow.Expect {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.expects)
}

func (t *Table) putExpect(x flow.Expect, own bool) (replaced bool) {
	replaced = t.removeExpect(x.Key(), own)
	t.expects = append(t.expects, x)
	t.tellExpect(flow.EventNew, x, own)
	return replaced
}

func (t *Table) removeExpect(k flow.Key, own bool) bool {
	i := slices.IndexFunc(t.expects, func(x flow.Expect) bool { return x.Key() == k })
	if i < 0 {
		return false
	}
	x := t.expects[i]
	t.expects = slices.Delete(t.expects, i, i+1)
	t.tellExpect(flow.EventDestroy, x, own)
	return true
}

// removeExpectsOf ends what a flow expected when the flow ends. As with the
// kernel nobody owns these events.
func (t *Table) removeExpectsOf(master flow.Key, silent bool) {
	t.expects = slices.DeleteFunc(t.expects, func(x flow.Expect) bool {
		if x.Master != master.Tuple || x.Zone != master.Zone {
			return false
		}
		if !silent {
			t.tellExpect(flow.EventDestroy, x, false)
		}
		return true
	})
}

func (t *Table) tellExpect(typ flow.EventType, x flow.Expect, own bool) {
	x = told(x)
	t.queue = append(t.queue, delivery{event: flow.Event{Type: typ, Own: own, Expect: &x}})
}

// told is what the kernel says about an expectation: not its zone.
func told(x flow.Expect) flow.Expect {
	x.Zone = 0
	return x
}

// DumpExpects hands a snapshot over.
func (t *Table) DumpExpects(ctx context.Context, fn func([]flow.Expect) error) error {
	all := t.Expects()
	for i := range all {
		all[i] = told(all[i])
	}
	if len(all) == 0 {
		return ctx.Err()
	}
	return errors.Join(ctx.Err(), fn(all))
}

// ApplyExpects does what the changes say.
func (t *Table) ApplyExpects(ctx context.Context, batch []flow.ExpectChange) (done flow.Applied, err error) {
	if err := ctx.Err(); err != nil {
		return done, err
	}
	t.mutate(func() {
		for i := range batch {
			t.applyExpect(i, &batch[i], &done)
		}
	})
	return done, nil
}

func (t *Table) applyExpect(i int, c *flow.ExpectChange, done *flow.Applied) {
	x := c.Expect
	_, master := t.flows[flow.Key{Tuple: x.Master, Zone: x.Zone}]
	switch {
	case c.Op == flow.Delete:
		if t.removeExpect(x.Key(), true) {
			done.Deleted++
		}
	case !master:
		t.removeExpect(x.Key(), true)
		done.Failed = append(done.Failed, flow.Failure{Index: i, Reason: flow.ReasonNoMaster, Err: errors.New("master not in the table")})
	case t.putExpect(x, true):
		done.Updated++
	default:
		done.Created++
	}
}
