package host_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/host"
	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
)

// TestEvents: an engine that dies and comes back, and the roles, are heard of;
// somebody who comes later begins with what is true; a receiver that is slow is
// not left behind for ever; the channels end with the host.
func TestEvents(t *testing.T) {
	opt, remove := options()
	defer remove()
	h := host.Load(t.Context(), opt)
	events := h.Events(t.Context())
	until := func(ch <-chan host.Event, what string, ok func(e host.Event) bool) host.Event {
		t.Helper()
		for end := time.After(time.Minute); ; {
			select {
			case e, open := <-ch:
				if !open {
					t.Fatalf("%s: the channel is closed", what)
				}
				if ok(e) {
					return e
				}
			case <-end:
				t.Fatalf("no event: %s", what)
			}
		}
	}
	first := until(events, "an engine", func(e host.Event) bool { return e.Kind == host.Engine && e.Engine.PID != 0 })
	for _, role := range []vrrpwatch.State{vrrpwatch.Backup, vrrpwatch.Master, vrrpwatch.Backup, vrrpwatch.Master} {
		become(opt, role)
		time.Sleep(time.Millisecond) // of the stamps
	}
	until(events, "the last role and its commit", func(e host.Event) bool {
		return e.Kind == host.Role && e.State.Role == vrrpwatch.Master && e.State.Committed
	})
	p, err := os.FindProcess(first.Engine.PID)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	until(events, "the end of the engine", func(e host.Event) bool { return e.Kind == host.Engine && e.Engine.PID == 0 })
	until(events, "another engine", func(e host.Event) bool {
		return e.Kind == host.Engine && e.Engine.PID != 0 && e.Engine.PID != first.Engine.PID && e.Engine.Restarts == 1
	})
	late := h.Events(t.Context())
	until(late, "what is true already", func(e host.Event) bool { return e.Kind == host.Role && e.State.Committed })
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	for range events {
	}
	for range late {
	}
}

// TestBadStart: a configuration that cannot be used is what Wait returns.
func TestBadStart(t *testing.T) {
	opt, remove := options()
	defer remove()
	if err := os.WriteFile(filepath.Join(opt.ConfDir, "sync.conf"), []byte("set service conntrack-sync bgp prefix 198.51.100.1/24\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	err := host.Load(t.Context(), opt).Wait()
	if err == nil || !strings.Contains(err.Error(), "sync.conf:1: service conntrack-sync bgp prefix: 198.51.100.1/24 has bits set behind its length") {
		t.Errorf("%v", err)
	}
}
