package shim

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/conntrack-sync/conntrack-sync/plugin/contract"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// Status says what this node is about.
func (s *Shim) Status(ctx context.Context) (stats.Status, error) {
	st, _, err := s.look(ctx)
	return st, err
}

// look makes a status, and says what the engine answered for it; nil when there is
// none or it does not answer.
func (s *Shim) look(ctx context.Context) (st stats.Status, e *stats.Engine, err error) {
	var (
		engine     contract.Engine
		configured bool
		doubts     []string
	)
	s.view(func() {
		configured = s.settings != nil
		if !configured {
			return
		}
		engine = s.engine
		st = s.configuredStatus()
		st.LastTransition = s.transition
		doubts = s.missingGroups()
		for _, name := range s.groupNames() {
			doubts = append(doubts, s.groups[name].doubts...)
		}
	})
	if !configured {
		return st, nil, ErrNotConfigured
	}
	e = s.askEngine(ctx, engine)
	said := e
	if said == nil {
		said = &stats.Engine{}
	}
	s.view(func() { st.Groups = s.groupStatus(e) })
	st.Peers, st.Commit, st.Guard = said.Peers, said.Commit, said.Guard
	if st.Peers == nil {
		st.Peers = []stats.Peer{}
	}
	st.Excluded, st.View = said.Excluded, said.View
	st.Links, st.Plugin.Release = said.Links, said.Release
	if st.Links == nil {
		st.Links = []stats.Link{}
	}
	s.view(func() {
		if g := s.groups[st.SyncGroup]; g != nil {
			st.Readiness = s.groupReadiness(g, e)
		}
	})
	st.Alarms = append(alarms(&st, e != nil), doubts...)
	if s.opt.Routes != nil {
		st.Alarms = append(st.Alarms, s.opt.Routes().Problems...)
	}
	if said.ForeignGroup {
		st.Alarms = append(st.Alarms, "a node on the link has sync groups that are not configured here; give all nodes the same ones")
	}
	if said.Conflict != "" {
		st.Alarms = append(st.Alarms, "this node and "+said.Conflict+" both say that they are MASTER")
	}
	return st, e, nil
}

func (s *Shim) askEngine(ctx context.Context, engine contract.Engine) *stats.Engine {
	if engine == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	e, err := engine.Status(ctx)
	if err != nil {
		s.log.Warn("the engine does not say its status", "err", err)
		return nil
	}
	s.answered.Store(true)
	return &e
}

// groupStatus says of each group how it stands, where there are several; mu is held.
func (s *Shim) groupStatus(e *stats.Engine) (list []stats.GroupStatus) {
	if len(s.groupNames()) < 2 {
		return nil
	}
	for _, name := range s.groupNames() {
		g, one := s.groups[name], said(e, name)
		x := stats.GroupStatus{Group: name, Role: "UNKNOWN", Readiness: s.groupReadiness(g, one), Peers: []stats.Peer{}}
		if g.role.State != "" {
			x.Role, x.Since = string(g.role.State), g.since.Format(time.RFC3339)
		}
		if one != nil {
			x.Peers, x.View, x.Commit, x.Guard = append(x.Peers, one.Peers...), one.View, one.Commit, one.Guard
		}
		list = append(list, x)
	}
	return list
}

// configuredStatus is the part that is known here; mu is held.
func (s *Shim) configuredStatus() stats.Status {
	st := stats.Status{
		Failover: "vrrp", SyncGroup: s.settings.SyncGroup, SyncProtocols: append([]string{}, s.settings.ExpectSync...),
		Release: s.opt.Release, Role: "UNKNOWN", Plugin: s.process,
		Configuration: stats.Configuration{Files: append([]string{}, s.files...), Errors: append([]string{}, s.problems...)},
	}
	if s.refusal != "" {
		st.Configuration.Errors = append(st.Configuration.Errors, s.refusal)
	}
	for _, i := range s.settings.Interfaces {
		st.SyncInterfaces = append(st.SyncInterfaces, i.Name)
	}
	slices.SortFunc(st.SyncInterfaces, natural)
	st.SyncInterface = strings.Join(st.SyncInterfaces, ", ")
	if g := s.first(); g.role.State != "" {
		st.Role = string(g.role.State)
		st.Since = g.since.Format(time.RFC3339)
	}
	return st
}

func orUnknown(release string) string {
	if release == "" {
		return "unknown"
	}
	return release
}

// natural compares names so that eth2 comes before eth10.
func natural(a, b string) int {
	for a != "" && b != "" {
		x, y := digits(a), digits(b)
		if x == "" || y == "" {
			if a[0] != b[0] {
				return cmp.Compare(a[0], b[0])
			}
			a, b = a[1:], b[1:]
			continue
		}
		n, m := strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
		if c := cmp.Or(cmp.Compare(len(n), len(m)), cmp.Compare(n, m), cmp.Compare(len(x), len(y))); c != 0 {
			return c
		}
		a, b = a[len(x):], b[len(y):]
	}
	return cmp.Compare(len(a), len(b))
}

// digits is the number a string begins with.
func digits(s string) string {
	return s[:len(s)-len(strings.TrimLeft(s, "0123456789"))]
}

// alarms names what is wrong at the moment and needs somebody's attention.
func alarms(st *stats.Status, engine bool) []string {
	list := []string{}
	for _, p := range st.Configuration.Errors {
		list = append(list, "configuration refused, the former one is in force: "+p)
	}
	if !engine {
		return append(list, "the engine is not running; it is started again by itself, see the log")
	}
	if st.Release != st.Plugin.Release {
		list = append(list, fmt.Sprintf("the daemon is release %s and its engine %s; install both of one release and restart", orUnknown(st.Release), orUnknown(st.Plugin.Release)))
	}
	for _, l := range st.Links {
		if l.State != "up" {
			list = append(list, fmt.Sprintf("sync interface %s is %s", l.Interface, l.State))
		}
	}
	if st.Guard.Problem != "" {
		list = append(list, "the take-over guard does not work, this node's own stack may reset flows while it takes over: "+st.Guard.Problem)
	}
	heard, alive := int64(-1), false
	for _, p := range st.Peers {
		alive = alive || p.Alive
		if heard < 0 || p.LastHeardMS < heard {
			heard = p.LastHeardMS
		}
	}
	switch {
	case alive:
	case heard >= 0:
		list = append(list, fmt.Sprintf("no peer is heard on the sync link for %d s; check the peer, the cable and its addresses", heard/1000))
	default:
		list = append(list, "no peer was ever heard on the sync link; check the peer, the cable, group or peer address and port")
	}
	return list
}
