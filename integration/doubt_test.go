package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/integration/lab"
)

func waitAlarm(t *testing.T, n *lab.Node, text string, stands bool) {
	t.Helper()
	wait(t, fmt.Sprintf("%s: alarm %q: %v", n.Name, text, stands), func() (bool, error) {
		s, err := n.Status()
		return err == nil && strings.Contains(strings.Join(s.Alarms, "\n"), text) == stands, fmt.Errorf("%q %w", s.Alarms, err)
	})
}

// TestWhatSpeaksAgainstARole is said, and changes nothing: a keepalived that was
// killed leaves its router MASTER, in its files too, while the other one takes over.
// A daemon that starts on such files does not believe them.
func TestWhatSpeaksAgainstARole(t *testing.T) {
	l := newLab(t, lab.Options{})
	rs := startPair(t, l)
	r1, r2 := l.R[0], l.R[1]
	r1.KillKeepalived()
	waitAlarm(t, r1, "keepalived does not run any more; MASTER is the last role it gave", true)
	waitRole(t, r2, "MASTER")
	waitAlarm(t, r1, "both say that they are MASTER", true)
	waitAlarm(t, r2, "both say that they are MASTER", true)
	waitRole(t, r1, "MASTER")
	wait(t, "the alarm in the log", func() (bool, error) {
		return strings.Contains(rs[1].sync.Output(), "alarm: this node and"), nil
	})
	if err := rs[0].sync.Stop(); err != nil {
		t.Error(err)
	}
	again := startSync(t, r1)
	wait(t, "the refusal in the log", func() (bool, error) {
		return strings.Contains(again.Output(), "says MASTER and is not believed"), nil
	})
	waitRole(t, r1, "UNKNOWN")
	waitAlarm(t, r2, "both say that they are MASTER", false)
	for _, dev := range []string{"lan0", "wan0"} { // what a killed keepalived leaves
		_, _ = r1.Run("ip", "addr", "del", map[string]string{"lan0": lab.LANVirtual, "wan0": lab.WANVirtual}[dev]+"/24", "dev", dev)
	}
	must[*lab.Process](t)(r1.StartKeepalived())
	waitRole(t, r1, "MASTER")
	waitRole(t, r2, "BACKUP")
	waitAlarm(t, r1, "MASTER", false)
	// A daemon that is started again beside a keepalived that runs believes it.
	if err := again.Stop(); err != nil {
		t.Error(err)
	}
	startSync(t, r1)
	waitRole(t, r1, "MASTER")
}
