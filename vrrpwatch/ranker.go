package vrrpwatch

import (
	"slices"
	"time"
)

// Change is a role of a sync group as it is to be acted upon. The same state
// may come twice in a row: keepalived said it anew.
type Change struct {
	Group    string
	State    State
	Priority int
	Stamp    time.Time
	Source   string // fifo, file, instances, or SourceScript
}

// SourceScript is the source of a group's file that was written for a script.
const SourceScript = "conntrackd's script"

// Ranker decides what the group's role is from what the sources say. The fifo
// is ordered and wins over files for as long as the process lives, once it has
// spoken; the group's own file wins over those of its instances. Among files a
// stamp orders the writers. A Ranker reads no clock and does no I/O.
type Ranker struct {
	group   string
	members []string
	files   map[string]Record // newest record of each state file

	current   Change
	spoken    bool // the fifo has
	disagrees time.Time
}

// contradictAfter is how long a file may disagree with the fifo before it is
// reported: scripts run later than the fifo's lines.
const contradictAfter = 2 * time.Second

// NewRanker makes a Ranker for a group; members may be empty.
func NewRanker(group string, members []string) *Ranker {
	return &Ranker{group: group, members: members, files: map[string]Record{}}
}

// SetMembers tells the group's instances of now. A role changes only when one of
// their files does.
func (r *Ranker) SetMembers(members []string) { r.members = members }

// FIFO takes a line that was read at now. Every line of the group is a change.
func (r *Ranker) FIFO(now time.Time, rec Record) (c Change, ok bool) {
	if rec.Kind != "GROUP" || rec.Name != r.group {
		return c, false
	}
	r.spoken = true
	return r.become(Change{Group: r.group, State: rec.State, Priority: rec.Priority, Stamp: now, Source: "fifo"}), true
}

// File takes the content of a state file. A content read again is no event.
func (r *Ranker) File(name string, rec Record) (c Change, ok bool) {
	if old, known := r.files[name]; known && (!rec.Stamp.After(old.Stamp)) {
		return c, false
	}
	if name != r.group && !slices.Contains(r.members, name) {
		return c, false
	}
	r.files[name] = rec
	if r.spoken {
		return c, false
	}
	c, ok = r.fromFiles()
	same := c.State == r.current.State
	switch {
	case !ok, same && !c.Stamp.After(r.current.Stamp), same && c.Source == "instances":
		// Of the last kind: another member says what one has said.
		return Change{}, false
	}
	return r.become(c), true
}

func (r *Ranker) become(c Change) Change {
	r.current, r.disagrees = c, time.Time{}
	return c
}

// fromFiles is the role the files give.
func (r *Ranker) fromFiles() (c Change, ok bool) {
	if rec, has := r.files[r.group]; has {
		c = Change{Group: r.group, State: rec.State, Priority: rec.Priority, Stamp: rec.Stamp, Source: "file"}
		if rec.Kind == KindScript {
			c.Source = SourceScript
		}
		return c, true
	}
	c = Change{Group: r.group, Source: "instances"}
	count := map[State]int{}
	for _, m := range r.members {
		rec, has := r.files[m]
		if !has {
			continue
		}
		count[rec.State]++
		if rec.Stamp.After(c.Stamp) {
			c.Stamp, c.Priority = rec.Stamp, rec.Priority
		}
	}
	switch n := len(r.members); {
	case n == 0:
		return c, false
	case count[Fault] > 0:
		c.State = Fault
	case count[Master] == n:
		c.State = Master
	case count[Stop] == n:
		c.State = Stop
	case count[Backup] > 0:
		c.State = Backup
	default:
		return c, false
	}
	return c, true
}

// Contradiction reports a group file that has said something else than the fifo
// for some time.
func (r *Ranker) Contradiction(now time.Time) (file State, found bool) {
	rec, has := r.files[r.group]
	if !r.spoken || !has || rec.State == r.current.State {
		r.disagrees = time.Time{}
		return "", false
	}
	if r.disagrees.IsZero() {
		r.disagrees = now
	}
	if now.Sub(r.disagrees) < contradictAfter {
		return "", false
	}
	return rec.State, true
}
