package shim

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
)

const keepalivedConf = "vrrp_sync_group SG {\n group {\n A\n }\n}\nvrrp_instance A {\n virtual_ipaddress {\n 10.0.0.1/24\n }\n}\n"

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s", what)
		}
	}
}

// TestUnknownGroupIsRefused at the start, with the names of those there are.
func TestUnknownGroupIsRefused(t *testing.T) {
	r := &rig{dir: t.TempDir()}
	r.write(t, "conf.d/a.conf", config)
	r.write(t, "keepalived.conf", strings.ReplaceAll(keepalivedConf, "SG", "ONE"))
	err := New(Options{ConfDir: r.dir + "/conf.d", StateDir: r.dir + "/state", RunDir: r.dir + "/run", KeepalivedConf: r.dir + "/keepalived.conf"}).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "a.conf:1: ") || !strings.Contains(err.Error(), "VRRP sync-group SG not configured! "+r.dir+"/keepalived.conf has: ONE") {
		t.Errorf("%v", err)
	}
}

// TestKeepalivedConfIsWatched: addresses reach the engine; a group that goes is an
// alarm and costs nothing that runs.
func TestKeepalivedConfIsWatched(t *testing.T) {
	r := newRig(t, func(r *rig, opt *Options) {
		r.write(t, "keepalived.conf", "include k/*\n")
		r.write(t, "k/a", keepalivedConf)
		opt.KeepalivedConf = r.dir + "/keepalived.conf"
	})
	e := r.engine(t)
	r.answers(t)
	addrs := func() (list []string) {
		r.view(func() {
			for _, a := range r.applied.VirtualAddresses {
				list = append(list, a.String())
			}
		})
		return list
	}
	if got := addrs(); !slices.Equal(got, []string{"10.0.0.1"}) {
		t.Errorf("addresses %v", got)
	}
	r.write(t, "k/a", strings.ReplaceAll(keepalivedConf, "10.0.0.1/24", "10.0.0.1/24\n 10.0.0.2/24"))
	eventually(t, "the second address", func() bool { return slices.Equal(addrs(), []string{"10.0.0.1", "10.0.0.2"}) })
	r.role(t, vrrpwatch.Master)
	r.write(t, "k/a", strings.ReplaceAll(keepalivedConf, "SG", "TWO"))
	alarms := func() string {
		s, err := Dial(r.dir + "/run").Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(s.Alarms, "\n")
	}
	eventually(t, "the alarm", func() bool {
		return strings.Contains(alarms(), "has no sync group SG any more; it has: TWO")
	})
	if s, err := Dial(r.dir + "/run").Status(t.Context()); err != nil || s.Role != "MASTER" {
		t.Errorf("%+v, %v", s, err)
	}
	r.write(t, "k/a", keepalivedConf)
	eventually(t, "the alarm's end", func() bool { return !strings.Contains(alarms(), "any more") })
	if strings.Contains(e.told(), "stop") {
		t.Errorf("the engine was told %s", e.told())
	}
}

func TestDoubtsAreAlarms(t *testing.T) {
	r := newRig(t)
	r.engine(t)
	r.answers(t)
	r.change(func() { r.groups["SG"].doubts = []string{"keepalived does not run any more"} })
	s, err := Dial(r.dir + "/run").Status(t.Context())
	if err != nil || !slices.Contains(s.Alarms, "keepalived does not run any more") {
		t.Errorf("%q, %v", s.Alarms, err)
	}
}

// TestWatchSaysRolesAndCommits: what a routing host acts upon.
func TestWatchSaysRolesAndCommits(t *testing.T) {
	r := newRig(t)
	e := r.engine(t)
	r.answers(t)
	states := make(chan GroupState, 100)
	go func() {
		_ = r.Watch(t.Context(), func(list []GroupState) { states <- list[0] })
	}()
	until := func(what string, ok func(GroupState) bool) {
		t.Helper()
		for timeout := time.After(20 * time.Second); ; {
			select {
			case g := <-states:
				if ok(g) {
					return
				}
			case <-timeout:
				t.Fatal(what)
			}
		}
	}
	until("the engine", func(g GroupState) bool { return g.Name == "SG" && g.Engine && g.Role == "" })
	e.mu.Lock()
	hold := make(chan struct{})
	e.hold = hold
	e.mu.Unlock()
	r.role(t, vrrpwatch.Master)
	until("MASTER without commit", func(g GroupState) bool { return g.Role == vrrpwatch.Master && !g.Committed && g.Change == 1 })
	close(hold)
	until("the commit", func(g GroupState) bool { return g.Role == vrrpwatch.Master && g.Committed })
	r.role(t, vrrpwatch.Backup)
	until("BACKUP", func(g GroupState) bool { return g.Role == vrrpwatch.Backup && !g.Committed && g.Change == 2 })
}
