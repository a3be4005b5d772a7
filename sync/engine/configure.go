package engine

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// settings is the configuration in force.
type settings struct{ conf.Settings }

func (s *settings) linkConfig() LinkConfig {
	in := slices.Clone(s.Interfaces)
	for i := range in {
		in[i].Protocol = "" // what is said on a link is not how it is opened
	}
	return LinkConfig{
		Interfaces:  in,
		Group:       s.McastGroup,
		Listen:      s.ListenAddresses,
		BufferBytes: s.SyncQueueMB << 20,
	}
}

// Configure starts the engine, or applies changed settings to the running one.
// What cannot be had, a link that does not open, leaves everything as it was.
func (e *Engine) Configure(ctx context.Context, s conf.Settings) error {
	e.configMu.Lock()
	defer e.configMu.Unlock()
	if err := e.life.Err(); err != nil {
		return fmt.Errorf("configure a stopped engine: %w", err)
	}
	next := &settings{s}
	if err := e.configureKernel(); err != nil {
		return err
	}
	if err := e.configureLink(next); err != nil {
		return err
	}
	first := e.adopt(next)
	if err := e.refreshFilter(); err != nil {
		return err
	}
	e.configureGuard()
	e.sizeBuffer()
	if !first {
		return nil
	}
	return e.begin()
}

// configureKernel opens the kernel at the first call.
func (e *Engine) configureKernel() error {
	if e.kernel != nil {
		return nil
	}
	k, err := e.opt.OpenKernel()
	if err != nil {
		return fmt.Errorf("open conntrack: %w", err)
	}
	e.kernel = k
	return nil
}

// configureLink opens the link where the settings ask for another one than
// there is, and closes the old one once the new one stands. Nothing is received
// before the internal cache is filled: a peer that asks for the table must not
// take an acknowledgement for a copy of an empty one.
func (e *Engine) configureLink(next *settings) error {
	e.mu.Lock()
	old, link, down := e.settings, e.link, e.linkDown
	e.mu.Unlock()
	if old != nil && reflect.DeepEqual(old.linkConfig(), next.linkConfig()) {
		link.SetPrompt(next.DisableExternalCache)
		return nil
	}
	opened, err := e.opt.OpenLink(next.linkConfig())
	if err != nil {
		return fmt.Errorf("open the sync link: %w", err)
	}
	opened.SetPrompt(next.DisableExternalCache)
	ctx, cancel := context.WithCancel(e.life)
	e.mu.Lock()
	e.link, e.linkDown = opened, cancel
	e.mu.Unlock()
	if link != nil {
		down()
		if err := link.Close(); err != nil {
			e.log.Warn("close the former sync link", "err", err)
		}
		e.log.Info("sync link opened anew, the session goes on")
	}
	e.spawn(ctx, "receiving from the sync link", func(ctx context.Context) error {
		select {
		case <-e.filled:
		case <-ctx.Done():
			return ctx.Err()
		}
		return opened.Receive(ctx, e.onDatagrams)
	})
	return nil
}

// adopt makes the settings the ones in force; first says that there were none.
func (e *Engine) adopt(next *settings) (first bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	first = e.settings == nil
	was := e.injecting()
	before := e.settings
	e.settings = next
	e.takeover.look(next.Moves())
	a := e.makeAdvert()
	e.advert = wire.AppendAdvert(e.advert[:0], &a)
	e.agree(e.now())
	e.changeMode(was)
	if !first && !slices.Equal(before.ExpectSync, next.ExpectSync) {
		e.dropUnwanted()
		e.fill.wanted = "expect-sync changed"
		e.copyIn.tries = 0
		e.askForCopy("expect-sync changed")
	}
	return first
}

// begin starts the readers and fills the internal cache. What the kernel says
// while the table is read is not lost: the events are read first.
func (e *Engine) begin() error {
	e.spawn(e.life, "reading kernel events", e.readEvents)
	e.spawn(e.life, "watching addresses", func(ctx context.Context) error {
		return e.kernel.WatchAddrs(ctx, e.onAddrs)
	})
	e.spawn(e.life, "timers", e.tickLoop)
	e.spawn(e.life, "injecting", e.injectLoop)
	if err := e.refill(e.life, false); err != nil {
		return fmt.Errorf("read the kernel's table: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fill.done = true
	close(e.filled)
	e.log.Info("internal cache filled from the kernel", "entries", e.internal.Len())
	if e.copyOut.again {
		e.copyOut.again = false
		e.startCopyOut()
	}
	return nil
}

// readEvents reads kernel events as long as the engine lives. What was missed when
// reading failed is found by a comparison.
func (e *Engine) readEvents(ctx context.Context) error {
	for {
		err := e.kernel.Events(ctx, e.onEvents)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		e.log.Error("reading kernel events failed, it is begun again", "err", err)
		e.onEvents(nil, flow.ErrOverrun)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// refreshFilter rebuilds the filter from the settings and this host's
// addresses, and drops from the internal cache what no longer passes.
func (e *Engine) refreshFilter() error {
	local, err := e.kernel.LocalAddrs()
	if err != nil {
		return fmt.Errorf("read local addresses: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	next := newFilter(e.settings, local, e.syncAddrs(), e.filter.excluded)
	next.inherit(&e.filter)
	if next.equal(&e.filter) {
		return nil
	}
	loosened := e.filter.made
	if err := e.kernel.SetFilter(e.settings.AcceptProtocols); err != nil {
		e.log.Warn("events are filtered here, not by the kernel", "err", err)
	}
	e.filter = next
	e.dropFiltered()
	if loosened {
		e.fill.wanted = "the filter changed"
	}
	return nil
}

// syncAddrs are this host's addresses on the sync interfaces.
func (e *Engine) syncAddrs() (addrs []netip.Addr) {
	for _, i := range e.settings.Interfaces {
		addrs = append(addrs, e.opt.InterfaceAddrs(i.Name)...)
	}
	return addrs
}

// dropFiltered removes entries that do not pass the filter, and tells peers.
func (e *Engine) dropFiltered() {
	for r := e.internal.First(); r != 0; r = e.internal.Next(r) {
		e.internal.Load(r, &e.scratch)
		if e.filter.class(&e.scratch) != classKeep {
			e.queueDelete(r)
		}
	}
	e.transmit(e.now())
}

// eventBuffer is the room for kernel events: it starts small and doubles after
// each overrun up to the operator's cap.
type eventBuffer struct{ size, limit int }

// startBuffer is the room asked for at start, in bytes.
const startBuffer = 16 << 20

func (e *Engine) sizeBuffer() {
	e.mu.Lock()
	limit := e.settings.EventQueueMB << 20
	size := min(max(e.buffer.size, startBuffer), limit)
	if e.settings.EventQueueSet && e.settings.EventQueueMB <= 2 {
		size = limit
	}
	changed := size != e.buffer.size
	e.buffer = eventBuffer{size: size, limit: limit}
	e.mu.Unlock()
	if changed {
		e.setBuffer(size)
	}
}

func (e *Engine) setBuffer(size int) {
	got, err := e.kernel.SetEventBuffer(size)
	if err != nil {
		e.log.Warn("size the event buffer", "bytes", size, "err", err)
		return
	}
	if got < size {
		e.log.Warn("the kernel gives less room for events than asked", "asked", size, "bytes", got)
	}
}
