package engine

import (
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/cache"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/ftfw"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// onEvents takes a batch of kernel events: internal cache, then the link.
// Several events about a flow within a batch become one message, or none when
// the flow was born and died in it.
func (e *Engine) onEvents(batch []flow.Event, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	if err != nil {
		e.overrun(err)
		return
	}
	e.events += uint64(len(batch))
	e.moved.asked = false
	for i := range batch {
		e.capture(now, &batch[i])
	}
	e.transmit(now)
}

func (e *Engine) capture(now time.Time, ev *flow.Event) {
	if ev.Expect != nil {
		e.captureExpect(now, ev)
		return
	}
	k := ev.Flow.Key()
	r := e.internal.Find(&k)
	if ev.Type == flow.EventDestroy {
		if r != 0 && e.anotherLife(r, &ev.Flow) {
			e.drops.repeatedEnds++
			return
		}
		if !ev.Own {
			e.births.miss(k)
			e.endedHereAlone(now, &k)
		}
		if !e.endedByMove(now, r, &ev.Flow) {
			e.captureDestroy(r, &ev.Flow)
		}
		return
	}
	r, reborn := e.rebornHere(r, &k, &ev.Flow)
	if reborn {
		e.moved.reborn++
		return
	}
	if r == 0 {
		if ev.Own && e.direct() {
			return // injected; it becomes ours with a take-over
		}
		if c := e.filter.class(&ev.Flow); c != classKeep {
			e.filter.excluded[c]++
			return
		}
	}
	kind := wire.CTUpd
	switch {
	case r == 0:
		kind = wire.CTNew
		r = e.set(now, 0, &k, &ev.Flow)
	case ev.Type == flow.EventNew && !e.sameLife(r, &ev.Flow):
		e.replace(now, r, &ev.Flow)
	default:
		e.internal.Merge(r, &ev.Flow)
		e.internal.Revive(r)
	}
	if !ev.Own && r != 0 {
		e.queueFlow(kind, r)
	}
	if e.tellsLess(r, &ev.Flow) {
		e.askFor(now, k)
	}
}

func (e *Engine) insert(now time.Time, f *flow.Flow) cache.Ref {
	k := f.Key()
	return e.set(now, e.internal.Find(&k), &k, f)
}

// set puts a flow where Find has found its key, at 0 if it has not.
func (e *Engine) set(now time.Time, at cache.Ref, k *flow.Key, f *flow.Flow) cache.Ref {
	r, err := e.internal.Set(at, k, f, now.Unix())
	if err != nil {
		e.drops.cacheFull++
		return 0
	}
	return r
}

// replace puts a flow in the place of an ended one with the same key; a message
// that waits for that place stays.
func (e *Engine) replace(now time.Time, r cache.Ref, f *flow.Flow) {
	n := e.internal.Note(r)
	e.insert(now, f)
	e.internal.SetNote(r, n)
}

// sameLife reports whether a NEW event repeats what the cache holds, as the
// kernel does when another listener with reliable delivery missed it.
func (e *Engine) sameLife(r cache.Ref, f *flow.Flow) bool {
	id, ok := e.internal.ID(r)
	return ok && f.Has&flow.HasID != 0 && id == f.ID
}

// anotherLife reports whether the kernel speaks of another flow than the one under
// the same key here, as far as their ids are known. It says an end again, maybe behind
// the birth of the next, when another listener with reliable delivery missed it.
func (e *Engine) anotherLife(r cache.Ref, f *flow.Flow) bool {
	id, ok := e.internal.ID(r)
	return ok && f.Has&flow.HasID != 0 && id != f.ID
}

func (e *Engine) captureDestroy(r cache.Ref, f *flow.Flow) {
	e.fill.bury(f)
	if r == 0 {
		e.flushedDestroyed(f)
		return
	}
	if f.Has&flow.HasCounters != 0 {
		e.traffic.Bytes += f.Counters.OrigBytes + f.Counters.ReplyBytes
		e.traffic.Packets += f.Counters.OrigPackets + f.Counters.ReplyPackets
	}
	e.queueDelete(r)
}

// An entry's note is the place of its message in e.out, plus one, while that
// message waits to be transmitted.

// queueFlow sees to it that the flow's state is sent with this batch.
func (e *Engine) queueFlow(kind wire.Type, r cache.Ref) {
	if e.internal.Note(r) != 0 {
		return
	}
	e.out = append(e.out, ftfw.Out{Type: kind, Key: e.internal.Key(r), Ref: uint32(r)})
	e.internal.SetNote(r, uint32(len(e.out)))
}

// queueDelete removes the entry and sees to it that the peers are told, unless
// they never heard of it.
func (e *Engine) queueDelete(r cache.Ref) {
	k := e.internal.Key(r)
	n := e.internal.Note(r)
	handle := uint32(0)
	if e.internal.Known(r) {
		handle = uint32(r)
	}
	e.internal.Delete(r)
	if n != 0 {
		unborn := e.out[n-1].Type == wire.CTNew
		e.out[n-1].Ref = 0
		if unborn {
			return
		}
	}
	e.out = append(e.out, ftfw.Out{Type: wire.CTDel, Key: k, Ref: handle})
}
