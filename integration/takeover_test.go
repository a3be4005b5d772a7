package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/integration/lab"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// matrixVar asks for the whole matrix: every policy, and so many rounds of each.
const matrixVar = "CONNTRACK_SYNC_MATRIX"

// usersPerKind is how many flows of each kind there are.
const usersPerKind = 4

// failure is a way to lose r1, and the way it comes back.
type failure struct {
	name  string
	loses func(t *testing.T, r *router, n *lab.Node)
	back  func(t *testing.T, r *router, n *lab.Node)
}

var failures = []failure{
	{"orderly stop", func(_ *testing.T, r *router, _ *lab.Node) { _ = r.keepalived.Stop() }, startKeepalived},
	{"crash of keepalived", func(t *testing.T, r *router, _ *lab.Node) { ok(t, r.keepalived.Crash()) }, startKeepalived},
	{"all links down", func(t *testing.T, _ *router, n *lab.Node) { ok(t, n.LinksDown()) },
		func(t *testing.T, _ *router, n *lab.Node) { ok(t, n.LinksUp()) }},
	{"power loss", func(t *testing.T, _ *router, n *lab.Node) { ok(t, n.PowerOff()) },
		func(t *testing.T, r *router, n *lab.Node) {
			ok(t, n.PowerOn())
			r.sync = startSync(t, n)
			startKeepalived(t, r, n)
		}},
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// startKeepalived lets a router come back; its readiness file keeps it from taking
// over before its view is equal.
func startKeepalived(t *testing.T, r *router, n *lab.Node) {
	r.keepalived = must[*lab.Process](t)(n.StartKeepalived())
}

// waitProven waits until a node's view is proven equal to the MASTER's table.
func waitProven(t *testing.T, n *lab.Node) {
	t.Helper()
	wait(t, n.Name+"'s proof", func() (bool, error) {
		s, err := n.Status()
		return err == nil && s.View != nil && s.View.InSync, fmt.Errorf("view %+v, %w", s.View, err)
	})
}

// waitHolds waits until a node knows every user's flow.
func waitHolds(t *testing.T, l *lab.Lab, standby *lab.Node) {
	t.Helper()
	ok(t, l.AwaitUsers(standby, usersPerKind*uint64(len(lab.Kinds)+1)))
	waitProven(t, standby)
}

// TestTakeOver loses r1 in every way a pair meets, and takes it back each time,
// with flows of every kind running through: none dies, none is corrupted, none
// changes its translation. A compact part of the matrix, unless CONNTRACK_SYNC_MATRIX
// asks for all of it.
func TestTakeOver(t *testing.T) {
	policies := []lab.Policy{{}, {AcceptInput: true, AcceptForward: true, Loose: true}}
	rounds := 1
	if all := os.Getenv(matrixVar); all != "" {
		policies = []lab.Policy{{}, {Loose: true}, {AcceptInput: true}, {AcceptInput: true, Loose: true},
			{AcceptInput: true, AcceptForward: true}, {AcceptInput: true, AcceptForward: true, Loose: true}}
		_, _ = fmt.Sscan(all, &rounds)
	}
	for _, p := range policies {
		t.Run(p.String(), func(t *testing.T) { takeOvers(t, p, rounds) })
	}
}

func takeOvers(t *testing.T, p lab.Policy, rounds int) {
	l := newLab(t, lab.Options{Policy: p, Track: true})
	rs := startPair(t, l)
	users := must[*lab.Users](t)(l.StartUsers(usersPerKind))
	defer users.Close()
	events, lost := 0, 0
	check := func(t *testing.T, what string) {
		t.Helper()
		r, err := users.Round()
		ok(t, err)
		if n := usersPerKind * len(lab.Kinds); what != "before" {
			events, lost = events+n, lost+n-r.Sum()
		}
		if len(r.Failed) > 0 {
			t.Fatalf("%s: %s", what, strings.Join(r.Failed, "; "))
		}
		gaps := ""
		for _, k := range []string{lab.Chat, lab.Inbound, lab.BulkDown, lab.BulkUp, lab.Feed, lab.Mapped} {
			gaps += fmt.Sprintf(" %s %.0f", k, r.GapMS[k])
		}
		t.Logf("%s: %d users well; longest wait in ms:%s", what, r.Sum(), gaps)
	}
	for range rounds {
		for _, f := range failures {
			t.Run(f.name, func(t *testing.T) {
				waitHolds(t, l, l.R[1])
				check(t, "before")
				f.loses(t, &rs[0], l.R[0])
				waitRole(t, l.R[1], "MASTER")
				check(t, "after the loss")
				taken(t, l.R[1])
				f.back(t, &rs[0], l.R[0])
				waitRole(t, l.R[0], "MASTER")
				check(t, "after the return")
				waitRole(t, l.R[1], "BACKUP")
				taken(t, l.R[0])
			})
			if t.Failed() {
				t.FailNow()
			}
		}
	}
	t.Logf("%d of %d flow-events survived", events-lost, events)
}

// taken looks at the account of a take-over.
func taken(t *testing.T, n *lab.Node) {
	t.Helper()
	var s stats.Status
	wait(t, n.Name+"'s commit and the guard's end", func() (bool, error) {
		var err error
		s, err = n.Status()
		return err == nil && s.Guard.State == "down" && s.Commit != nil && s.Commit.Trigger == "MASTER" && !s.Commit.Running,
			fmt.Errorf("guard %+v, commit %+v, %w", s.Guard, s.Commit, err)
	})
	if len(s.Commit.Refused) > 0 || s.Guard.Problem != "" {
		t.Errorf("%s: commit %+v, guard %+v", n.Name, s.Commit, s.Guard)
	}
	t.Logf("%s: commit of %d entries, %d of them before the role, %.1f ms earlier; guard dropped %d and %d packets",
		n.Name, s.Commit.Entries, s.Commit.Early, s.Commit.EarlyLeadMS, s.Guard.InputDrops, s.Guard.ForwardDrops)
}
