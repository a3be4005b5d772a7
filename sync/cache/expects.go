package cache

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// Expects is a set of expectations. There are few of them and they are short
// lived, so this is a plain map. One that ended stays known for a while as
// buried: its content is needed to tell a peer of its end, and to tell it again.
// An Expects belongs to one goroutine at a time. Make one with NewExpects.
type Expects struct {
	live   map[flow.Key]*expect
	buried map[flow.Key]*expect
	gen    uint32
	stats  stats.Cache
}

type expect struct {
	x   flow.Expect
	gen uint32
	at  int64 // Unix seconds of the burial
}

// NewExpects makes an empty set.
func NewExpects() *Expects {
	return &Expects{live: map[flow.Key]*expect{}, buried: map[flow.Key]*expect{}}
}

// Stats counts what happened since the set was made.
func (t *Expects) Stats() stats.Cache { return t.stats }

// Len is the number of expectations.
func (t *Expects) Len() int { return len(t.live) }

// Put inserts x, or replaces what stood under its key; now is Unix seconds.
// changed says whether it is new or different in more than its timeout.
func (t *Expects) Put(x *flow.Expect, now int64) (changed bool) {
	k := x.Key()
	delete(t.buried, k)
	e := t.live[k]
	if e == nil {
		e = &expect{x: *x}
		e.x.Since = now
		t.live[k] = e
		t.stats.Created++
		t.stats.Active++
		changed = true
	} else {
		t.stats.Updated++
		old := e.x
		e.x = *x
		e.x.Since = old.Since
		old.Timeout = e.x.Timeout
		changed = old != e.x
	}
	e.gen = t.gen
	return changed
}

// Find returns the expectation, or a buried one, with this key; nil if there is
// none. The owner may read it until the next Put or Bury.
func (t *Expects) Find(k flow.Key) (x *flow.Expect, live bool) {
	if e := t.live[k]; e != nil {
		return &e.x, true
	}
	if e := t.buried[k]; e != nil {
		return &e.x, false
	}
	return nil, false
}

// Bury ends an expectation and keeps its content until Forget.
func (t *Expects) Bury(k flow.Key, now int64) (was bool) {
	e := t.live[k]
	if e == nil {
		return false
	}
	delete(t.live, k)
	e.at = now
	t.buried[k] = e
	t.stats.Destroyed++
	t.stats.Active--
	return true
}

// Forget drops what was buried before the given time in Unix seconds.
func (t *Expects) Forget(before int64) {
	for k, e := range t.buried {
		if e.at < before {
			delete(t.buried, k)
		}
	}
}

// NewGeneration begins a comparison; Old are those not put since.
func (t *Expects) NewGeneration() { t.gen++ }

// Old lists the keys not put since the last NewGeneration.
func (t *Expects) Old() (keys []flow.Key) {
	for k, e := range t.live {
		if e.gen != t.gen {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, compareKeys)
	return keys
}

// All returns copies in a stable order: by key.
func (t *Expects) All() []flow.Expect {
	all := make([]flow.Expect, 0, len(t.live))
	for _, e := range t.live {
		all = append(all, e.x)
	}
	slices.SortFunc(all, func(a, b flow.Expect) int { return compareKeys(a.Key(), b.Key()) })
	return all
}

func compareKeys(a, b flow.Key) int {
	return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.Proto, b.Proto), bytes.Compare(a.Src[:], b.Src[:]),
		bytes.Compare(a.Dst[:], b.Dst[:]), cmp.Compare(a.Sport, b.Sport), cmp.Compare(a.Dport, b.Dport), cmp.Compare(a.Zone, b.Zone))
}
