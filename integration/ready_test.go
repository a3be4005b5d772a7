package integration

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/integration/lab"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
)

// ready is what keepalived is told of a router.
func ready(n *lab.Node) string {
	b, _ := os.ReadFile(filepath.Join(n.RunDir(), "ready"))
	return strings.TrimSpace(string(b))
}

func waitReady(t *testing.T, n *lab.Node, want string) {
	t.Helper()
	wait(t, n.Name+" being "+want, func() (bool, error) { return strings.HasPrefix(ready(n), want+" "), nil })
}

// TestReturningRouterWaitsUntilItIsInSync: a router that returns with an empty
// table and the higher priority takes over again only when it holds the peer's
// flows; all of them live through both changes.
func TestReturningRouterWaitsUntilItIsInSync(t *testing.T) {
	l := newLab(t, lab.Options{Track: true})
	startPair(t, l)
	h := must[*lab.Hold](t)(l.StartHold(20))
	defer h.Close()
	wait(t, "20 entries on the standby", func() (bool, error) {
		_, ex, err := l.R[1].Active()
		return ex == 20, err
	})
	waitReady(t, l.R[1], "0")
	if err := l.R[0].PowerOff(); err != nil {
		t.Fatal(err)
	}
	waitRole(t, l.R[1], "MASTER")
	if r := must[lab.Held](t)(h.Round()); r.OK != 20 {
		t.Fatalf("after the crash: %v", r.Failed)
	}
	if err := l.R[0].PowerOn(); err != nil {
		t.Fatal(err)
	}
	must[*lab.Process](t)(l.R[0].StartKeepalived()) // before us, as at a boot
	sync := startSync(t, l.R[0])
	waitRole(t, l.R[0], "MASTER")
	log := sync.Output()
	log = log[max(0, strings.LastIndex(log, "internal cache filled")):] // of its second life
	inSync, taken := strings.Index(log, "proven equal to the MASTER's table of 2"), strings.Index(log, "transitioning to MASTER")
	if inSync < 0 || taken < inSync {
		t.Errorf("MASTER before it was ready:\n%s", log)
	}
	if r := must[lab.Held](t)(h.Round()); r.OK != 20 {
		t.Errorf("after the return: %v", r.Failed)
	}
	wait(t, "the proof in the receipt", func() (bool, error) {
		list, err := l.R[0].Transitions()
		return len(list) > 0 && list[len(list)-1].EqualMS != nil, err
	})
	list := must[[]stats.Transition](t)(l.R[0].Transitions())
	x := list[len(list)-1]
	if x.State != "MASTER" || x.Source != "fifo" || x.Outcome != "done" || x.Commit == nil || x.Commit.Entries < 20 || x.LastEntryMS == nil {
		t.Errorf("receipt %+v", x)
	}
	if text := must[string](t)(l.R[0].Sync("show", "conntrack-sync", "transitions")); !strings.Contains(text, "tables proven equal again") {
		t.Errorf("receipts:\n%s", text)
	}
}

// TestHandOver gives the role away while 5,000 flows a second are born: nothing
// that was held is lost, a download goes on without a reset, the tables are equal,
// and the node keeps away from the role until it is told otherwise.
func TestHandOver(t *testing.T) {
	l := newLab(t, lab.Options{Track: true})
	startPair(t, l)
	h := must[*lab.Hold](t)(l.StartHold(40))
	defer h.Close()
	const size, rate = 24 << 20, 2 << 20
	received := must[func() (lab.Received, error)](t)(l.Download(size, rate))
	blasted := make(chan error, 1)
	go func() { blasted <- l.Blast(context.Background(), 5000, 8) }()
	wait(t, "the load", func() (bool, error) {
		in, _, err := l.R[0].Active()
		return in > 3000, err
	})
	out, err := l.R[0].Sync("hand-over")
	if err != nil || out != "" {
		t.Fatalf("%q, %v", out, err)
	}
	waitRole(t, l.R[1], "MASTER")
	waitRole(t, l.R[0], "BACKUP")
	if r := must[lab.Held](t)(h.Round()); r.OK != 40 {
		t.Errorf("after the hand-over: %v", r.Failed)
	}
	if err := <-blasted; err != nil {
		t.Fatal(err)
	}
	wait(t, "equal tables", func() (bool, error) { return equal(l, 1, 0) })
	if !strings.HasPrefix(ready(l.R[0]), "-149 handed over") {
		t.Errorf("not kept away: %q", ready(l.R[0]))
	}
	if s := must[stats.Status](t)(l.R[0].Status()); s.Role != "BACKUP" || !s.Readiness.Ready {
		t.Errorf("role %s, readiness %+v", s.Role, s.Readiness)
	}
	must[string](t)(l.R[0].Sync("hand-over", "--cancel"))
	waitRole(t, l.R[0], "MASTER")
	waitRole(t, l.R[1], "BACKUP")
	if r := must[lab.Held](t)(h.Round()); r.OK != 40 {
		t.Errorf("after the return: %v", r.Failed)
	}
	got := must[lab.Received](t)(received())
	if got.Error != "" || got.Bytes != size || got.Hash != lab.ContentHash(size) {
		t.Errorf("received %+v", got)
	}
	t.Logf("longest stall of the download over both changes: %v ms", got.StallMS)
	if _, err := l.R[1].Sync("hand-over"); err == nil || !strings.Contains(err.Error(), "not MASTER") {
		t.Errorf("of a BACKUP: %v", err)
	}
}

// TestExamplesAreUnderstood by keepalived and by us.
func TestExamplesAreUnderstood(t *testing.T) {
	l := newLab(t, lab.Options{})
	r := l.R[0]
	must[string](t)(r.Run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth2"))
	for name, groups := range map[string][]string{"pair.conf": {"syncgrp"}, "active-active.conf": {"red", "blue"}} {
		path := "../packaging/keepalived/" + name
		text := must[[]byte](t)(os.ReadFile(path))
		// The script must exist for keepalived to be content.
		tried := filepath.Join(r.Dir, name)
		if err := os.WriteFile(tried, bytes.ReplaceAll(text, []byte("/usr/sbin/conntrack-sync"), []byte("/bin/true")), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Run("keepalived", "-t", "-f", tried); err != nil {
			t.Error(err)
		}
		k, warnings, err := vrrpwatch.ReadKeepalived(path)
		if err != nil || len(warnings) > 0 {
			t.Fatal(err, warnings)
		}
		if !slices.Equal(k.GroupNames(), groups) {
			t.Errorf("%s: groups %q", name, k.GroupNames())
		}
		for i, g := range groups {
			file := "/run/conntrack-sync/ready"
			if i > 0 {
				file += "-" + g
			}
			if w, ok := k.Tracks(g, file); !ok || w != 1 || len(k.Members(g)) != 2 || len(k.VirtualAddresses(g)) != 2 {
				t.Errorf("%s: group %s: tracks %s: %v, members %q, addresses %v", name, g, file, ok, k.Members(g), k.VirtualAddresses(g))
			}
		}
	}
}
