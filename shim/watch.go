package shim

import (
	"context"
	"slices"
	"time"

	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
)

// GroupState is what a routing host may act upon, of one sync group. It says
// what is, not what happened: a host that missed one acts on the next.
type GroupState struct {
	Name  string
	Role  vrrpwatch.State // "" while none is known
	Since time.Time       // of the role
	// Change grows with each word of keepalived's, a repeated role included.
	Change int
	// Committed says that the take-over of this role has written the peer's
	// flows into the kernel, or had none to write: traffic may come.
	Committed bool
	// Engine says that an engine runs and knows the group.
	Engine bool
}

// Watch calls fn with the states of all followed groups, in order of their
// configuration: at once, then after each change, until ctx ends. Calls come one
// at a time; changes during a call come together in the next.
func (s *Shim) Watch(ctx context.Context, fn func([]GroupState)) error {
	var last []GroupState
	for first := true; ; first = false {
		var now []GroupState
		wake := s.view(func() { now = s.groupStates() })
		if first || !slices.Equal(now, last) {
			fn(now)
			last = slices.Clone(now)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
		}
	}
}

// Groups are the states of now.
func (s *Shim) Groups() (list []GroupState) {
	s.view(func() { list = s.groupStates() })
	return list
}

// groupStates are those of now; mu is held.
func (s *Shim) groupStates() (list []GroupState) {
	for _, name := range s.groupNames() {
		g := s.groups[name]
		list = append(list, GroupState{
			Name: name, Role: g.role.State, Since: g.since, Change: g.serial,
			Committed: g.role.State == vrrpwatch.Master && g.taken == g.serial,
			Engine:    s.engineOf(g) != nil,
		})
	}
	return list
}
