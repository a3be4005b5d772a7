package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/integration/lab"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// The second group of the lab: a network of its own behind the LAN, translated to
// an address of its own.
const (
	blueClient = "10.2.0.10"
	blueLAN    = "10.2.0.254"
	blueWAN    = "203.0.113.253"
)

// activeActive is a keepalived.conf of two groups; each router is preferred in one.
// Where the WAN side follows BGP the LAN's instances are all there is.
func activeActive(n *lab.Node, red, blue int, bgp bool) string {
	conf := fmt.Sprintf("global_defs {\n router_id %s\n script_user root\n vrrp_version 3\n vrrp_notify_fifo %s\n}\n", n.Name, n.FIFO())
	id := 50
	for _, g := range []struct {
		name, file string
		priority   int
		lan, wan   string
	}{{"red", "ready", red, lab.LANVirtual, lab.WANVirtual}, {"blue", "ready-blue", blue, blueLAN, blueWAN}} {
		conf += fmt.Sprintf("track_file ctsync-%s {\n file \"%s\"\n weight 1\n init_file -100 overwrite\n}\n", g.name, filepath.Join(n.RunDir(), g.file))
		sides := []struct{ dev, addr string }{{"lan", g.lan}, {"wan", g.wan}}
		if bgp {
			sides = sides[:1]
		}
		conf += fmt.Sprintf("vrrp_sync_group %s {\n group {\n", g.name)
		for _, side := range sides {
			conf += fmt.Sprintf("  %s-%s\n", g.name, side.dev)
		}
		conf += fmt.Sprintf(" }\n track_file {\n  ctsync-%s\n }\n}\n", g.name)
		for _, side := range sides {
			id++
			conf += fmt.Sprintf("vrrp_instance %s-%s {\n state BACKUP\n interface %s0\n virtual_router_id %d\n priority %d\n advert_int 0.2\n virtual_ipaddress {\n  %s/24 dev %s0\n }\n}\n",
				g.name, side.dev, side.dev, id, g.priority, side.addr, side.dev)
		}
	}
	return conf
}

const twoGroups = `set service conntrack-sync failover-mechanism vrrp sync-group 'red'
set service conntrack-sync failover-mechanism vrrp other-sync-group 'blue'
set service conntrack-sync interface 'eth0'
`

// blueFirst names the groups in the other order.
func blueFirst(config string) string {
	return strings.NewReplacer("'red'", "'blue'", "'blue'", "'red'").Replace(config)
}

// waitGroup waits until a router stands in a group as ok wants it.
func waitGroup(t *testing.T, n *lab.Node, group, what string, ok func(stats.GroupStatus) bool) {
	t.Helper()
	wait(t, n.Name+" in group "+group+" "+what, func() (bool, error) {
		s, err := n.Status()
		for _, g := range s.Groups {
			if g.Group == group {
				return ok(g), fmt.Errorf("%s %+v", g.Role, g.Readiness)
			}
		}
		return false, err
	})
}

func role(want string) func(stats.GroupStatus) bool {
	return func(g stats.GroupStatus) bool { return g.Role == want }
}

// startActiveActive starts both routers, which translate blue's LAN to an address
// of its own; first does what comes before a router's daemons.
func startActiveActive(t *testing.T, l *lab.Lab, translated string, bgp bool, first func(i int)) (keepalived [2]*lab.Process) {
	t.Helper()
	for _, cmd := range [][]string{{"ip", "addr", "add", blueClient + "/24", "dev", "lan0"},
		{"ip", "rule", "add", "from", blueClient, "table", "2"}, {"ip", "route", "add", "default", "via", blueLAN, "dev", "lan0", "table", "2"}} {
		must[string](t)(l.Client.Run(cmd...))
	}
	for i, r := range l.R {
		must[string](t)(r.Run("ip", "addr", "add", fmt.Sprintf("10.2.0.%d/24", i+1), "dev", "lan0"))
		must[string](t)(r.Run("nft", "add", "rule", "ip", "nat", "postrouting", "oifname", "wan0", "ip", "saddr", "10.2.0.0/24", "snat", "to", translated))
		conf := activeActive(r, 200-10*i, 190+10*i, bgp)
		if i == 1 { // which names blue first
			conf = strings.NewReplacer(`/ready"`, `/ready-red"`, `/ready-blue"`, `/ready"`).Replace(conf)
		}
		if err := os.WriteFile(filepath.Join(r.Dir, "keepalived.conf"), []byte(conf), 0o644); err != nil {
			t.Fatal(err)
		}
		if first != nil {
			first(i)
		}
		startSync(t, r)
		keepalived[i] = must[*lab.Process](t)(r.StartKeepalived())
	}
	return keepalived
}

// carry asserts that all connections of a Hold carry data.
func carry(t *testing.T, when string, h *lab.Hold, n int) {
	t.Helper()
	if r := must[lab.Held](t)(h.Round()); r.OK != n {
		t.Errorf("%s: %d of %d, %v", when, r.OK, n, r.Failed)
	}
}

// TestTwoGroupsOppositeRoles: both routers carry traffic, each of one group, and
// back the other's up. Whichever falls, no flow of either group is lost, and what
// belongs to one group stays out of the other's caches.
func TestTwoGroupsOppositeRoles(t *testing.T) {
	l := newLab(t, lab.Options{Config: [2]string{twoGroups, blueFirst(twoGroups)}})
	keepalived := startActiveActive(t, l, blueWAN, false, nil)
	waitGroup(t, l.R[0], "red", "being MASTER", role("MASTER"))
	waitGroup(t, l.R[1], "blue", "being MASTER", role("MASTER"))
	waitGroup(t, l.R[0], "blue", "being BACKUP", role("BACKUP"))
	waitGroup(t, l.R[1], "red", "being BACKUP", role("BACKUP"))
	must[*lab.Process](t)(l.Serve())
	red := must[*lab.Hold](t)(l.StartHold(10))
	defer red.Close()
	blue := must[*lab.Hold](t)(l.StartHoldFrom(blueClient, lab.ServerAddr, lab.EchoPort, 12))
	defer blue.Close()
	count := func(n *lab.Node, group string, internal, external uint64) {
		t.Helper()
		wait(t, fmt.Sprintf("%d and %d entries of group %s on %s", internal, external, group, n.Name), func() (bool, error) {
			s, err := n.Statistics()
			m := s.Groups[group].Main
			if err != nil || m.CacheExternal == nil {
				return false, err
			}
			return m.CacheInternal.Active == internal && m.CacheExternal.Active == external,
				fmt.Errorf("internal %d, external %d", m.CacheInternal.Active, m.CacheExternal.Active)
		})
	}
	count(l.R[0], "red", 10, 0)
	count(l.R[1], "red", 0, 10)
	count(l.R[1], "blue", 12, 0)
	count(l.R[0], "blue", 0, 12)
	both := func(when string) {
		t.Helper()
		carry(t, when+", red", red, 10)
		carry(t, when+", blue", blue, 12)
	}
	waitGroup(t, l.R[0], "blue", "being ready", func(g stats.GroupStatus) bool { return g.Readiness.Ready })
	if err := keepalived[1].Stop(); err != nil {
		t.Logf("keepalived: %v", err)
	}
	waitGroup(t, l.R[0], "blue", "being MASTER", role("MASTER"))
	both("after r2 stopped")
	keepalived[1] = must[*lab.Process](t)(l.R[1].StartKeepalived())
	waitGroup(t, l.R[1], "blue", "being MASTER again", role("MASTER"))
	both("after r2 returned")
	must[string](t)(l.R[1].Sync("hand-over", "blue"))
	waitGroup(t, l.R[0], "blue", "being MASTER", role("MASTER"))
	waitGroup(t, l.R[0], "red", "still being MASTER", role("MASTER"))
	both("after blue was handed over")
	must[string](t)(l.R[1].Sync("hand-over", "blue", "--cancel"))
	waitGroup(t, l.R[1], "blue", "being MASTER again", role("MASTER"))
	both("after that was cancelled")
	if s := must[stats.Status](t)(l.R[0].Status()); len(s.Alarms) > 0 {
		t.Errorf("alarms %q", s.Alarms)
	}
	t.Log(must[string](t)(l.R[0].Sync("show", "conntrack-sync", "status", "--detail")))
}

// What blue's LAN is translated to where routes lead there.
const (
	blueRouted     = "198.18.5.0/24"
	blueRoutedAddr = "198.18.5.10"
)

const twoGroupsRouted = twoGroups + `set service conntrack-sync bgp prefix 198.51.100.0/24 sync-group red
set service conntrack-sync bgp prefix 198.18.5.0/24 sync-group blue
`

// TestTwoGroupsRoutes: each group's prefix leads to the router that is its MASTER,
// also while the two are MASTER of one each, and what happens to one group moves
// nothing of the other.
func TestTwoGroupsRoutes(t *testing.T) {
	l := newLab(t, lab.Options{BGP: true, Config: [2]string{twoGroupsRouted, blueFirst(twoGroupsRouted)}})
	up := must[*lab.Upstream](t)(l.StartUpstream())
	keepalived := startActiveActive(t, l, blueRoutedAddr, true, func(i int) {
		must[string](t)(l.R[i].Run("ip", "route", "add", "blackhole", blueRouted))
		must[*lab.Process](t)(l.R[i].StartBGP())
	})
	best := func(prefix string) lab.Best {
		if seen := up.Seen(prefix); len(seen) > 0 {
			return seen[len(seen)-1]
		}
		return lab.Best{}
	}
	points := func(when, prefix string, i int) {
		t.Helper()
		wait(t, fmt.Sprintf("%s pointing at %s %s", prefix, l.R[i].Name, when), func() (bool, error) {
			b := best(prefix)
			return b.Hop == hops[i], fmt.Errorf("%+v", b)
		})
	}
	points("at the start", lab.Routed, 0)
	points("at the start", blueRouted, 1)
	waitGroup(t, l.R[0], "blue", "being BACKUP", role("BACKUP"))
	waitGroup(t, l.R[1], "red", "being BACKUP", role("BACKUP"))
	must[*lab.Process](t)(l.Serve())
	red := must[*lab.Hold](t)(l.StartHold(10))
	defer red.Close()
	blue := must[*lab.Hold](t)(l.StartHoldFrom(blueClient, lab.ServerAddr, lab.EchoPort, 12))
	defer blue.Close()
	ready := func() {
		t.Helper()
		isReady := func(g stats.GroupStatus) bool { return g.Readiness.Ready }
		waitGroup(t, l.R[0], "blue", "being ready", isReady)
		waitGroup(t, l.R[1], "red", "being ready", isReady)
	}
	began := time.Now()
	// step does something to one group; the other's path stays where it is.
	step := func(when string, r, b int, still string, do func()) {
		t.Helper()
		at, hop := time.Now(), best(still).Hop
		do()
		points(when, lab.Routed, r)
		points(when, blueRouted, b)
		carry(t, when+", red", red, 10)
		carry(t, when+", blue", blue, 12)
		for _, b := range up.Seen(still) {
			if b.At.After(at) && b.Hop != hop {
				t.Errorf("%s: %s pointed at %s, then %+v", when, still, hop, b)
			}
		}
	}
	ready()
	step("when r2 stopped", 0, 0, lab.Routed, func() { _ = keepalived[1].Stop() })
	step("when r2 returned", 0, 1, lab.Routed, func() { keepalived[1] = must[*lab.Process](t)(l.R[1].StartKeepalived()) })
	ready()
	step("when blue was handed over", 0, 0, lab.Routed, func() { must[string](t)(l.R[1].Sync("hand-over", "blue")) })
	step("when that was cancelled", 0, 1, lab.Routed, func() { must[string](t)(l.R[1].Sync("hand-over", "blue", "--cancel")) })
	ready()
	step("when keepalived crashed on r1", 1, 1, blueRouted, func() { l.R[0].KillKeepalived() })
	step("when it returned", 0, 1, blueRouted, func() { must[*lab.Process](t)(l.R[0].StartKeepalived()) })
	ready()
	for _, prefix := range []string{lab.Routed, blueRouted} {
		for _, b := range up.Seen(prefix) {
			if b.Hop == "" && b.At.After(began) {
				t.Errorf("no path to %s at %v", prefix, b.At)
			}
		}
	}
	for i, n := range l.R {
		wait(t, n.Name+"'s routes being those of its roles", func() (bool, error) {
			r, err := n.Routes()
			ok := len(r.Routes) == 2
			for _, x := range r.Routes {
				ok = ok && x.Level == map[bool]string{true: "master", false: "standby"}[(x.Prefix == lab.Routed) == (i == 0)]
			}
			return ok, fmt.Errorf("%+v %w", r.Routes, err)
		})
	}
}
