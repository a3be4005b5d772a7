package shim

import (
	"net/url"
	"sync"
	"time"

	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
)

// Where scripts written for conntrackd drive this node and nothing else tells
// its role, the role is read from what they ask for. Every published one asks
// for a commit, a flush of both caches, a comparison and a bulk update, in this
// order, when its node becomes MASTER, and shortens the timers when it ceases
// to be. A request made by hand is never all of it.
type scripts struct {
	mu   sync.Mutex
	done int       // requests of takeOver seen, in its order
	last time.Time // the last of them
}

// scriptPause is how long a script may take from one request to the next, a commit
// of a large table included.
const scriptPause = 2 * time.Minute

var takeOver = [...]string{"/commit", "/flush", "/resync", "/bulk"}

// step takes a request made at now and returns the role it tells, "" if none.
func (t *scripts) step(now time.Time, request *url.URL) vrrpwatch.State {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.last) > scriptPause {
		t.done = 0
	}
	t.last = now
	what := request.Path
	if request.Query().Get("table") != "" {
		what += " of one cache"
	}
	switch {
	case what == "/shorten-timers":
		t.done = 0
		return vrrpwatch.Backup
	case t.done > 0 && what == takeOver[t.done-1]: // once a table, as VyOS's does
	case what == takeOver[t.done]:
		t.done++
	case what == takeOver[0]:
		t.done = 1
	default:
		t.done = 0
	}
	if t.done < len(takeOver) {
		return ""
	}
	t.done = 0
	return vrrpwatch.Master
}

// scriptAsks takes note of a request by a script. The role it tells goes into the
// group's state file, and is found there again after a restart; it is acted on as
// any other: what the script has done already is found done.
func (s *Shim) scriptAsks(request *url.URL) {
	state := s.scripts.step(s.opt.Now(), request)
	if state == "" {
		return
	}
	r := vrrpwatch.Record{Kind: vrrpwatch.KindScript, State: state, Stamp: s.opt.Now()}
	s.view(func() {
		g := s.first()
		told := g.role.State != "" && g.role.Source != vrrpwatch.SourceScript
		if len(s.groups) == 1 && !told && g.role.State != state { // of several, requests do not say which
			r.Name = g.name
		}
	})
	if r.Name == "" {
		return
	}
	if err := vrrpwatch.Write(s.opt.StateDir, r); err != nil {
		s.log.Error("the role a script tells", "state", state, "err", err)
	}
}
