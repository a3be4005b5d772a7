package engine

import (
	"github.com/conntrack-sync/conntrack-sync/sync/cache"
)

// AlterExternal changes the external cache behind the engine's back.
func (e *Engine) AlterExternal(fn func(t *cache.Table)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fn(e.external)
}

// AlterInternal changes the internal cache behind the engine's back.
func (e *Engine) AlterInternal(fn func(t *cache.Table)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fn(e.internal)
}
