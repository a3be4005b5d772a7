package integration

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/integration/lab"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// plugin is the engine's process of a router.
func plugin(t *testing.T, n *lab.Node) stats.Plugin {
	t.Helper()
	var p stats.Plugin
	wait(t, n.Name+"'s engine", func() (bool, error) {
		s, err := n.Status()
		p = s.Plugin
		return err == nil && p.PID != 0, err
	})
	return p
}

func gone(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// replaced waits for another engine than p, with its caches filled.
func replaced(t *testing.T, n *lab.Node, p stats.Plugin, internal, external uint64) {
	t.Helper()
	wait(t, "another engine with the same caches", func() (bool, error) {
		s, err := n.Status()
		if err != nil || s.Plugin.PID == 0 || s.Plugin.PID == p.PID || s.Plugin.Restarts <= p.Restarts {
			return false, err
		}
		in, ex, err := n.Active()
		return in == internal && ex == external, err
	})
}

// TestEngineCrash: either node's engine is killed; it comes back by itself with
// both caches, and the pair still fails over.
func TestEngineCrash(t *testing.T) {
	l := newLab(t, lab.Options{})
	rs := startPair(t, l)
	h := must[*lab.Hold](t)(l.StartHold(10))
	defer h.Close()
	wait(t, "10 entries on the standby", func() (bool, error) {
		_, ex, err := l.R[1].Active()
		return ex == 10, err
	})
	standby, active := plugin(t, l.R[1]), plugin(t, l.R[0])
	_ = syscall.Kill(standby.PID, syscall.SIGKILL)
	replaced(t, l.R[1], standby, 0, 10)
	_ = syscall.Kill(active.PID, syscall.SIGKILL)
	replaced(t, l.R[0], active, 10, 0)
	_ = rs[0].keepalived.Stop()
	waitRole(t, l.R[1], "MASTER")
	if r := must[lab.Held](t)(h.Round()); r.OK != 10 {
		t.Errorf("after the take-over: %v", r.Failed)
	}
}

// TestEngineHangs: an engine that does not answer is replaced.
func TestEngineHangs(t *testing.T) {
	l := newLab(t, lab.Options{})
	startPair(t, l)
	h := must[*lab.Hold](t)(l.StartHold(10))
	defer h.Close()
	p := plugin(t, l.R[0])
	_ = syscall.Kill(p.PID, syscall.SIGSTOP)
	replaced(t, l.R[0], p, 10, 0)
	if !gone(p.PID) {
		t.Errorf("the engine that hung is still there")
	}
}

// TestShimKilled leaves no engine behind; started again it works.
func TestShimKilled(t *testing.T) {
	l := newLab(t, lab.Options{})
	shim := startSync(t, l.R[0])
	p := plugin(t, l.R[0])
	shim.Kill()
	wait(t, "the engine's end", func() (bool, error) { return gone(p.PID), nil })
	startSync(t, l.R[0])
}

// TestStopsInOrder: SIGTERM ends shim and engine, and leaves no socket.
func TestStopsInOrder(t *testing.T) {
	l := newLab(t, lab.Options{})
	shim := startSync(t, l.R[0])
	p := plugin(t, l.R[0])
	if err := shim.Stop(); err != nil {
		t.Errorf("exit status: %v\n%s", err, shim.Output())
	}
	if !gone(p.PID) {
		t.Error("the engine is still there")
	}
	if left, _ := os.ReadDir(l.R[0].RunDir() + "/plugin"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := l.R[0].Sync("show", "conntrack-sync", "status"); err == nil || !strings.Contains(err.Error(), "conntrack-sync is not running") {
		t.Errorf("status of a stopped daemon: %v", err)
	}
}

// TestTwoInstances coexist on a machine with directories of their own, and not
// with the same.
func TestTwoInstances(t *testing.T) {
	l := newLab(t, lab.Options{})
	startSync(t, l.R[0])
	startSync(t, l.R[1]) // the same machine, other directories
	second := must[*lab.Process](t)(l.R[0].Start("second", l.R[0].Binary(), "run", "--conf-dir", l.R[0].ConfDir(),
		"--state-dir", l.R[0].StateDir(), "--run-dir", l.R[0].RunDir()))
	if err := second.Wait(); err == nil || !strings.Contains(second.Output(), "in use by another conntrack-sync") {
		t.Errorf("a second one in the same run directory: %v, %s", err, second.Output())
	}
}

// TestConfigurationChanges: a bad file leaves the running configuration alone
// and is named with line and reason; a good one applies without a restart.
func TestConfigurationChanges(t *testing.T) {
	l := newLab(t, lab.Options{})
	startPair(t, l)
	h := must[*lab.Hold](t)(l.StartHold(10))
	defer h.Close()
	p := plugin(t, l.R[0])
	write := func(text string) {
		if err := os.WriteFile(l.R[0].ConfDir()+"/zz.conf", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("set service conntrack-sync accept-protocol 'udp'\nset service conntrack-sync interface eth0 port 70000\n")
	wait(t, "the complaint", func() (bool, error) {
		s, err := l.R[0].Status()
		return err == nil && len(s.Configuration.Errors) == 1 &&
			strings.Contains(s.Configuration.Errors[0], "zz.conf:2: ") &&
			strings.Contains(s.Configuration.Errors[0], "Port number must be in range 1 to 65535"), err
	})
	if in, _, err := l.R[0].Active(); in != 10 || err != nil {
		t.Errorf("%d entries after a bad file, %v", in, err)
	}
	write("delete service conntrack-sync accept-protocol 'tcp'\n")
	wait(t, "5 UDP entries on both sides", func() (bool, error) {
		in, _, err := l.R[0].Active()
		if err != nil {
			return false, err
		}
		_, ex, err := l.R[1].Active()
		return in == 5 && ex == 5, err
	})
	if q := plugin(t, l.R[0]); q.PID != p.PID {
		t.Error("the engine was restarted for it")
	}
	write("")
	wait(t, "10 entries on both sides", func() (bool, error) {
		in, _, err := l.R[0].Active()
		if err != nil {
			return false, err
		}
		_, ex, err := l.R[1].Active()
		return in == 10 && ex == 10, err
	})
}

// TestKilledUnderLoad: engine, shim, or both are killed, on either node, while
// 5,000 flows a second are born and all that stand are deleted once; in the end
// both sides are equal. Only the shim needs somebody to start it again.
func TestKilledUnderLoad(t *testing.T) {
	l := newLab(t, lab.Options{})
	must[string](t)(l.R[0].Run("sysctl", "-qw", "net.netfilter.nf_conntrack_udp_timeout=600"))
	rs := startPair(t, l)
	kill := map[string]func(i int){
		"engine": func(i int) { _ = syscall.Kill(plugin(t, l.R[i]).PID, syscall.SIGKILL) },
		"shim": func(i int) {
			p := plugin(t, l.R[i])
			rs[i].sync.Kill()
			wait(t, "the engine's end", func() (bool, error) { return gone(p.PID), nil })
		},
		"both": func(i int) {
			p := plugin(t, l.R[i])
			_ = syscall.Kill(p.PID, syscall.SIGKILL)
			rs[i].sync.Kill()
		},
	}
	for i, name := range []string{"active", "standby"} {
		for _, what := range []string{"engine", "shim", "both"} {
			t.Run(what+" of the "+name, func(t *testing.T) {
				blasted := make(chan error, 1)
				go func() { blasted <- l.Blast(context.Background(), 5000, 4) }()
				wait(t, "the load", func() (bool, error) {
					in, _, err := l.R[0].Active()
					return in > 3000, err
				})
				before := plugin(t, l.R[i])
				kill[what](i)
				_, _ = l.R[0].Run("conntrack", "-D", "-p", "udp", "-s", lab.ClientAddr)
				if !rs[i].sync.Alive() {
					rs[i].sync = startSync(t, l.R[i])
				}
				wait(t, "another engine", func() (bool, error) {
					s, err := l.R[i].Status()
					return err == nil && s.Plugin.PID != 0 && s.Plugin.PID != before.PID, err
				})
				restarted := time.Now()
				if err := <-blasted; err != nil {
					t.Fatal(err)
				}
				ended, began := time.Now(), time.Time{}
				wait(t, "equal tables", func() (bool, error) {
					began = time.Now()
					return equal(l, 0, 1)
				})
				t.Logf("equal when read %v after the restart, %v after the end of the load", began.Sub(restarted), began.Sub(ended))
				if s := must[statsOf](t)(counters(l.R[0])); s.active < 5000 {
					t.Errorf("the load was not what it should be: %+v", s)
				}
				_, _ = l.R[0].Run("conntrack", "-D", "-p", "udp", "-s", lab.ClientAddr)
				wait(t, "nothing left", func() (bool, error) {
					in, _, err := l.R[0].Active()
					_, ex, err2 := l.R[1].Active()
					return in == 0 && ex == 0 && err2 == nil, err
				})
			})
		}
	}
}
