package shim

import (
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// Snapshot is what a host may follow.
type Snapshot struct {
	Groups []GroupSnapshot // in order of the configuration
	Engine stats.Plugin    // its PID is 0 while none runs
	// Commit is the last one, Running while it does; nil before the first.
	Commit *stats.Commit
}

// GroupSnapshot is what a host may follow of a sync group.
type GroupSnapshot struct {
	GroupState
	Readiness stats.Readiness // at the last look, which is a second old at most
}

// Snapshot is what is true now, and a channel that is closed at the next change.
func (s *Shim) Snapshot() (now Snapshot, wake <-chan struct{}) {
	wake = s.view(func() {
		for _, st := range s.groupStates() {
			now.Groups = append(now.Groups, GroupSnapshot{st, s.groups[st.Name].ready})
		}
		now.Engine, now.Commit = s.process, s.lastCommit
	})
	return now, wake
}

// seeCommit keeps the engine's account of its last commit; mu is held. It reports
// whether that is news.
func (s *Shim) seeCommit(c *stats.Commit) (news bool) {
	was := s.lastCommit
	if c == nil || was != nil && was.At == c.At && was.Running == c.Running && was.Entries == c.Entries && was.Trigger == c.Trigger {
		return false
	}
	s.lastCommit = c
	return true
}
