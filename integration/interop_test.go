package integration

import (
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/integration/lab"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// startWith starts r1 and r2, one with conntrack-sync and the other with
// conntrackd, and makes r1 the MASTER.
func startWith(t *testing.T, l *lab.Lab, ours int) (keepalived [2]*lab.Process) {
	startSync(t, l.R[ours])
	startConntrackd(t, l.R[1-ours])
	for i, n := range l.R {
		keepalived[i] = must[*lab.Process](t)(n.StartKeepalived())
		wait(t, n.Name+"'s address", func() (bool, error) { return l.R[0].HasVirtual(), nil })
	}
	wait(t, "our node hearing conntrackd", func() (bool, error) {
		s, err := l.R[ours].Status()
		return err == nil && len(s.Peers) == 1 && s.Peers[0].Alive, err
	})
	must[*lab.Process](t)(l.Serve())
	return keepalived
}

// TestConntrackdAsStandby: conntrackd takes over what conntrack-sync sent.
func TestConntrackdAsStandby(t *testing.T) {
	l := newLab(t, lab.Options{})
	keepalived := startWith(t, l, 0)
	h := must[*lab.Hold](t)(l.StartHold(10))
	defer h.Close()
	wait(t, "10 entries at conntrackd", func() (bool, error) {
		out, err := l.R[1].Conntrackd("-e")
		return strings.Count(out, lab.ClientAddr) == 10, err
	})
	_ = keepalived[0].Stop()
	wait(t, "the address on r2", func() (bool, error) { return l.R[1].HasVirtual(), nil })
	for _, request := range []string{"-c", "-f", "-R", "-B"} {
		must[string](t)(l.R[1].Conntrackd(request))
	}
	if r := must[lab.Held](t)(h.Round()); r.OK != 10 {
		t.Errorf("after conntrackd took over: %v", r.Failed)
	}
	out := must[string](t)(l.R[1].Conntrackd("-s", "network"))
	for _, line := range strings.Split(out, "\n") {
		if strings.Contains(line, "Malformed") && !strings.HasSuffix(line, " 0") {
			t.Errorf("conntrackd says: %s", line)
		}
	}
}

// TestConntrackdAsActive: conntrack-sync takes over what conntrackd sent.
func TestConntrackdAsActive(t *testing.T) {
	l := newLab(t, lab.Options{})
	keepalived := startWith(t, l, 1)
	h := must[*lab.Hold](t)(l.StartHold(10))
	defer h.Close()
	wait(t, "10 entries here", func() (bool, error) {
		_, ex, err := l.R[1].Active()
		return ex == 10, err
	})
	flows := must[[]flow.Flow](t)(l.R[1].Cache("external"))
	for _, f := range flows {
		if f.Has&flow.HasSNAT == 0 || f.Reply.DstAddr().String() != lab.WANVirtual {
			t.Errorf("%v: the translation did not arrive: %v", f.Orig, f.Reply)
		}
	}
	_ = keepalived[0].Stop()
	waitRole(t, l.R[1], "MASTER")
	if r := must[lab.Held](t)(h.Round()); r.OK != 10 {
		t.Errorf("after the take-over: %v", r.Failed)
	}
}

// TestConntrackdJoinsOurs: two of ours fall back together when a conntrackd joins
// them, and return when it has left. Whatever it saw meanwhile, our own protocol
// included, it refuses nothing of it.
func TestConntrackdJoinsOurs(t *testing.T) {
	m := newGroupOf(t, 3, 2, toGroup)
	protocol := func(want string) {
		t.Helper()
		for _, r := range m.r[:2] {
			wait(t, r.Name+" speaking "+want, func() (bool, error) {
				s, err := r.Status()
				ok := err == nil
				some := false
				for _, p := range s.Peers {
					ok, some = ok && p.Protocol == want, some || p.Alive
				}
				return ok && some, fmt.Errorf("%+v %w", s.Peers, err)
			})
		}
	}
	m.load(t, 0.5)
	m.equal(t, "before", false, 1)
	d := must[*lab.Process](t)(m.r[2].StartConntrackd())
	protocol("conntrackd")
	m.load(t, 0.5)
	refusedNothing(t, m.r[2])
	_ = d.Stop()
	protocol("native")
	m.load(t, 0.5)
	m.equal(t, "after", false, 1)
}

// TestNativeFramesAtConntrackd: a node that speaks our own protocol whoever is there
// sends a conntrackd nothing that it refuses.
func TestNativeFramesAtConntrackd(t *testing.T) {
	m := newGroupOf(t, 2, 1, func(int) string {
		return lab.Seed + "set service conntrack-sync interface eth0 protocol native\n"
	})
	startConntrackd(t, m.r[1])
	m.load(t, 2)
	refusedNothing(t, m.r[1])
	if out := must[string](t)(m.r[1].Conntrackd("-e")); strings.Contains(out, lab.ServerAddr) {
		t.Errorf("frames were taken for flows:\n%s", out)
	}
}

// TestConntrackdOverALossyLink: what is lost of protocol 1 is asked for and sent
// again, between a conntrackd and ours, whichever is the active: afterwards the
// standby's external cache is the active's table.
func TestConntrackdOverALossyLink(t *testing.T) {
	session := func(n *lab.Node) map[string]uint64 { return must[stats.Statistics](t)(n.Statistics()).Session }
	t.Run("ours is active", func(t *testing.T) {
		m := newGroupOf(t, 2, 1, toGroup)
		startConntrackd(t, m.r[1])
		heard(t, m.r[0])
		loseWhileLoaded(t, m)
		sameAtConntrackd(t, m, 1, "after the loss")
		if s := session(m.r[0]); s["resent"] == 0 {
			t.Errorf("nothing was sent again: %v", s)
		} else {
			t.Logf("%v", s)
		}
		refusedNothing(t, m.r[1])
	})
	t.Run("conntrackd is active", func(t *testing.T) {
		m := newGroupOf(t, 2, 0, toGroup)
		startConntrackd(t, m.r[0])
		m.sync = append(m.sync, startSync(t, m.r[1]))
		if err := m.r[1].Notify("BACKUP"); err != nil {
			t.Fatal(err)
		}
		heard(t, m.r[1])
		loseWhileLoaded(t, m)
		m.equal(t, "after the loss", false, 1)
		if s := session(m.r[1]); s["nacks_sent"] == 0 {
			t.Errorf("nothing was asked for: %v", s)
		} else {
			t.Logf("%v", s)
		}
		refusedNothing(t, m.r[0])
	})
}

// loseWhileLoaded makes flows on the first router over a link that loses every
// twentieth datagram, and is whole afterwards.
func loseWhileLoaded(t *testing.T, m *members) {
	t.Helper()
	if err := m.hub.Set(lab.Faults{Drop: 0.05}); err != nil {
		t.Fatal(err)
	}
	m.load(t, 2)
	if err := m.hub.Set(lab.Faults{}); err != nil {
		t.Fatal(err)
	}
}

func startConntrackd(t *testing.T, n *lab.Node) {
	t.Helper()
	must[*lab.Process](t)(n.StartConntrackd())
	wait(t, "conntrackd answering", func() (bool, error) {
		_, err := n.Conntrackd("-s")
		return err == nil, err
	})
}

// heard waits until a router hears a conntrackd.
func heard(t *testing.T, n *lab.Node) {
	t.Helper()
	wait(t, n.Name+" hearing conntrackd", func() (bool, error) {
		s, err := n.Status()
		return err == nil && len(s.Peers) == 1 && s.Peers[0].Alive && s.Peers[0].Protocol == "conntrackd", fmt.Errorf("%+v %w", s.Peers, err)
	})
}

// sameAtConntrackd waits until the external cache of router i's conntrackd is the
// first router's table: original tuples, which is what it lists, and states. That
// translations arrive is TestFieldsToConntrackdAndBack.
func sameAtConntrackd(t *testing.T, m *members, i int, when string) {
	t.Helper()
	line := regexp.MustCompile(`^tcp +6 +(?:\d+ +)?([A-Z_]+) src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+) `)
	wait(t, when+": conntrackd holding what the active has", func() (bool, error) {
		out, err := m.r[i].Conntrackd("-e")
		if err != nil {
			return false, err
		}
		have := map[string]bool{}
		for l := range strings.Lines(out) {
			f := line.FindStringSubmatch(l)
			if f == nil {
				return false, fmt.Errorf("not understood: %s", l)
			}
			have[strings.Join(f[1:], " ")] = true
		}
		table, err := m.r[0].Table()
		if err != nil {
			return false, err
		}
		missing, example, kept := 0, "", churned(table)
		for _, f := range kept {
			key := fmt.Sprintf("%s %v %v %d %d", f.StateName(), f.Orig.SrcAddr(), f.Orig.DstAddr(), f.Orig.Sport, f.Orig.Dport)
			if !have[key] {
				missing++
				example = key
			}
		}
		return missing == 0 && len(have) == len(kept) && len(kept) > 0,
			fmt.Errorf("%d flows here, %d at conntrackd, %d missing or different, so %s", len(kept), len(have), missing, example)
	})
}

// refusedNothing wants a conntrackd to have received something and called nothing
// malformed.
func refusedNothing(t *testing.T, n *lab.Node) {
	t.Helper()
	out := must[string](t)(n.Conntrackd("-s", "network"))
	counters := 0
	for line := range strings.Lines(out) {
		name, n, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "Malformed messages", "Wrong protocol version", "Malformed header", "Malformed payload", "Bad message type", "Truncated message", "Bad message size":
			if counters++; strings.TrimSpace(n) != "0" {
				t.Errorf("conntrackd says: %s %s", name, n)
			}
		}
	}
	if counters != 8 || strings.Contains(out, " 0 Pckts recv") {
		t.Errorf("what conntrackd says is not understood:\n%s", out)
	}
}

// TestMixedReleases: routers of two releases work as a pair, each says what the
// other is, and so does a daemon whose engine is of another release.
func TestMixedReleases(t *testing.T) {
	l := newLab(t, lab.Options{})
	other := t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-X main.version=9.9.9", "-o", other,
		"../host/conntrack-sync", "../plugin/conntrack-sync-plugin")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	l.R[1].Bin = other
	rs := startPair(t, l)
	h := must[*lab.Hold](t)(l.StartHold(10))
	defer h.Close()
	wait(t, "10 entries on the standby", func() (bool, error) {
		_, ex, err := l.R[1].Active()
		return ex == 10, err
	})
	wait(t, "the releases", func() (bool, error) {
		a, err := l.R[0].Status()
		b, err2 := l.R[1].Status()
		return err == nil && err2 == nil && a.Peers[0].Software == "conntrack-sync 9.9.9" && b.Release == "9.9.9" &&
			b.Peers[0].Software == "conntrack-sync "+a.Release, fmt.Errorf("%+v %+v", a.Peers, b.Peers)
	})
	_ = rs[0].keepalived.Stop()
	waitRole(t, l.R[1], "MASTER")
	if r := must[lab.Held](t)(h.Round()); r.OK != 10 {
		t.Errorf("after the take-over: %v", r.Failed)
	}
	// The daemon of one release with the engine of the other.
	_ = rs[0].sync.Stop()
	rs[0].sync = startSync(t, l.R[0], "--plugin", other+"/conntrack-sync-plugin")
	_, err := l.R[0].Sync("show", "conntrack-sync", "status", "--check")
	if err == nil || !strings.Contains(err.Error(), "and its engine 9.9.9; install both of one release and restart") {
		t.Errorf("no alarm: %v", err)
	}
}
