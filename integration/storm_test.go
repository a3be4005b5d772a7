package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/integration/lab"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
)

// longVar asks for the long form of tests that have one.
const longVar = "CONNTRACK_SYNC_LONG"

func long() bool { return os.Getenv(longVar) != "" }

// say writes lines into a router's notify fifo, as keepalived does.
func say(t *testing.T, n *lab.Node, roles ...string) {
	t.Helper()
	f, err := os.OpenFile(n.FIFO(), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, r := range roles {
		if _, err := fmt.Fprintf(f, "INSTANCE \"internal\" %s 100\nGROUP %q %s 0\n", r, lab.Group, r); err != nil {
			t.Fatal(err)
		}
	}
}

// settled waits until router a is MASTER, b BACKUP and proven to hold a's table.
func settled(t *testing.T, a, b *lab.Node) {
	t.Helper()
	waitRole(t, a, "MASTER")
	waitRole(t, b, "BACKUP")
	wait(t, b.Name+" proven equal, and said by "+a.Name, func() (bool, error) {
		x, err := a.Transitions()
		if err != nil || len(x) == 0 || x[len(x)-1].Outcome != "done" {
			return false, err
		}
		y, err := b.Status()
		return err == nil && y.View != nil && y.View.InSync, err
	})
}

// TestRoleStorm: rounds of role changes as fast as the fifo takes them, now and
// then a pause in which a flow ends at the MASTER of that moment. In the end the
// roles are those that were said last, the tables are equal, what was alive all
// along still works and nothing that ended is back in either kernel. 100 rounds;
// 1,000 with CONNTRACK_SYNC_LONG=1.
func TestRoleStorm(t *testing.T) {
	rounds, pauseEvery := 100, 25
	if long() {
		rounds, pauseEvery = 1000, 50
	}
	config := lab.Seed + "set service conntrack-sync purge-timeout 1\n"
	l := newLab(t, lab.Options{Config: [2]string{config, config}})
	for _, r := range l.R {
		must[string](t)(r.Run("sysctl", "-qw", "net.netfilter.nf_conntrack_udp_timeout=600"))
		startSync(t, r)
	}
	r1, r2 := l.R[0], l.R[1]
	for dev, addr := range map[string]string{"lan0": lab.LANVirtual, "wan0": lab.WANVirtual} {
		must[string](t)(r1.Run("ip", "addr", "add", addr+"/24", "dev", dev)) // traffic goes through r1 all the time
	}
	must[*lab.Process](t)(l.Serve())
	say(t, r1, "BACKUP", "MASTER")
	say(t, r2, "BACKUP")
	settled(t, r1, r2)
	h := must[*lab.Hold](t)(l.StartHold(20))
	defer h.Close()
	if err := l.Blast(context.Background(), 500, 1); err != nil {
		t.Fatal(err)
	}
	wait(t, "the flows on the standby", func() (bool, error) { return equal(l, 0, 1) })

	rng := rand.New(rand.NewPCG(1, 2))
	port := 20000
	var dead []string
	began := time.Now()
	for i := range rounds {
		master, backup := r1, r2
		if rng.IntN(2) == 0 {
			master, backup = r2, r1
		}
		// Each is told a few things first; the last word counts.
		before := []string{"MASTER", "BACKUP", "FAULT", "STOP", "MASTER", "BACKUP"}
		say(t, master, append(before[:rng.IntN(len(before))], "MASTER")...)
		say(t, backup, append(before[:rng.IntN(len(before))], "BACKUP")...)
		time.Sleep(time.Duration(rng.IntN(10)) * time.Millisecond)
		if (i+1)%pauseEvery != 0 {
			continue
		}
		settled(t, master, backup)
		end := fmt.Sprint(port)
		port++
		must[string](t)(master.Run("conntrack", "-D", "-p", "udp", "-d", lab.ServerAddr, "--dport", end))
		dead = append(dead, end)
		wait(t, "the flow's end on the standby", func() (bool, error) {
			ex, err := backup.Cache("external")
			for _, f := range ex {
				if fmt.Sprint(f.Orig.Dport) == end {
					return false, err
				}
			}
			return err == nil, err
		})
	}
	t.Logf("%d rounds in %v", rounds, time.Since(began))
	say(t, r2, "MASTER", "BACKUP")
	say(t, r1, "BACKUP", "MASTER")
	settled(t, r1, r2)
	wait(t, "equal tables", func() (bool, error) { return equal(l, 0, 1) })
	if r := must[lab.Held](t)(h.Round()); r.OK != 20 {
		t.Errorf("what was alive all along: %v", r.Failed)
	}
	// The purge of what r2's reigns left runs a second after the last of them.
	wait(t, "nothing dead in either kernel", func() (bool, error) {
		for _, n := range l.R {
			table, err := n.Table()
			if err != nil {
				return false, err
			}
			for _, f := range table {
				for _, port := range dead {
					if f.Orig.Proto == flow.ProtoUDP && fmt.Sprint(f.Orig.Dport) == port {
						return false, fmt.Errorf("%v is back on %s", f.Orig, n.Name)
					}
				}
			}
		}
		return true, nil
	})
	for _, n := range l.R {
		s := must[stats.Status](t)(n.Status())
		if s.Plugin.Restarts != 0 || len(s.Alarms) > 0 {
			t.Errorf("%s: %d restarts, alarms %q", n.Name, s.Plugin.Restarts, s.Alarms)
		}
	}
}

// TestFilesAlone changes roles by notify scripts alone, started one after the other
// without waiting for any, as keepalived does, and at any pace: bursts of ten changes
// end in the role of the script that was started last.
func TestFilesAlone(t *testing.T) {
	bursts := 1
	if long() {
		bursts = 20
	}
	l := newLab(t, lab.Options{})
	n := l.R[0]
	startSync(t, n)
	for _, pace := range []time.Duration{100, 20, 5, 0} {
		pace *= time.Millisecond
		wrong := 0
		for range bursts {
			var scripts sync.WaitGroup
			last := ""
			for i := range 10 {
				last = [2]string{"MASTER", "BACKUP"}[i%2]
				cmd := exec.Command(n.Binary(), "notify", "--state-dir", n.StateDir(), "GROUP", lab.Group, last, "0")
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				scripts.Go(func() { _ = cmd.Wait() })
				time.Sleep(pace)
			}
			scripts.Wait()
			b := must[[]byte](t)(os.ReadFile(n.StateDir() + "/" + lab.Group))
			rec, err := vrrpwatch.ParseState(b)
			if err != nil {
				t.Fatal(err)
			}
			waitRole(t, n, string(rec.State))
			if !strings.EqualFold(string(rec.State), last) {
				wrong++
			}
		}
		t.Logf("a script every %v: %d of %d bursts ended in another role than was said last", pace, wrong, bursts)
		if wrong > 0 {
			t.Errorf("%d of %d bursts with a script every %v ended in the wrong role", wrong, bursts, pace)
		}
	}
}
