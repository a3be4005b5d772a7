// Package kerneltest is conntrack's tables in memory: it fits the engine's
// Kernel, needs no root, and does what no kernel can be made to do on demand.
package kerneltest

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

// Table is a fake kernel. Its methods may be called from any goroutine.
type Table struct {
	mu       sync.Mutex
	flows    map[flow.Key]flow.Flow
	order    []flow.Key
	expects  []flow.Expect
	queue    []delivery
	wake     chan struct{}
	nextID   uint32
	limit    int
	local    []netip.Addr
	addrs    chan struct{}
	hold     chan struct{} // a Dump waits for its end
	slow     chan struct{} // Apply does
	getFails error         // the next Get
	firm     chan struct{} // closed when Apply may go on, cancelled or not
	passing  []uint8
	deaf     bool // events of new flows do not come
}

type delivery struct {
	event flow.Event
	err   error
}

// New makes an empty table of a host with these addresses.
func New(local ...netip.Addr) *Table {
	return &Table{flows: map[flow.Key]flow.Flow{}, wake: make(chan struct{}, 1), local: local, addrs: make(chan struct{}, 1)}
}

// Limit sets how many flows the table may hold; 0 is no limit.
func (t *Table) Limit(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.limit = n
}

// Flow returns the entry under a key.
func (t *Table) Flow(k flow.Key) (f flow.Flow, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f, ok = t.flows[k]
	return f, ok
}

// Len is the number of entries.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.flows)
}

// Put is traffic: a flow is born, or changes. Silently makes no event, as when
// events are lost.
func (t *Table) Put(f flow.Flow) { t.mutate(func() { t.put(f, false, false) }) }

// PutSilently is Put without an event.
func (t *Table) PutSilently(f flow.Flow) { t.mutate(func() { t.put(f, false, true) }) }

// Say reports an event that changes nothing: less than the table holds, perhaps.
func (t *Table) Say(ev flow.Event) {
	t.mutate(func() { t.queue = append(t.queue, delivery{event: ev}) })
}

// Remove ends a flow, and with it what it expected.
func (t *Table) Remove(k flow.Key) { t.mutate(func() { t.remove(k, false, false) }) }

// RemoveSilently is Remove without an event.
func (t *Table) RemoveSilently(k flow.Key) { t.mutate(func() { t.remove(k, false, true) }) }

// Tell says an event that belongs to nothing that happens now.
func (t *Table) Tell(ev flow.Event) {
	t.mutate(func() { t.queue = append(t.queue, delivery{event: ev}) })
}

// Overrun reports the loss of events.
func (t *Table) Overrun() {
	t.mutate(func() { t.queue = append(t.queue, delivery{err: flow.ErrOverrun}) })
}

// HoldDump makes every Dump wait until release is called, as a table of
// millions does.
func (t *Table) HoldDump() (release func()) {
	hold := make(chan struct{})
	t.mutate(func() { t.hold = hold })
	return func() { close(hold) }
}

// HoldApply makes every Apply wait until release is called.
func (t *Table) HoldApply() (release func()) {
	slow := make(chan struct{})
	t.mutate(func() { t.slow = slow })
	return func() { close(slow) }
}

// HoldWrite makes every Apply wait until release is called, whatever becomes of its
// context: a batch the kernel was given is written.
func (t *Table) HoldWrite() (release func()) {
	firm := make(chan struct{})
	t.mutate(func() { t.firm = firm })
	return func() {
		t.mutate(func() { t.firm = nil })
		close(firm)
	}
}

// SetLocal changes the host's addresses.
func (t *Table) SetLocal(local ...netip.Addr) {
	t.mutate(func() { t.local = local })
	select {
	case t.addrs <- struct{}{}:
	default:
	}
}

func (t *Table) mutate(fn func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fn()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *Table) put(f flow.Flow, own, silent bool) {
	k := f.Key()
	ev := flow.Event{Type: flow.EventUpdate, Own: own}
	if old, ok := t.flows[k]; ok {
		old.Merge(&f)
		f = old
		if f.Labels == [16]byte{} {
			f.Has &^= flow.HasLabels // as the kernel does
		}
	} else {
		t.nextID++
		f.ID, f.Has = t.nextID, f.Has|flow.HasID
		t.order = append(t.order, k)
		ev.Type = flow.EventNew
	}
	t.flows[k], ev.Flow = f, f
	if !silent && !(t.deaf && ev.Type == flow.EventNew) {
		t.queue = append(t.queue, delivery{event: ev})
	}
}

func (t *Table) remove(k flow.Key, own, silent bool) bool {
	f, ok := t.flows[k]
	if !ok {
		return false
	}
	delete(t.flows, k)
	for i := range t.order {
		if t.order[i] == k {
			t.order = append(t.order[:i], t.order[i+1:]...)
			break
		}
	}
	if !silent {
		t.queue = append(t.queue, delivery{event: flow.Event{Type: flow.EventDestroy, Own: own, Flow: f}})
	}
	t.removeExpectsOf(k, silent)
	return true
}

// Events hands queued events over until ctx ends.
func (t *Table) Events(ctx context.Context, fn func([]flow.Event, error)) error {
	for {
		t.mu.Lock()
		queue := t.queue
		t.queue = nil
		t.mu.Unlock()
		var batch []flow.Event
		for _, d := range queue {
			if d.err == nil {
				batch = append(batch, d.event)
				continue
			}
			if len(batch) > 0 {
				fn(batch, nil)
				batch = nil
			}
			fn(nil, d.err)
		}
		if len(batch) > 0 {
			fn(batch, nil)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.wake:
		}
	}
}

// Dump hands a snapshot over.
func (t *Table) Dump(ctx context.Context, fn func([]flow.Flow) error) error {
	return t.dump(ctx, fn, func(*flow.Flow) bool { return true })
}

// DumpUnreplied hands a snapshot of the flows over that have seen no reply.
func (t *Table) DumpUnreplied(ctx context.Context, fn func([]flow.Flow) error) error {
	return t.dump(ctx, fn, func(f *flow.Flow) bool { return f.Status&flow.StatusSeenReply == 0 })
}

func (t *Table) dump(ctx context.Context, fn func([]flow.Flow) error, wanted func(*flow.Flow) bool) error {
	t.mu.Lock()
	hold := t.hold
	t.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	t.mu.Lock()
	all := make([]flow.Flow, 0, len(t.flows))
	for _, k := range t.order {
		if f := t.flows[k]; wanted(&f) {
			all = append(all, f)
		}
	}
	t.mu.Unlock()
	if len(all) == 0 {
		return ctx.Err()
	}
	return errors.Join(ctx.Err(), fn(all))
}

// Get returns those flows that are there.
func (t *Table) Get(ctx context.Context, keys []flow.Key) (flows []flow.Flow, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.getFails; err != nil {
		t.getFails = nil
		return nil, err
	}
	for _, k := range keys {
		if f, ok := t.flows[k]; ok {
			flows = append(flows, f)
		}
	}
	return flows, ctx.Err()
}

// FailGet makes the next Get fail.
func (t *Table) FailGet(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.getFails = err
}

// Apply does what the changes say.
func (t *Table) Apply(ctx context.Context, batch []flow.Change) (done flow.Applied, err error) {
	t.mu.Lock()
	slow, firm := t.slow, t.firm
	t.mu.Unlock()
	if firm != nil {
		<-firm
		ctx = context.WithoutCancel(ctx)
	}
	if slow != nil {
		select {
		case <-slow:
		case <-ctx.Done():
		}
	}
	if err := ctx.Err(); err != nil {
		return done, err
	}
	t.mutate(func() {
		for i := range batch {
			t.apply(i, &batch[i], &done)
		}
	})
	return done, nil
}

func (t *Table) apply(i int, c *flow.Change, done *flow.Applied) {
	k := c.Flow.Key()
	old, exists := t.flows[k]
	switch {
	case c.Op == flow.Delete:
		if exists && (c.Flow.Has&flow.HasID == 0 || c.Flow.ID == old.ID) && t.remove(k, true, false) {
			done.Deleted++
		}
	case exists && old.Reply == c.Flow.Reply:
		t.put(c.Flow, true, false)
		done.Updated++
	case exists:
		t.remove(k, true, false)
		t.put(c.Flow, true, false)
		done.Recreated++
	case c.Op == flow.Upsert && c.Flow.Has&flow.HasMaster != 0 && !t.has(c.Flow.Master, c.Flow.Zone):
		done.Failed = append(done.Failed, flow.Failure{Index: i, Reason: flow.ReasonNoMaster, Err: errors.New("no master")})
	case t.limit > 0 && len(t.flows) >= t.limit:
		done.Failed = append(done.Failed, flow.Failure{Index: i, Reason: flow.ReasonFull, Err: errors.New("table full")})
	default:
		t.put(c.Flow, true, false)
		done.Created++
	}
}

func (t *Table) has(tuple flow.Tuple, zone uint16) bool {
	_, ok := t.flows[flow.Key{Tuple: tuple, Zone: zone}]
	return ok
}

// All are the entries in the order of their creation.
func (t *Table) All() (all []flow.Flow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range t.order {
		all = append(all, t.flows[k])
	}
	return all
}

// LocalAddrs returns the host's addresses.
func (t *Table) LocalAddrs() ([]netip.Addr, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.local, nil
}

// WatchAddrs calls fn at once and after SetLocal.
func (t *Table) WatchAddrs(ctx context.Context, fn func(map[netip.Addr]bool)) error {
	for {
		local, _ := t.LocalAddrs()
		here := map[netip.Addr]bool{}
		for _, a := range local {
			here[a] = true
		}
		fn(here)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.addrs:
		}
	}
}

// AddrsChanged has the addresses looked at each time.
func (t *Table) AddrsChanged() bool { return true }

// UsableAddrs are the local ones.
func (t *Table) UsableAddrs() ([]netip.Addr, error) { return t.LocalAddrs() }

// SetFilter lets everything pass, as a kernel without filters does, and writes
// down what was asked.
func (t *Table) SetFilter(protocols []uint8) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.passing = slices.Clone(protocols)
	return nil
}

// Passing are the protocols whose events were asked for last; empty: all.
func (t *Table) Passing() []uint8 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.passing)
}

// Deaf reports whether events of new flows are turned off.
func (t *Table) Deaf() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.deaf
}

// Births turns events of new flows on or off.
func (t *Table) Births(wanted bool) (come bool, err error) {
	t.mutate(func() { t.deaf = !wanted })
	return wanted, nil
}

// SetEventBuffer grants everything.
func (t *Table) SetEventBuffer(bytes int) (int, error) { return bytes, nil }

// Close does nothing.
func (t *Table) Close() error { return nil }
