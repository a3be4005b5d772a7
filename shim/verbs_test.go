package shim

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// answers waits until the engine is in service.
func (r *rig) answers(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if _, err := Dial(r.dir + "/run").Statistics(t.Context()); err == nil {
			return
		}
	}
	t.Fatal("no engine in service")
}

func TestRestartReplacesTheEngine(t *testing.T) {
	r := newRig(t)
	old := r.engine(t)
	r.answers(t)
	if err := Dial(r.dir+"/run").Do(t.Context(), "restart"); err != nil {
		t.Fatal(err)
	}
	settles(t, old, "configure:SG stop")
	settles(t, r.engine(t), "configure:SG request bulk")
	if s, err := Dial(r.dir + "/run").Status(t.Context()); err != nil || s.Plugin.Restarts != 0 {
		t.Errorf("an operator's restart counts as a crash: %+v, %v", s.Plugin, err)
	}
}

func TestNoRestartDuringACommit(t *testing.T) {
	r := newRig(t)
	e := r.engine(t)
	r.answers(t)
	e.mu.Lock()
	e.hold = make(chan struct{})
	e.mu.Unlock()
	committed := make(chan error, 1)
	go func() {
		_, err := Dial(r.dir + "/run").Commit(context.Background())
		committed <- err
	}()
	settles(t, e, "configure:SG commit")
	err := Dial(r.dir+"/run").Do(t.Context(), "restart")
	if err == nil || err.Error() != "Cannot restart conntrack-sync while a commit is in progress" {
		t.Errorf("%v", err)
	}
	close(e.hold)
	if err := <-committed; err != nil {
		t.Error(err)
	}
}

func TestReset(t *testing.T) {
	r := newRig(t)
	e := r.engine(t)
	r.answers(t)
	for _, verb := range []string{"reset?cache=external", "reset?cache=internal"} {
		if err := Dial(r.dir+"/run").Do(t.Context(), verb); err != nil {
			t.Error(err)
		}
	}
	settles(t, e, "configure:SG flush:external request flush:internal resync bulk")
}

func TestBecauseIsOneLine(t *testing.T) {
	if err := because(errRefill, nil); err != nil {
		t.Error(err)
	}
	err := because(errRefill, errors.New("permission denied"))
	if want := "ERROR: failed to resynchronize internal cache with kernel conntrack table: permission denied"; err.Error() != want {
		t.Errorf("%v", err)
	}
}

func TestChanges(t *testing.T) {
	from := []string{"set a 1", "set b", "set c"}
	to := []string{"set a 2", "set b", "set d"}
	if got := changes(from, to); !slices.Equal(got, []string{"delete a 1", "delete c", "set a 2", "set d"}) {
		t.Errorf("%q", got)
	}
	if got := changes(from, from); got != nil {
		t.Errorf("%q", got)
	}
}

func TestAlarms(t *testing.T) {
	up := stats.Link{Interface: "eth0", State: "up"}
	for want, st := range map[string]stats.Status{
		"":                              {Links: []stats.Link{up}, Peers: []stats.Peer{{Alive: true}}},
		"sync interface eth1 is absent": {Links: []stats.Link{up, {Interface: "eth1", State: "absent"}}, Peers: []stats.Peer{{Alive: true}}},
		"no peer is heard on the sync link for 7 s":                 {Links: []stats.Link{up}, Peers: []stats.Peer{{LastHeardMS: 7400}}},
		"no peer was ever heard":                                    {Links: []stats.Link{up}},
		"configuration refused, the former one is in force: a.conf": {Links: []stats.Link{up}, Peers: []stats.Peer{{Alive: true}}, Configuration: stats.Configuration{Errors: []string{"a.conf:1: x"}}},
	} {
		got := strings.Join(alarms(&st, true), "\n")
		if !strings.HasPrefix(got, want) || (want == "") != (got == "") || strings.Contains(got, "\n") {
			t.Errorf("want %q, got %q", want, got)
		}
	}
	if got := alarms(&stats.Status{}, false); len(got) != 1 || !strings.Contains(got[0], "engine is not running") {
		t.Errorf("%q", got)
	}
}

// TestAlarmsAreLogged once they last, and once more when they are over; a number
// that grows is the same alarm.
func TestAlarmsAreLogged(t *testing.T) {
	var b strings.Builder
	s := New(Options{Log: slog.New(slog.NewTextHandler(&b, nil))})
	l, at := alarmLog{}, time.Unix(1000, 0)
	l.look(s, at, []string{"no peer for 3 s", "a moment's"})
	l.look(s, at.Add(time.Second), []string{"no peer for 4 s"})
	l.look(s, at.Add(2*time.Second), []string{"no peer for 5 s"})
	l.look(s, at.Add(3*time.Second), nil)
	if n := strings.Count(b.String(), "\n"); n != 2 || !strings.Contains(b.String(), "alarm: no peer for 4 s") || !strings.Contains(b.String(), "alarm is over: no peer for") {
		t.Errorf("logged\n%s", b.String())
	}
}

func TestNaturalOrder(t *testing.T) {
	names := []string{"eth10", "eth2.10", "bond0", "eth2", "eth2.9", "eth02"}
	slices.SortFunc(names, natural)
	if got := strings.Join(names, " "); got != "bond0 eth2 eth2.9 eth2.10 eth02 eth10" {
		t.Error(got)
	}
}
