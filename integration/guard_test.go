package integration

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/integration/lab"
)

// TestGuardWhileTheCommitIsLate: the new router's engine stands still while the
// virtual addresses arrive, so no entry is there when packets come. With an open
// INPUT policy its own stack resets what it does not know; the guard keeps it
// from that. Without the guard flows die: the test can tell.
func TestGuardWhileTheCommitIsLate(t *testing.T) {
	t.Run("guarded", func(t *testing.T) {
		died, inTime := 0, false
		for range 5 {
			if died, inTime = lateCommit(t, lab.Seed); inTime {
				break
			}
			t.Log("the machine was too slow: the guard had lapsed")
		}
		switch {
		case !inTime:
			t.Error("five times too slow")
		case died > 0:
			t.Errorf("%d flows died", died)
		}
	})
	t.Run("takeover-guard disable", func(t *testing.T) {
		for range 5 {
			if died, _ := lateCommit(t, lab.Seed+"set service conntrack-sync takeover-guard disable\n"); died > 0 {
				t.Logf("%d flows died", died)
				return
			}
		}
		t.Error("no flow dies without the guard: the test above proves nothing")
	})
}

// lateCommit stops the engine of the standby for the take-over and counts the
// flows that do not survive it. inTime is false when it stood still for so long
// that the guard may have lapsed. Flows of UDP whose port is changed do not count:
// the part of the guard that they need is raised by the engine that stands still.
func lateCommit(t *testing.T, config string) (died int, inTime bool) {
	l := newLab(t, lab.Options{Config: [2]string{config, config}, Policy: lab.Policy{AcceptInput: true, AcceptForward: true}})
	defer l.Close()
	rs := startPair(t, l)
	users := must[*lab.Users](t)(l.StartUsers(usersPerKind))
	defer users.Close()
	waitHolds(t, l, l.R[1])
	engine := plugin(t, l.R[1]).PID
	began := time.Now()
	ok(t, syscall.Kill(engine, syscall.SIGSTOP))
	rs[0].keepalived.Signal(syscall.SIGTERM)
	for !l.R[1].HasVirtual() && time.Since(began) < 20*time.Second {
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(400 * time.Millisecond) // packets come and find no entry
	inTime = time.Since(began) < 1400*time.Millisecond
	ok(t, syscall.Kill(engine, syscall.SIGCONT))
	waitRole(t, l.R[1], "MASTER")
	r, err := users.Round()
	ok(t, err)
	for _, f := range r.Failed {
		if !strings.HasPrefix(f, lab.Mapped) {
			t.Log(f)
			died++
		}
	}
	s, err := l.R[1].Status()
	ok(t, err)
	t.Logf("guard: %+v", s.Guard)
	return died, inTime
}
