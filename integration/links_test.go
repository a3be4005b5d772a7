package integration

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/integration/lab"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// overrun makes r1's kernel lose events: its engine is held while more flows are
// born than its queue takes.
func overrun(t *testing.T, l *lab.Lab) {
	t.Helper()
	before := must[statsOf](t)(counters(l.R[0]))
	p := plugin(t, l.R[0])
	_ = syscall.Kill(p.PID, syscall.SIGSTOP)
	err := l.Blast(context.Background(), 40000, 1)
	_ = syscall.Kill(p.PID, syscall.SIGCONT)
	if err != nil {
		t.Fatal(err)
	}
	wait(t, "an overrun", func() (bool, error) {
		s, err := counters(l.R[0])
		return s.overruns > before.overruns, err
	})
}

// links is what a node says of its sync interfaces, "eth0:up* eth1:down".
func links(s stats.Status) string {
	var words []string
	for _, l := range s.Links {
		w := l.Interface + ":" + l.State
		if l.Active {
			w += "*"
		}
		words = append(words, w)
	}
	return strings.Join(words, " ")
}

func waitLinks(t *testing.T, n *lab.Node, want string) {
	t.Helper()
	wait(t, n.Name+" with "+want, func() (bool, error) {
		s, err := n.Status()
		return err == nil && links(s) == want && s.Peers[0].Alive, fmt.Errorf("%s %w", links(s), err)
	})
}

// TestTakeOverBetweenLinks: with two sync interfaces a failing one costs no
// flow, whether its carrier goes, nothing comes through any more, or it is
// deleted and made anew; each is an alarm.
func TestTakeOverBetweenLinks(t *testing.T) {
	config := lab.Seed + "set service conntrack-sync interface eth1\n"
	l := newLab(t, lab.Options{Sync: []string{"eth0", "eth1"}, Config: [2]string{config, config}})
	startPair(t, l)
	for _, n := range l.R {
		waitLinks(t, n, "eth0:up* eth1:up")
		if out, err := n.Sync("show", "conntrack-sync", "status", "--check"); err != nil {
			t.Errorf("healthy: %s %v", out, err)
		}
	}
	flows := 0
	replicate := func(when string) {
		t.Helper()
		h := must[*lab.Hold](t)(l.StartHold(6))
		t.Cleanup(h.Close)
		flows += 6
		wait(t, fmt.Sprintf("%d flows on the standby %s", flows, when), func() (bool, error) {
			_, ex, err := l.R[1].Active()
			return ex == uint64(flows), err
		})
	}
	ip := func(n *lab.Node, args ...string) { must[string](t)(n.Run(append([]string{"ip"}, args...)...)) }
	replicate("at first")

	ip(l.R[0], "link", "set", "eth0", "down")
	for _, n := range l.R {
		waitLinks(t, n, "eth0:down eth1:up*")
		out, err := n.Sync("show", "conntrack-sync", "status", "--check")
		if err == nil || !strings.Contains(err.Error(), "sync interface eth0 is down") {
			t.Errorf("no alarm: %s %v", out, err)
		}
	}
	if s := must[string](t)(l.R[0].Sync("show", "conntrack-sync", "statistics")); !strings.Contains(s, "multicast traffic (active device=eth1):") {
		t.Errorf("statistics:\n%s", s)
	}
	replicate("after the carrier went")

	ip(l.R[0], "link", "set", "eth0", "up")
	for _, n := range l.R {
		waitLinks(t, n, "eth0:up eth1:up*")
		must[string](t)(n.Input("insert rule inet filter input iifname \"eth1\" drop\n", "nft", "-f", "-"))
	}
	for _, n := range l.R {
		waitLinks(t, n, "eth0:up* eth1:up")
	}
	replicate("after nothing came through any more")
	for _, n := range l.R {
		must[string](t)(n.Input("flush chain inet filter input\nadd rule inet filter input accept\n", "nft", "-f", "-"))
	}

	ip(l.R[0], "link", "del", "eth0")
	for _, n := range l.R {
		waitLinks(t, n, "eth0:absent eth1:up*")
	}
	replicate("after the interface was deleted")
	if err := l.SyncCable(0); err != nil {
		t.Fatal(err)
	}
	for _, n := range l.R {
		waitLinks(t, n, "eth0:up eth1:up*")
	}
	ip(l.R[1], "link", "set", "eth1", "down")
	for _, n := range l.R {
		waitLinks(t, n, "eth0:up* eth1:down")
	}
	replicate("on the interface that was made anew")
}

// TestOnlyLinkReturns: a single sync interface disappears and returns; what
// happened meanwhile arrives, and the dead link is an alarm in log and status.
func TestOnlyLinkReturns(t *testing.T) {
	l := newLab(t, lab.Options{})
	rs := startPair(t, l)
	must[string](t)(l.R[1].Run("ip", "link", "del", "eth0"))
	wait(t, "the alarm", func() (bool, error) {
		_, err := l.R[0].Sync("show", "conntrack-sync", "status", "--check")
		return err != nil && strings.Contains(err.Error(), "no peer is heard on the sync link for"), err
	})
	h := must[*lab.Hold](t)(l.StartHold(10))
	defer h.Close()
	if err := l.SyncCable(0); err != nil {
		t.Fatal(err)
	}
	wait(t, "10 flows on the standby", func() (bool, error) {
		_, ex, err := l.R[1].Active()
		return ex == 10, err
	})
	for _, line := range []string{"sync interface is absent", "no peer is heard on the sync link any more", "sync interface opened again", "a peer is heard on the sync link"} {
		if !strings.Contains(rs[0].sync.Output(), line) {
			t.Errorf("the log does not say %q", line)
		}
	}
}

// TestMTU: datagrams are as large as the link takes and never in fragments, also
// after it changed, over IPv6 too.
func TestMTU(t *testing.T) {
	for name, config := range map[string][2]string{"IPv4": {}, "IPv6": {unicast(2), unicast(1)}} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, lab.Options{Config: config})
			must[string](t)(l.R[0].Run("sysctl", "-qw", "net.netfilter.nf_conntrack_udp_timeout=600"))
			startPair(t, l)
			for _, mtu := range []int{1500, 1280, 9000} {
				for _, n := range l.R {
					must[string](t)(n.Run("ip", "link", "set", "eth0", "mtu", fmt.Sprint(mtu)))
				}
				wait(t, "the routers noticing", func() (bool, error) {
					for _, n := range l.R {
						s, err := n.Status()
						if err != nil || !s.Peers[0].Alive || s.Links[0].MTU != mtu {
							return false, err
						}
					}
					return true, nil
				})
				blasted := make(chan error, 1)
				go func() { blasted <- l.Blast(context.Background(), 20000, 1) }()
				largest := 0
				for _, p := range must[[]lab.Sniffed](t)(l.R[0].Sniff("eth0", 100)) {
					if p.Fragment || p.Bytes > mtu {
						t.Errorf("MTU %d: a packet of %d bytes, fragment %v", mtu, p.Bytes, p.Fragment)
					}
					largest = max(largest, p.Bytes)
				}
				if err := <-blasted; err != nil {
					t.Fatal(err)
				}
				t.Logf("MTU %d: largest packet %d", mtu, largest)
				wait(t, "equal tables", func() (bool, error) { return equal(l, 0, 1) })
			}
		})
	}
}

// TestReplacedConfDirectory: configuration management swaps a symbolic link, or
// a whole directory, under our feet.
func TestReplacedConfDirectory(t *testing.T) {
	l := newLab(t, lab.Options{})
	n := l.R[0]
	dir := n.ConfDir()
	// As kubernetes does it: conf.d/x.conf -> ..data/x.conf, ..data -> a directory.
	for i, text := range []string{lab.Seed, lab.Seed + "set service conntrack-sync purge-timeout 30\n"} {
		if err := os.MkdirAll(fmt.Sprintf("%s/..v%d", dir, i), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(fmt.Sprintf("%s/..v%d/sync.conf", dir, i), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	swap := func(target, name string) {
		t.Helper()
		if err := os.Symlink(target, dir+"/..tmp"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(dir+"/..tmp", name); err != nil {
			t.Fatal(err)
		}
	}
	swap("..v0", dir+"/..data")
	swap("..data/sync.conf", dir+"/sync.conf")
	p := startSync(t, n)
	said := func(line string) {
		t.Helper()
		wait(t, "the log saying "+line, func() (bool, error) { return strings.Contains(p.Output(), line), nil })
	}
	swap("..v1", dir+"/..data")
	said("configuration changed: set service conntrack-sync purge-timeout '30'")
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/other.conf", []byte(lab.Seed+"set service conntrack-sync sync-queue-size 2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	said("configuration changed: delete service conntrack-sync purge-timeout '30'")
	said("configuration changed: set service conntrack-sync sync-queue-size '2'")
}
