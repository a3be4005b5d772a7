package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/integration/lab"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// The tests named TestAgreement compare the active's kernel with the standby's
// external cache, tuple by tuple with reply tuple, state and mark, after 2,000
// flows a second were born, changed and ended over a link that is made bad. In CI
// each runs once, and equality is waited for. With AGREEMENT_RUNS=20 each runs so
// often, for longer, and the tables must be equal when they are read two seconds
// after the end of the load.

// agreement says how often to run, for how long to make a load, and whether two
// seconds are a promise.
func agreement(t *testing.T) (runs int, seconds float64, strict bool) {
	s := os.Getenv("AGREEMENT_RUNS")
	if s == "" {
		return 1, 2, false
	}
	runs, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return runs, 5, true
}

const flowRate = 2000

// members is a group of routers with conntrack-sync.
type members struct {
	*lab.Lab
	r    []*lab.Node
	sync []*lab.Process
	hub  *lab.Hub
	next int // the first flow of the next load
}

// newGroup starts n routers, the first MASTER, the others BACKUP, and waits until
// all hear each other.
func newGroup(t *testing.T, n int, config func(i int) string) *members {
	t.Helper()
	return newGroupOf(t, n, n, config)
}

// newGroupOf is newGroup with more routers on the hub on which nothing is started.
func newGroupOf(t *testing.T, all, n int, config func(i int) string) *members {
	t.Helper()
	lab.Need(t)
	l, nodes, hub, err := lab.NewGroup(bin(t), all, config)
	if err != nil {
		t.Fatal(err)
	}
	m := &members{Lab: l, r: nodes, hub: hub}
	t.Cleanup(func() { closeLab(t, l, nodes) })
	if n == 0 {
		return m
	}
	for i, r := range nodes[:n] {
		m.sync = append(m.sync, startSync(t, r))
		if err := r.Notify([]string{"MASTER", "BACKUP"}[min(i, 1)]); err != nil {
			t.Fatal(err)
		}
	}
	waitRole(t, nodes[0], "MASTER")
	for _, r := range nodes[:n] {
		wait(t, r.Name+" hearing the others", func() (bool, error) {
			s, err := r.Status()
			return err == nil && alive(s.Peers) == n-1, fmt.Errorf("%+v %w", s.Peers, err)
		})
	}
	return m
}

func alive(peers []stats.Peer) (n int) {
	for _, p := range peers {
		if p.Alive && p.Protocol == "native" {
			n++
		}
	}
	return n
}

func toGroup(int) string { return lab.Seed }

func toPeer(i int) string {
	return strings.Replace(lab.Seed, "interface 'eth0'", fmt.Sprintf("interface eth0 peer 192.0.2.%d", 2-i), 1)
}

// load makes flows on the first router.
func (m *members) load(t *testing.T, seconds float64) {
	t.Helper()
	c, err := m.r[0].Churn(m.next, flowRate, seconds)
	m.next += 1 << 16
	t.Logf("%+v", c)
	if err != nil || c.Born < int(flowRate*seconds) {
		t.Fatalf("%+v, %v", c, err)
	}
}

// differs says how router i's view differs from the first router's table.
func (m *members) differs(i int) (string, error) {
	have, err := m.r[i].Cache("external")
	if err != nil {
		return "", err
	}
	table, err := m.r[0].Table()
	if err != nil {
		return "", err
	}
	return difference(keys(churned(table)), keys(have)), nil
}

func churned(table []flow.Flow) (kept []flow.Flow) {
	for _, f := range table {
		if f.Orig.DstAddr().String() == lab.ServerAddr {
			kept = append(kept, f)
		}
	}
	return kept
}

// equal wants the views of these routers to be the first one's table: soon, or
// where two seconds are promised then.
func (m *members) equal(t *testing.T, what string, strict bool, of ...int) {
	t.Helper()
	if strict {
		time.Sleep(2 * time.Second)
	}
	began := time.Now()
	for _, i := range of {
		wait(t, what+": equality of "+m.r[i].Name, func() (bool, error) {
			d, err := m.differs(i)
			if strict && err == nil && d != "" {
				t.Fatalf("%s: two seconds after the load %s holds %s", what, m.r[i].Name, d)
			}
			return err == nil && d == "", fmt.Errorf("%s %w", d, err)
		})
	}
	n := len(churned(must[[]flow.Flow](t)(m.r[0].Table())))
	if n == 0 {
		t.Fatalf("%s: no flow is alive", what)
	}
	s := must[stats.Statistics](t)(m.r[of[0]].Statistics())
	t.Logf("%s: %d flows equal, seen after %v; standby lost %d datagrams, found %d flows to differ", what, n,
		time.Since(began).Round(time.Millisecond), s.Session["native_lost"], s.Session["repaired"])
}

// clear ends all flows.
func (m *members) clear(t *testing.T) {
	t.Helper()
	must[string](t)(m.r[0].Run("conntrack", "-F"))
	wait(t, "nothing left", func() (bool, error) {
		_, ex, err := m.r[1].Active()
		return ex == 0, err
	})
}

// TestAgreementUnderLoss: datagrams are lost, repeated and overtaken.
func TestAgreementUnderLoss(t *testing.T) {
	runs, seconds, strict := agreement(t)
	for name, config := range map[string]func(int) string{"multicast": toGroup, "unicast": toPeer} {
		t.Run(name, func(t *testing.T) {
			m := newGroup(t, 2, config)
			for run := range runs {
				for _, f := range []lab.Faults{{Drop: 0.01, Duplicate: 0.01, Reorder: 0.01}, {Drop: 0.1, Duplicate: 0.1, Reorder: 0.1}, {Drop: 0.3, Duplicate: 0.2, Reorder: 0.3}} {
					if err := m.hub.Set(f); err != nil {
						t.Fatal(err)
					}
					m.load(t, seconds)
					m.equal(t, fmt.Sprintf("run %d, %g %% lost", run, 100*f.Drop), strict, 1)
					m.clear(t)
				}
			}
		})
	}
}

// TestAgreementAfterTrouble: engines are killed and restarted on either side, the
// link is cut for ten seconds, roles flap twenty times in five, all under load.
func TestAgreementAfterTrouble(t *testing.T) {
	runs, seconds, strict := agreement(t)
	m := newGroup(t, 2, toGroup)
	pid := func(i int) int { return plugin(t, m.r[i]).PID }
	another := func(i, old int) {
		wait(t, "another engine", func() (bool, error) {
			s, err := m.r[i].Status()
			return err == nil && s.Plugin.PID != 0 && s.Plugin.PID != old, err
		})
	}
	kill := func(i int) func() {
		return func() {
			old := pid(i)
			_ = syscall.Kill(old, syscall.SIGKILL)
			another(i, old)
		}
	}
	troubles := []struct {
		name    string
		seconds float64
		fn      func()
	}{
		{"the standby's engine killed", seconds, kill(1)},
		{"the active's engine killed", seconds, kill(0)},
		{"the standby restarted", seconds, func() { must[string](t)(m.r[1].Sync("restart", "conntrack-sync")) }},
		{"the active restarted", seconds, func() { must[string](t)(m.r[0].Sync("restart", "conntrack-sync")) }},
		{"cut for ten seconds", 12, func() {
			if err := m.hub.Cut(); err != nil {
				t.Error(err)
			}
			time.Sleep(10 * time.Second)
			if err := m.hub.Set(lab.Faults{}); err != nil {
				t.Error(err)
			}
		}},
		{"flapped twenty times", 5, func() {
			for k := range 20 {
				began := time.Now()
				for i, r := range m.r {
					if err := r.Notify([]string{"MASTER", "BACKUP"}[(i+k+1)%2]); err != nil {
						t.Error(err)
					}
				}
				time.Sleep(time.Until(began.Add(250 * time.Millisecond)))
			}
			waitRole(t, m.r[0], "MASTER")
		}},
	}
	for run := range runs {
		for _, x := range troubles {
			done := make(chan struct{})
			go func() {
				defer close(done)
				time.Sleep(time.Second)
				x.fn()
			}()
			m.load(t, x.seconds)
			<-done
			m.equal(t, fmt.Sprintf("run %d, %s", run, x.name), strict, 1)
			m.clear(t)
		}
	}
}

// TestWhereAFlowIs: an operator asks either router, and learns it of both.
func TestWhereAFlowIs(t *testing.T) {
	l := newLab(t, lab.Options{})
	startPair(t, l)
	h := must[*lab.Hold](t)(l.StartHold(2))
	defer h.Close()
	for i, want := range []string{
		"  here (MASTER), sent to the peers\n    kernel   : ESTABLISHED, timeout",
		"  here (BACKUP)\n    kernel   : -\n    internal : -\n    external : ESTABLISHED, timeout",
	} {
		wait(t, l.R[i].Name+"'s word", func() (bool, error) {
			out, err := l.R[i].Sync("show", "conntrack-sync", "flow", lab.ClientAddr, lab.ServerAddr, "tcp")
			head := "tcp " + lab.ClientAddr + ":"
			return strings.HasPrefix(out, head) && strings.Contains(out, ", translated to "+lab.WANVirtual) && strings.Contains(out, want) &&
				strings.Count(out, "ESTABLISHED") == 3, fmt.Errorf("%w: %s", err, out)
		})
	}
	// As seen on the other side of the translation, in JSON.
	out, err := l.R[1].Sync("show", "conntrack-sync", "flow", lab.WANVirtual, lab.ServerAddr, "--json")
	var w stats.Where
	if err == nil {
		err = json.Unmarshal([]byte(out), &w)
	}
	if err != nil || len(w.Flows) != 2 || w.Flows[0].Peers[0].Kernel == nil || w.Flows[0].Here.External == nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestAuditFindsNothing where nothing is wrong: real traffic of several kinds, born
// and ended while the kernel's table is compared with the cache.
func TestAuditFindsNothing(t *testing.T) {
	l := newLab(t, lab.Options{})
	startPair(t, l)
	h := must[*lab.Hold](t)(l.StartHold(20))
	defer h.Close()
	download := must[func() (lab.Received, error)](t)(l.Download(1<<20, 1<<18))
	done := make(chan error, 1)
	go func() { done <- l.Blast(context.Background(), 2000, 4) }()
	audits := func() (n, repairs uint64) {
		s := must[stats.Statistics](t)(l.R[0].Statistics())
		return s.Session["audits"], s.Session["audit_repairs"]
	}
	for before, _ := audits(); ; {
		if r := must[lab.Held](t)(h.Round()); len(r.Failed) > 0 {
			t.Fatal(r.Failed)
		}
		_, _ = l.R[0].Run("ping", "-c1", "-W1", lab.ServerAddr)
		if n, _ := audits(); n >= before+3 {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	must[lab.Received](t)(download())
	if n, repairs := audits(); repairs != 0 {
		t.Errorf("%d audits mended %d entries", n, repairs)
	}
}

// rss is the memory of a process in bytes.
func rss(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	var size, resident int
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * os.Getpagesize()
}

// TestAgreementOfFour: of four routers on one group one is stopped. It holds
// neither the others nor memory, and is equal once it goes on.
func TestAgreementOfFour(t *testing.T) {
	runs, seconds, strict := agreement(t)
	m := newGroup(t, 4, toGroup)
	if err := m.hub.Set(lab.Faults{Drop: 0.05, Duplicate: 0.05, Reorder: 0.05}); err != nil {
		t.Fatal(err)
	}
	m.load(t, seconds)
	m.equal(t, "all four", strict, 1, 2, 3)
	m.clear(t)
	for run := range runs {
		engine, daemon := plugin(t, m.r[3]).PID, m.sync[3].PID()
		before := rss(t, plugin(t, m.r[0]).PID)
		_ = syscall.Kill(daemon, syscall.SIGSTOP)
		_ = syscall.Kill(engine, syscall.SIGSTOP)
		m.load(t, 2*seconds)
		m.equal(t, fmt.Sprintf("run %d, one stopped", run), strict, 1, 2)
		after := rss(t, plugin(t, m.r[0]).PID)
		t.Logf("the active's engine: %d KiB before, %d after", before>>10, after>>10)
		if after > before+before/2+32<<20 {
			t.Errorf("the active's engine grew from %d to %d bytes", before, after)
		}
		wait(t, "nothing kept for the stopped one", func() (bool, error) {
			s, err := m.r[0].Status()
			for _, p := range s.Peers {
				if p.Unacked > 0 || p.Address == lab.SyncAddr(0, 3) && p.Alive {
					return false, fmt.Errorf("%+v", p)
				}
			}
			return err == nil, err
		})
		_ = syscall.Kill(engine, syscall.SIGCONT)
		_ = syscall.Kill(daemon, syscall.SIGCONT)
		m.equal(t, fmt.Sprintf("run %d, going on", run), false, 1, 2, 3)
		m.clear(t)
	}
}
