package host

import (
	"context"
	"time"

	"github.com/conntrack-sync/conntrack-sync/shim"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// Kind says what an Event is about.
type Kind string

// The kinds of events.
const (
	Role      Kind = "role"      // a word of keepalived's, or the end of the commit it made necessary: Group, State
	Commit    Kind = "commit"    // a commit began, went on or ended: Commit
	Readiness Kind = "readiness" // of a group: Group, State, Readiness
	Engine    Kind = "engine"    // it came into service, or ended: Engine
)

// Event is something that changed. What of its members is set follows from Kind.
type Event struct {
	At        time.Time
	Kind      Kind
	Group     string
	State     GroupState
	Commit    *stats.Commit // Running while it does
	Readiness stats.Readiness
	Engine    stats.Plugin // its PID is 0 while none runs
}

// Events says what changes from now on, beginning with what is true, until ctx
// ends or conntrack-sync does; then the channel is closed. A receiver that is slow
// loses what was over before it came: the next events bring it to what is true
// then.
func (h *Handle) Events(ctx context.Context) <-chan Event {
	out := make(chan Event)
	go func() {
		defer close(out)
		var last shim.Snapshot
		for {
			now, wake := h.shim.Snapshot()
			for _, e := range changes(&last, &now) {
				e.At = time.Now()
				select {
				case out <- e:
				case <-ctx.Done():
					return
				case <-h.done:
					return
				}
			}
			last = now
			select {
			case <-ctx.Done():
				return
			case <-h.done:
				return
			case <-wake:
			}
		}
	}()
	return out
}

// changes are the events that lead from one moment to the next.
func changes(from, to *shim.Snapshot) (list []Event) {
	if from.Engine.PID != to.Engine.PID {
		list = append(list, Event{Kind: Engine, Engine: to.Engine})
	}
	before := map[string]shim.GroupSnapshot{}
	for _, g := range from.Groups {
		before[g.Name] = g
	}
	for _, g := range to.Groups {
		was := before[g.Name]
		if was.Change != g.Change || was.Committed != g.Committed {
			list = append(list, Event{Kind: Role, Group: g.Name, State: g.GroupState})
		}
		if len(g.Readiness.Reasons) > 0 && (len(was.Readiness.Reasons) == 0 || was.Readiness.Ready != g.Readiness.Ready) {
			list = append(list, Event{Kind: Readiness, Group: g.Name, State: g.GroupState, Readiness: g.Readiness})
		}
	}
	if from.Commit != to.Commit && to.Commit != nil {
		list = append(list, Event{Kind: Commit, Commit: to.Commit})
	}
	return list
}
