package integration

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/integration/lab"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// TestSeedExample loads the document's example on a pair: ten flows through the
// active router are ten entries, no more, in its internal cache and in the
// standby's external one; after the role change they are in the standby's
// kernel and every one of them still works.
func TestSeedExample(t *testing.T) {
	l := newLab(t, lab.Options{})
	rs := startPair(t, l)
	h := must[*lab.Hold](t)(l.StartHold(10))
	defer h.Close()
	wait(t, "10 entries on both sides", func() (bool, error) {
		in, _, err := l.R[0].Active()
		if err != nil {
			return false, err
		}
		_, ex, err := l.R[1].Active()
		return in == 10 && ex == 10, err
	})
	a, b := must[[]flow.Flow](t)(l.R[0].Cache("internal")), must[[]flow.Flow](t)(l.R[1].Cache("external"))
	if d := difference(keys(a), keys(b)); d != "" {
		t.Errorf("the standby's view: %s", d)
	}
	if err := rs[0].keepalived.Stop(); err != nil {
		t.Logf("keepalived: %v", err)
	}
	waitRole(t, l.R[1], "MASTER")
	wait(t, "the sequence's end", func() (bool, error) {
		in, ex, err := l.R[1].Active()
		return in == 10 && ex == 0, err
	})
	table := keys(must[[]flow.Flow](t)(l.R[1].Table()))
	for k, v := range keys(a) {
		if table[k] == "" {
			t.Errorf("%v (%s) is not in the new router's kernel", k.Tuple, v)
		}
	}
	if r := must[lab.Held](t)(h.Round()); r.OK != 10 {
		t.Errorf("after the take-over: %v", r.Failed)
	}
	log := rs[1].sync.Output()
	at := 0
	for _, step := range []string{"transitioning to MASTER", "commit the external cache", "flush both caches", "refill the internal cache", "send everything"} {
		i := strings.Index(log[at:], step)
		if i < 0 {
			t.Errorf("the log does not show %q in its place", step)
			continue
		}
		at += i
	}
	s, err := l.R[1].Status()
	if err != nil || !strings.HasPrefix(s.LastTransition, "MASTER at ") || s.Commit == nil || s.Commit.Created != 10 {
		t.Errorf("status %+v, %v", s, err)
	}
}

// TestDownloadSurvivesPowerLoss is the main job.
func TestDownloadSurvivesPowerLoss(t *testing.T) {
	l := newLab(t, lab.Options{})
	startPair(t, l)
	const size, rate = 16 << 20, 4 << 20
	received := must[func() (lab.Received, error)](t)(l.Download(size, rate))
	wait(t, "the download's entry on the standby", func() (bool, error) {
		_, ex, err := l.R[1].Active()
		return ex == 1, err
	})
	time.Sleep(time.Second) // in the middle of it
	if err := l.R[0].PowerOff(); err != nil {
		t.Fatal(err)
	}
	r := must[lab.Received](t)(received())
	if r.Error != "" || r.Bytes != size || r.Hash != lab.ContentHash(size) {
		t.Fatalf("received %+v", r)
	}
	t.Logf("stall %v ms", r.StallMS)
}

// TestIdleButAlive: packets refresh the active's entry without an event, so a
// flow may be older than the timeout its last event brought. It survives.
func TestIdleButAlive(t *testing.T) {
	l := newLab(t, lab.Options{})
	for _, r := range l.R {
		must[string](t)(r.Run("sysctl", "-qw", "net.netfilter.nf_conntrack_udp_timeout=4", "net.netfilter.nf_conntrack_udp_timeout_stream=4"))
	}
	rs := startPair(t, l)
	h := must[*lab.Hold](t)(l.StartHold(4))
	defer h.Close()
	for range 8 { // eight seconds, twice the timeout
		time.Sleep(time.Second)
		if r := must[lab.Held](t)(h.Round()); r.OK != 4 {
			t.Fatal(r.Failed)
		}
	}
	rs[0].sync.Signal(syscall.SIGKILL)
	rs[0].keepalived.Signal(syscall.SIGKILL)
	if err := l.R[0].PowerOff(); err != nil {
		t.Fatal(err)
	}
	waitRole(t, l.R[1], "MASTER")
	if r := must[lab.Held](t)(h.Round()); r.OK != 4 {
		t.Errorf("after the take-over: %v", r.Failed)
	}
}

// TestIPv6 does what TestSeedExample does for flows over IPv6 behind source NAT,
// and for a ping over either family.
func TestIPv6(t *testing.T) {
	l := newLab(t, lab.Options{Config: [2]string{unicast(2), unicast(1)}})
	rs := startPair(t, l)
	h := must[*lab.Hold](t)(l.StartHoldTo(lab.ServerAddr6, 4))
	defer h.Close()
	must[string](t)(l.Client.Run("ping", "-c", "1", "-e", "77", lab.ServerAddr))
	must[string](t)(l.Client.Run("ping", "-6", "-c", "1", "-e", "78", lab.ServerAddr6))
	wait(t, "four flows and two pings on the standby", func() (bool, error) {
		flows, err := l.R[1].Cache("external")
		n := 0
		for _, f := range flows {
			if f.Has&flow.HasSNAT == 0 {
				t.Errorf("%v arrived without its translation", f.Orig)
			}
			n++
		}
		return n == 6, err
	})
	_ = rs[0].keepalived.Stop()
	waitRole(t, l.R[1], "MASTER")
	if r := must[lab.Held](t)(h.Round()); r.OK != 4 {
		t.Errorf("after the take-over: %v", r.Failed)
	}
	s := must[stats.Status](t)(l.R[1].Status())
	if s.Commit == nil || s.Commit.Created+s.Commit.Updated != 6 || len(s.Commit.Refused) != 0 {
		t.Errorf("commit %+v", s.Commit)
	}
}

// unicast is the seed's example with a peer instead of the group, over IPv6.
func unicast(peer int) string {
	return strings.Replace(lab.Seed, "set service conntrack-sync mcast-group '225.0.0.50'\n",
		fmt.Sprintf("set service conntrack-sync interface eth0 peer 'fd77::%d'\nset service conntrack-sync accept-protocol 'icmp6'\n", peer), 1)
}
