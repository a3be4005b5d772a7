package shim

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
)

func TestReadiness(t *testing.T) {
	alive, silent := []stats.Peer{{Alive: true}}, []stats.Peer{{}}
	for name, c := range map[string]struct {
		role  vrrpwatch.State
		e     *stats.Engine
		young bool
		want  bool
	}{
		"a MASTER without an engine":      {vrrpwatch.Master, nil, true, true},
		"a BACKUP without an engine":      {vrrpwatch.Backup, nil, false, false},
		"a MASTER whose peer differs":     {vrrpwatch.Master, &stats.Engine{Peers: alive}, false, true},
		"a MASTER that reads its kernel":  {vrrpwatch.Master, &stats.Engine{Filling: true}, false, true},
		"nobody heard, just begun":        {vrrpwatch.Backup, &stats.Engine{}, true, false},
		"nobody heard":                    {vrrpwatch.Backup, &stats.Engine{}, false, true},
		"a peer that fell silent":         {"", &stats.Engine{Peers: silent, View: &stats.View{}}, false, true},
		"not proven equal":                {vrrpwatch.Backup, &stats.Engine{Peers: alive, View: &stats.View{}}, false, false},
		"proven equal":                    {vrrpwatch.Backup, &stats.Engine{Peers: alive, View: &stats.View{InSync: true}}, false, true},
		"a conntrackd is being copied":    {vrrpwatch.Backup, &stats.Engine{Peers: alive, Refilling: true}, false, false},
		"a conntrackd's table was copied": {vrrpwatch.Backup, &stats.Engine{Peers: alive}, false, true},
	} {
		if r := readiness(c.role, c.e, c.young); r.Ready != c.want || len(r.Reasons) != 1 {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// file waits until the readiness file begins with a value.
func (r *rig) file(t *testing.T, name, want string) {
	t.Helper()
	var b []byte
	eventually(t, name+" saying "+want, func() bool {
		b, _ = os.ReadFile(filepath.Join(r.dir, "run", name))
		return strings.HasPrefix(string(b), want+" ") && strings.HasSuffix(string(b), "\n")
	})
}

func inSync(yes bool) stats.Engine {
	return stats.Engine{
		Peers: []stats.Peer{{Address: "192.0.2.2", Protocol: "native", Alive: true, InSync: new(yes)}},
		View:  &stats.View{InSync: yes},
	}
}

// TestReadyFile says -100 until the view is proven, 0 then and for a MASTER, comes
// back when it was overwritten, and stays behind as -100, but for a MASTER.
func TestReadyFile(t *testing.T) {
	r := newRig(t)
	e := r.engine(t)
	e.say(inSync(false))
	r.role(t, vrrpwatch.Backup)
	r.file(t, "ready", "-100")
	e.say(inSync(true))
	r.file(t, "ready", "0")
	r.write(t, "run/ready", "-100\n") // as keepalived does at its start
	r.file(t, "ready", "0")
	r.Obstacle("routes", "the BGP session to 192.0.2.9 is not up")
	r.file(t, "ready", "-100")
	r.Obstacle("routes", "")
	r.file(t, "ready", "0")
	e.say(inSync(false))
	r.file(t, "ready", "-100")
	r.role(t, vrrpwatch.Master)
	r.file(t, "ready", "0")
}

func TestReadyFileLeftBehind(t *testing.T) {
	for role, want := range map[vrrpwatch.State]string{vrrpwatch.Backup: "-100 conntrack-sync was stopped\n", vrrpwatch.Master: "0 "} {
		dir := t.TempDir()
		t.Run("a daemon's life", func(t *testing.T) { // which ends with it
			r := newRig(t, func(r *rig, opt *Options) { opt.RunDir = dir })
			r.engine(t).say(inSync(true))
			r.role(t, role)
			eventually(t, "the file", func() bool {
				b, _ := os.ReadFile(dir + "/ready")
				return strings.HasPrefix(string(b), "0 ")
			})
		})
		if b, err := os.ReadFile(dir + "/ready"); err != nil || !strings.HasPrefix(string(b), want) {
			t.Errorf("%s leaves %q, %v", role, b, err)
		}
	}
}

// TestHandOverCutShort by the end of the daemon leaves no MASTER lowered and nobody in
// FAULT, since nobody is there to take that back.
func TestHandOverCutShort(t *testing.T) {
	for _, force := range []bool{false, true} {
		dir := t.TempDir()
		said := func(want string) bool {
			b, _ := os.ReadFile(dir + "/ready")
			return strings.HasPrefix(string(b), want+" ")
		}
		t.Run("a daemon's life", func(t *testing.T) {
			r := newRig(t, func(r *rig, opt *Options) {
				opt.RunDir, opt.KeepalivedConf = dir, r.dir+"/keepalived.conf"
				r.write(t, "keepalived.conf", strings.ReplaceAll(trackingConf, "%", dir+"/ready"))
			})
			r.engine(t).say(inSync(true))
			r.role(t, vrrpwatch.Master)
			eventually(t, "readiness", func() bool { return said("0") })
			go func() { _ = r.HandOver(context.Background(), HandOver{Force: force}) }()
			eventually(t, "the hand-over", func() bool { return said(map[bool]string{false: "-149", true: "-300"}[force]) })
		})
		if !said("0") {
			b, err := os.ReadFile(dir + "/ready")
			t.Errorf("force %v leaves %q, %v", force, b, err)
		}
	}
}

const trackingConf = "track_file ctsync {\n file \"%\"\n weight 1\n}\nvrrp_sync_group SG {\n group {\n A\n }\n track_file {\n  ctsync\n }\n}\n" +
	"vrrp_instance A {\n priority 150\n}\n"

// handOverRig has a keepalived.conf in which % stands for the readiness file.
func handOverRig(t *testing.T, conf string) (*rig, *fakeEngine) {
	r := newRig(t, func(r *rig, opt *Options) {
		opt.KeepalivedConf = r.dir + "/keepalived.conf"
		r.write(t, "keepalived.conf", strings.ReplaceAll(conf, "%", r.dir+"/run/ready"))
	})
	e := r.engine(t)
	r.answers(t)
	return r, e
}

func TestHandOver(t *testing.T) {
	r, e := handOverRig(t, trackingConf)
	e.say(inSync(false))
	seen := func(want bool) {
		eventually(t, "a look at the engine", func() (ok bool) {
			r.view(func() { p := r.groups["SG"].peers; ok = len(p) == 1 && p[0].InSync != nil && *p[0].InSync == want })
			return ok
		})
	}
	seen(false)
	c := Dial(r.dir + "/run")
	if err := c.HandOver(t.Context(), HandOver{}); err == nil || !strings.Contains(err.Error(), "not MASTER") {
		t.Errorf("of no MASTER: %v", err)
	}
	r.role(t, vrrpwatch.Master)
	if err := c.HandOver(t.Context(), HandOver{Group: "other"}); err == nil || err.Error() != "no such sync group is configured: other; configured: SG" {
		t.Errorf("of another group: %v", err)
	}
	if err := c.HandOver(t.Context(), HandOver{Wait: 300 * time.Millisecond}); err == nil || !strings.Contains(err.Error(), "peer 192.0.2.2 is not in sync") {
		t.Errorf("to a peer that differs: %v", err)
	}
	e.say(inSync(true))
	seen(true)
	if err := c.HandOver(t.Context(), HandOver{Wait: 600 * time.Millisecond}); err == nil || !strings.Contains(err.Error(), "as wanted as before") {
		t.Errorf("with a keepalived that does nothing: %v", err)
	}
	r.file(t, "ready", "0")
	ended := make(chan error, 1)
	go func() { ended <- c.HandOver(t.Context(), HandOver{}) }()
	r.file(t, "ready", "-149")
	r.role(t, vrrpwatch.Backup)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	taken := inSync(true)
	taken.Peers[0].Role = "MASTER"
	e.say(taken)
	r.lookNow()
	r.file(t, "ready", "-149") // and stays so, although it is in sync
	if err := c.HandOver(t.Context(), HandOver{Cancel: true}); err != nil {
		t.Error(err)
	}
	r.file(t, "ready", "0")
	if err := c.HandOver(t.Context(), HandOver{Cancel: true}); err == nil {
		t.Error("cancelled twice")
	}
}

// TestHandedOverUntilThePeerIsLost also across a restart of the daemon.
func TestHandedOverUntilThePeerIsLost(t *testing.T) {
	r := newRig(t, func(r *rig, _ *Options) { r.write(t, "run/ready", "-149 handed over at some time\n") })
	e := r.engine(t)
	taken := inSync(true)
	taken.Peers[0].Role = "MASTER"
	e.say(taken)
	r.role(t, vrrpwatch.Backup)
	r.answers(t)
	r.view(func() {
		if r.groups["SG"].lowered == "" {
			t.Error("forgotten")
		}
	})
	lost := inSync(true)
	lost.Peers[0].Role = "FAULT"
	e.say(lost)
	r.file(t, "ready", "0")
}

func TestHandOverWherePrioritiesMoveNothing(t *testing.T) {
	r, e := handOverRig(t, strings.Replace(trackingConf, "priority 150", "priority 150\n nopreempt", 1))
	e.say(inSync(true))
	r.role(t, vrrpwatch.Master)
	c := Dial(r.dir + "/run")
	if err := c.HandOver(t.Context(), HandOver{}); err == nil || !strings.Contains(err.Error(), "nopreempt") {
		t.Errorf("%v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.HandOver(t.Context(), HandOver{Force: true}) }()
	r.file(t, "ready", "-300")
	r.role(t, vrrpwatch.Fault)
	taken := inSync(true)
	taken.Peers[0].Role = "MASTER"
	e.say(taken)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	r.file(t, "ready", "0")
}

func TestHandOverNeedsATrackedFile(t *testing.T) {
	r, e := handOverRig(t, strings.Replace(trackingConf, "track_file {\n  ctsync\n }\n", "", 1))
	e.say(inSync(true))
	r.role(t, vrrpwatch.Master)
	err := Dial(r.dir+"/run").HandOver(t.Context(), HandOver{})
	if err == nil || !strings.Contains(err.Error(), "does not follow "+r.dir+"/run/ready for sync group SG") {
		t.Errorf("%v", err)
	}
}
