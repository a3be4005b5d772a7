package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/integration/lab"
)

// migration is a pair that is moved from conntrackd to conntrack-sync and back as
// docs/MIGRATION.md says, with flows through it all the time.
type migration struct {
	t          *testing.T
	l          *lab.Lab
	hold       *lab.Hold
	ours       [2]bool
	daemon     [2]*lab.Process
	keepalived [2]*lab.Process
}

const moved = 10 // flows

// start starts the router's daemon and waits until it answers.
func (m *migration) start(k int, ours bool) {
	m.t.Helper()
	m.ours[k] = ours
	if ours {
		m.daemon[k] = startSync(m.t, m.l.R[k])
		return
	}
	m.daemon[k] = must[*lab.Process](m.t)(m.l.R[k].StartConntrackd())
	wait(m.t, "conntrackd answering", func() (bool, error) {
		_, err := m.l.R[k].Conntrackd("-s")
		return err == nil, err
	})
}

// holds waits until the router has every flow of the other.
func (m *migration) holds(k int) {
	m.t.Helper()
	if m.ours[k] {
		must[string](m.t)(m.l.R[k].Sync("request-resync"))
	} else {
		must[string](m.t)(m.l.R[k].Conntrackd("-n"))
	}
	wait(m.t, m.l.R[k].Name+" holding the other's flows", func() (bool, error) {
		if m.ours[k] {
			_, ex, err := m.l.R[k].Active()
			return ex == moved, fmt.Errorf("%d entries, %v", ex, err)
		}
		out, err := m.l.R[k].Conntrackd("-e")
		return strings.Count(out, lab.ClientAddr) == moved, err
	})
}

// takeOver waits until the router is MASTER; conntrackd is told so, as
// primary-backup.sh does.
func (m *migration) takeOver(k int) {
	m.t.Helper()
	n := m.l.R[k]
	wait(m.t, "the address on "+n.Name, func() (bool, error) { return n.HasVirtual(), nil })
	if m.ours[k] {
		waitRole(m.t, n, "MASTER")
		return
	}
	for _, request := range []string{"-c", "-f", "-R", "-B"} {
		must[string](m.t)(n.Conntrackd(request))
	}
}

// replace puts the other program on r2, the standby, takes over there, and does
// the same on r1, which then takes over again.
func (m *migration) replace(ours bool) {
	m.t.Helper()
	for _, k := range []int{1, 0} {
		_ = m.keepalived[k].Stop() // r2 first: nothing moves; then r1: r2 takes over
		if k == 0 {
			m.takeOver(1)
			m.lives("after r2 took over")
		}
		if err := m.daemon[k].Stop(); err != nil {
			m.t.Logf("%s: %v", m.l.R[k].Name, err)
		}
		m.start(k, ours)
		m.holds(k)
		m.keepalived[k] = must[*lab.Process](m.t)(m.l.R[k].StartKeepalived())
		if k == 0 { // with the higher priority
			m.takeOver(0)
			m.lives("after r1 took over")
			m.holds(1)
		}
	}
}

func (m *migration) lives(when string) {
	m.t.Helper()
	if r := must[lab.Held](m.t)(m.hold.Round()); r.OK != moved {
		m.t.Errorf("%s, %v: %d of %d flows live: %v", when, m.ours, r.OK, moved, r.Failed)
	}
}

// TestMigration: from conntrackd to conntrack-sync, one router at a time, and back.
func TestMigration(t *testing.T) {
	m := &migration{t: t, l: newLab(t, lab.Options{})}
	for k := range m.l.R {
		m.start(k, false)
		m.keepalived[k] = must[*lab.Process](t)(m.l.R[k].StartKeepalived())
		wait(t, "the address on r1", func() (bool, error) { return m.l.R[0].HasVirtual(), nil })
	}
	must[*lab.Process](t)(m.l.Serve())
	m.hold = must[*lab.Hold](t)(m.l.StartHold(moved))
	defer m.hold.Close()
	m.holds(1)
	m.replace(true)
	for _, n := range m.l.R {
		wait(t, "our protocol on "+n.Name, func() (bool, error) {
			s, err := n.Status()
			return err == nil && len(s.Peers) == 1 && s.Peers[0].Protocol == "native", fmt.Errorf("%+v, %v", s.Peers, err)
		})
	}
	m.replace(false)
	m.lives("at the end")
}
