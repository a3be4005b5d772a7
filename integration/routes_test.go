package integration

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/integration/lab"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// routed is the seed's example with routes that follow the roles.
const routed = lab.Seed + `set service conntrack-sync bgp prefix 198.51.100.0/24
set service conntrack-sync bgp prefix 2001:db8:5::/48
set service conntrack-sync bgp communities 65001:77
`

// hops are the WAN addresses of the routers: what a best path points at.
var hops = [2]string{"203.0.113.1", "203.0.113.2"}

type routedPair struct {
	*lab.Lab
	rs     [2]router
	bgp    [2]*lab.Process
	up     *lab.Upstream
	stream *lab.Stream

	embedded  bool // the speaker is inside the daemon, see host/bgp/routinghost
	downloads int
}

// startDaemon starts conntrack-sync on a router, alone or in a routing host.
func (p *routedPair) startDaemon(t *testing.T, i int) {
	t.Helper()
	if !p.embedded {
		p.rs[i].sync = startSync(t, p.R[i])
		return
	}
	p.rs[i].sync = must[*lab.Process](t)(p.R[i].StartRoutingHost())
	answers(t, p.R[i])
}

// startSpeaker starts a router's gobgpd, where there is one.
func (p *routedPair) startSpeaker(t *testing.T, i int) {
	t.Helper()
	if !p.embedded {
		p.bgp[i] = must[*lab.Process](t)(p.R[i].StartBGP())
	}
}

// startRouted starts a pair whose WAN side follows BGP, and waits until the best
// path points at r1 and the standby's is there.
func startRouted(t *testing.T, embedded bool) *routedPair {
	t.Helper()
	if _, err := exec.LookPath("gobgpd"); err != nil {
		t.Fatal("needs gobgpd (integration/install.sh)")
	}
	p := &routedPair{embedded: embedded, Lab: newLab(t, lab.Options{BGP: true, Track: true, Config: [2]string{routed, routed}})}
	p.up = must[*lab.Upstream](t)(p.StartUpstream())
	for i, n := range p.R {
		p.startSpeaker(t, i)
		p.startDaemon(t, i)
		p.rs[i].keepalived = must[*lab.Process](t)(n.StartKeepalived())
	}
	formPair(t, p.Lab)
	p.points(t, 0)
	p.level(t, 1, "standby")
	for _, n := range p.R {
		wait(t, n.Name+"'s sessions for IPv4 and IPv6", func() (bool, error) {
			r, err := n.Routes()
			return err == nil && r.Established == 2, fmt.Errorf("%+v %w", r.Sessions, err)
		})
	}
	p.stream = must[*lab.Stream](t)(p.StartStream())
	return p
}

// level waits until a router's routes are announced so.
func (p *routedPair) level(t *testing.T, i int, level string) {
	t.Helper()
	wait(t, p.R[i].Name+"'s routes being those of "+level, func() (bool, error) {
		r, err := p.R[i].Routes()
		for _, x := range r.Routes {
			if x.Level != level || x.Error != "" {
				return false, fmt.Errorf("%+v", x)
			}
		}
		return err == nil && len(r.Routes) == 2, err
	})
}

// points waits until the upstream's best paths point at a router.
func (p *routedPair) points(t *testing.T, i int) lab.Best {
	t.Helper()
	var last lab.Best
	for _, prefix := range []string{lab.Routed6, lab.Routed} {
		wait(t, prefix+" pointing at "+p.R[i].Name, func() (bool, error) {
			seen := p.up.Seen(prefix)
			if len(seen) == 0 {
				return false, fmt.Errorf("nothing was announced")
			}
			last = seen[len(seen)-1]
			return last.Hop == hops[i] || last.Hop == fmt.Sprintf("fd02::%d", i+1), fmt.Errorf("%+v", last)
		})
	}
	return last
}

// never asserts that since a moment there was no time without a path, and returns
// the paths that came.
func (p *routedPair) never(t *testing.T, since time.Time) (came []lab.Best) {
	t.Helper()
	for _, b := range p.up.Seen(lab.Routed) {
		if b.At.Before(since) {
			continue
		}
		if b.Hop == "" {
			t.Errorf("no path at %v", b.At)
		}
		came = append(came, b)
	}
	return came
}

// committed is the time at which the router's last commit ended, of its log.
func (p *routedPair) committed(t *testing.T, i int) time.Time {
	t.Helper()
	at := time.Time{}
	for line := range strings.Lines(p.rs[i].sync.Output()) {
		if !strings.Contains(line, `step="commit the external cache"`) {
			continue
		}
		for _, w := range strings.Fields(line) {
			if v, ok := strings.CutPrefix(w, "time="); ok {
				at, _ = time.Parse(time.RFC3339Nano, v)
			}
		}
	}
	if at.IsZero() {
		t.Fatal("no commit is in the log")
	}
	return at
}

// through runs a download while something is done to the routers, which is to end
// with the best path at a router; it must arrive whole.
func (p *routedPair) through(t *testing.T, to int, do func()) {
	t.Helper()
	const rate = 2 << 20
	p.downloads++
	size := 8<<20 + p.downloads // each has a log of its own
	received := must[func() (lab.Received, error)](t)(p.Download(size, rate))
	time.Sleep(time.Second) // in the middle of it
	began := time.Now()
	do()
	best := p.points(t, to)
	r := must[lab.Received](t)(received())
	if r.Error != "" || r.Bytes != size || r.Hash != lab.ContentHash(size) {
		t.Errorf("received %+v", r)
	}
	t.Logf("path %+v, %v after it began; download stalled %.0f ms, stream silent %v", best, best.At.Sub(began), r.StallMS, p.stream.Silence(began, time.Now()))
}

// afterCommit asserts that the MASTER's path of a router was seen only after its
// commit, and says how long after.
func (p *routedPair) afterCommit(t *testing.T, i int, since time.Time) {
	t.Helper()
	done := p.committed(t, i)
	for _, b := range p.up.Seen(lab.Routed) {
		if b.At.After(since) && b.Hop == hops[i] && b.MED <= 100 {
			if b.At.Before(done) {
				t.Errorf("the MASTER's path was seen at %v, the commit ended at %v", b.At, done)
			}
			t.Logf("seen %v after the commit ended", b.At.Sub(done))
			return
		}
	}
	t.Error("the MASTER's path was never seen")
}

// inSync waits until the standby would carry the traffic, and is announced so.
func (p *routedPair) inSync(t *testing.T, i int) {
	t.Helper()
	wait(t, p.R[i].Name+" being in sync", func() (bool, error) {
		s, err := p.R[i].Status()
		return err == nil && s.Role == "BACKUP" && s.View != nil && s.View.InSync, fmt.Errorf("%+v %w", s.View, err)
	})
	p.level(t, i, "standby")
}

// TestRoutesFollow: the best path of a real upstream gobgpd points at the router
// that holds the state, over everything that happens to a pair.
func TestRoutesFollow(t *testing.T) {
	p := startRouted(t, false)
	t.Run("check warns of window tracking", p.warnsOfWindows)
	t.Run("the daemon restarts on the MASTER, in order and not: nothing moves", p.daemonRestarts)
	t.Run("the engine crashes: nothing moves", p.enginesCrash)
	t.Run("orderly stop and fail-back", p.orderlyStop)
	t.Run("hand-over and back", p.handOver)
	t.Run("keepalived alone crashes: its path is still announced", p.keepalivedCrashes)
	t.Run("gobgpd restarts on the MASTER: it is told again", p.gobgpdRestarts)
	t.Run("power loss", p.powerLoss)
}

// TestRoutesFollowEmbedded: the same with a speaker inside the program that loads
// conntrack-sync, where nothing but a session with the upstream leaves the process.
func TestRoutesFollowEmbedded(t *testing.T) {
	p := startRouted(t, true)
	t.Run("the engine crashes: nothing moves", p.enginesCrash)
	t.Run("orderly stop and fail-back", p.orderlyStop)
	t.Run("hand-over and back", p.handOver)
	t.Run("keepalived alone crashes: its path is still announced", p.keepalivedCrashes)
	t.Run("power loss", p.powerLoss)
}

// warnsOfWindows: check does, where the two directions may run over two routers.
func (p *routedPair) warnsOfWindows(t *testing.T) {
	const name = "net.netfilter.nf_conntrack_tcp_be_liberal"
	r := p.R[0]
	for value, warned := range map[string]bool{"0": true, "1": false} {
		must[string](t)(r.Run("sysctl", "-qw", name+"="+value))
		out, err := r.Cmd(r.Binary(), "check", "--conf-dir", r.ConfDir(), "--keepalived-conf", "").CombinedOutput()
		if err != nil || strings.Contains(string(out), "warning: routes follow roles and "+name+" is 0") != warned {
			t.Errorf("%s: %v, %s", value, err, out)
		}
	}
}

// daemonRestarts: in order and not.
func (p *routedPair) daemonRestarts(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		began := time.Now()
		p.through(t, 0, func() {
			p.rs[0].sync.Signal(signal)
			_ = p.rs[0].sync.Wait()
			p.rs[0].sync = startSync(t, p.R[0])
			waitRole(t, p.R[0], "MASTER")
			p.level(t, 0, "master")
		})
		for _, b := range p.never(t, began) {
			// Back to the configured one, when it was calm for long enough.
			if b.Hop != hops[0] || b.MED != 100 {
				t.Errorf("%v: %+v", signal, b)
			}
		}
		p.inSync(t, 1)
	}
}

// enginesCrash: on both routers.
func (p *routedPair) enginesCrash(t *testing.T) {
	began := time.Now()
	p.through(t, 0, func() {
		for i := range p.R {
			s := must[stats.Status](t)(p.R[i].Status())
			_ = syscall.Kill(s.Plugin.PID, syscall.SIGKILL)
		}
	})
	for _, b := range p.never(t, began) {
		if b.Hop != hops[0] {
			t.Errorf("%+v", b)
		}
	}
	p.inSync(t, 1)
}

// orderlyStop of keepalived, and its return.
func (p *routedPair) orderlyStop(t *testing.T) {
	began := time.Now()
	p.through(t, 1, func() { _ = p.rs[0].keepalived.Stop() })
	p.afterCommit(t, 1, began)
	p.comesBack(t, began)
}

// comesBack has r1's keepalived return and its path be the best again; since began
// there was always one.
func (p *routedPair) comesBack(t *testing.T, began time.Time) {
	t.Helper()
	back := time.Now()
	p.through(t, 0, func() { p.rs[0].keepalived = must[*lab.Process](t)(p.R[0].StartKeepalived()) })
	p.afterCommit(t, 0, back)
	p.never(t, began)
	p.inSync(t, 1)
}

// handOver and back.
func (p *routedPair) handOver(t *testing.T) {
	began := time.Now()
	p.through(t, 1, func() { must[string](t)(p.R[0].Sync("hand-over")) })
	p.afterCommit(t, 1, began)
	p.inSync(t, 0)
	back := time.Now()
	p.through(t, 0, func() { must[string](t)(p.R[0].Sync("hand-over", "--cancel")) })
	p.afterCommit(t, 0, back)
	p.never(t, began)
	p.inSync(t, 1)
}

// keepalivedCrashes alone: the router and its session live on.
func (p *routedPair) keepalivedCrashes(t *testing.T) {
	began := time.Now()
	p.through(t, 1, func() { p.R[0].KillKeepalived() })
	p.afterCommit(t, 1, began)
	p.never(t, began)
	if !p.embedded && !p.bgp[0].Alive() {
		t.Error("gobgpd is gone too")
	}
	p.comesBack(t, began)
}

// gobgpdRestarts on the MASTER.
func (p *routedPair) gobgpdRestarts(t *testing.T) {
	p.bgp[0].Kill()
	p.points(t, 1)
	p.bgp[0] = must[*lab.Process](t)(p.R[0].StartBGP())
	p.points(t, 0)
	p.level(t, 0, "master")
}

// powerLoss with nobody left to end a session, and the return.
func (p *routedPair) powerLoss(t *testing.T) {
	began := time.Now()
	p.through(t, 1, func() {
		// The links first: nobody hears the end of a session.
		for _, dev := range []string{"wan0", "lan0", lab.SyncDev} {
			must[string](t)(p.R[0].Run("ip", "link", "set", dev, "down"))
		}
		if err := p.R[0].PowerOff(); err != nil {
			t.Fatal(err)
		}
	})
	p.afterCommit(t, 1, began)
	back := time.Now()
	if err := p.R[0].PowerOn(); err != nil {
		t.Fatal(err)
	}
	for dev, addr := range map[string]string{"lan0": "fd01::1/64", "wan0": "fd02::1/64", lab.SyncDev: lab.SyncAddr6(0, 0) + "/64"} {
		// A link that goes down loses its IPv6 addresses.
		must[string](t)(p.R[0].Run("ip", "addr", "add", addr, "dev", dev, "nodad"))
	}
	p.startSpeaker(t, 0)
	p.startDaemon(t, 0)
	p.through(t, 0, func() { p.rs[0].keepalived = must[*lab.Process](t)(p.R[0].StartKeepalived()) })
	p.afterCommit(t, 0, back)
	p.never(t, began)
}
