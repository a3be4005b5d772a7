package engine

import (
	"slices"

	"github.com/conntrack-sync/conntrack-sync/sync/cache"
)

// A commit writes flows before those they are masters of; among them those that
// carry traffic before those that begin or end; among them what was heard of last
// first. In one number, the smaller the earlier: child, idle, age in seconds, and
// the entry.
const (
	orderChild = 1 << 63
	orderIdle  = 1 << 62
	orderAge   = 1<<30 - 1
)

// commitOrder lists the entries to be written, or those of them that changed since
// they were.
func (e *Engine) commitOrder(changed bool) []cache.Ref {
	var order []uint64
	for at, more := cache.Ref(0), true; more; more = at != 0 {
		order, at = e.orderSlice(order, at, changed)
	}
	slices.Sort(order)
	refs := make([]cache.Ref, len(order))
	for i, o := range order {
		refs[i] = cache.Ref(uint32(o))
	}
	return refs
}

func (e *Engine) orderSlice(order []uint64, at cache.Ref, changed bool) ([]uint64, cache.Ref) {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := e.external
	if changed && x.DirtyCount() == 0 {
		return order, 0
	}
	now := e.now().Unix()
	for range sweepSlice {
		if at = x.Next(at); at == 0 {
			break
		}
		if changed && !x.Dirty(at) {
			continue
		}
		o := uint64(min(max(now-x.Heard(at), 0), orderAge))<<32 | uint64(at)
		if x.HasMaster(at) {
			o |= orderChild
		}
		if !x.Carries(at) {
			o |= orderIdle
		}
		order = append(order, o)
	}
	return order, at
}
