package shim

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
)

// routesBecome waits for what routes follow.
func routesBecome(t *testing.T, r *rig, what string, ok func(g RouteGroup) bool) {
	t.Helper()
	var last []RouteGroup
	for end := time.After(20 * time.Second); ; {
		_, groups, wake := r.RouteState()
		if last = groups; len(groups) == 1 && ok(groups[0]) {
			return
		}
		select {
		case <-wake:
		case <-end:
			t.Fatalf("%s: %+v", what, last)
		}
	}
}

// TestRouteState: routes see the role, the end of the commit and the peers; the
// engine is told what became of them, again after its restart, and the operator
// can ask.
func TestRouteState(t *testing.T) {
	r := newRig(t)
	e := r.engine(t)
	r.role(t, vrrpwatch.Backup)
	routesBecome(t, r, "in sync with a peer", func(g RouteGroup) bool {
		return g.Role == "BACKUP" && g.InSync && !g.Committed && g.Engine && len(g.Peers) == 1
	})
	e.mu.Lock()
	e.hold = make(chan struct{})
	e.mu.Unlock()
	r.role(t, vrrpwatch.Master)
	routesBecome(t, r, "the commit runs", func(g RouteGroup) bool { return g.Role == "MASTER" && !g.Committed })
	close(e.hold)
	routesBecome(t, r, "committed", func(g RouteGroup) bool { return g.Committed })
	word := stats.RouteWord{Group: "SG", Settled: true, Raised: true, Generation: 3}
	r.Announce([]stats.RouteWord{word})
	told := func(e *fakeEngine) {
		t.Helper()
		want := fmt.Sprint("announce:", []stats.RouteWord{word})
		for end := time.Now().Add(20 * time.Second); !strings.Contains(e.told(), want); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("told %q", e.told())
			}
		}
	}
	told(e)
	// Roles may come and go before the routes notice: the engine, which took the word
	// back meanwhile, is told again what did not change.
	e.mu.Lock()
	e.calls, e.hold = nil, nil
	e.mu.Unlock()
	r.role(t, vrrpwatch.Backup)
	r.role(t, vrrpwatch.Master)
	told(e)
	close(e.gone)
	routesBecome(t, r, "the engine is gone", func(g RouteGroup) bool { return !g.Engine && g.Role == "MASTER" && g.Committed })
	told(r.engine(t))
	s, err := Dial(r.opt.RunDir).Routes(t.Context())
	if err != nil || s.Configured {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestRouteProblemsAreAlarms: what is wrong with the routes is in the status.
func TestRouteProblemsAreAlarms(t *testing.T) {
	r := newRig(t, func(_ *rig, o *Options) {
		o.Routes = func() stats.Routes {
			return stats.Routes{Configured: true, Problems: []string{"routes: nobody is there"}}
		}
	})
	r.engine(t)
	s, err := r.Status(t.Context())
	if err != nil || !slices.Contains(s.Alarms, "routes: nobody is there") {
		t.Errorf("%q, %v", s.Alarms, err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		d, err := Dial(r.opt.RunDir).Routes(t.Context())
		if err == nil && d.Configured {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%+v, %v", d, err)
		}
	}
}
