package integration

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/integration/lab"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

// equal compares the active's kernel, what is replicated of it, with the
// standby's external cache, tuple by tuple.
func equal(l *lab.Lab, active, standby int) (bool, error) {
	have, err := l.R[standby].Cache("external")
	if err != nil {
		return false, err
	}
	table, err := l.R[active].Table()
	if err != nil {
		return false, err
	}
	kept := table[:0]
	for _, f := range table {
		switch f.Orig.Proto {
		case flow.ProtoTCP, flow.ProtoUDP, flow.ProtoICMP:
			if f.Orig.SrcAddr().String() == lab.ClientAddr {
				kept = append(kept, f)
			}
		}
	}
	if d := difference(keys(kept), keys(have)); d != "" {
		return false, fmt.Errorf("%s", d)
	}
	return true, nil
}

// TestHundredThousandFlows replicate and commit, none missing.
func TestHundredThousandFlows(t *testing.T) {
	l := newLab(t, lab.Options{})
	for _, r := range l.R {
		must[string](t)(r.Run("sysctl", "-qw", "net.netfilter.nf_conntrack_udp_timeout=600"))
	}
	rs := startPair(t, l)
	if err := l.Blast(context.Background(), 50000, 2); err != nil {
		t.Fatal(err)
	}
	wait(t, "equal tables", func() (bool, error) { return equal(l, 0, 1) })
	before := keys(must[[]flow.Flow](t)(l.R[1].Cache("external")))
	if len(before) < 99_000 {
		t.Fatalf("only %d flows were made", len(before))
	}
	streams(t, l.R[1], rs[1].sync, len(before))
	_ = rs[0].keepalived.Stop()
	waitRole(t, l.R[1], "MASTER")
	wait(t, "the commit", func() (bool, error) {
		_, ex, err := l.R[1].Active()
		return ex == 0, err
	})
	table := keys(must[[]flow.Flow](t)(l.R[1].Table()))
	missing := 0
	for k := range before {
		if table[k] == "" {
			missing++
		}
	}
	if missing > 0 {
		t.Errorf("%d of %d flows are not in the new router's kernel", missing, len(before))
	}
	s, err := l.R[1].Status()
	if err != nil || s.Commit == nil {
		t.Fatalf("status %+v, %v", s, err)
	}
	t.Logf("commit: %+v", *s.Commit)
}

// streams: a long list is printed without being held in memory, by the command or
// by the daemon; the engine, which lends its cache slice by slice, may grow by a
// little.
func streams(t *testing.T, n *lab.Node, shim *lab.Process, entries int) {
	t.Helper()
	const most = 48 << 10 // kB of the command; a list of 100,000 as JSON has some 40 MB
	daemon, engine := peak(t, shim.PID()), peak(t, plugin(t, n).PID)
	for _, more := range [][]string{nil, {"--format", "vyatta"}, {"--json"}} {
		args := []string{n.Binary(), "--run-dir", n.RunDir(), "show", "conntrack-sync", "cache", "external"}
		m := must[lab.Measured](t)(n.Measure(append(args, more...)...))
		if m.Lines < entries {
			t.Errorf("%v: %d lines for %d entries", more, m.Lines, entries)
		}
		t.Logf("%v: %d bytes printed, the command's memory %d kB", more, m.Bytes, m.PeakKB)
		if m.PeakKB > most {
			t.Errorf("%v: the command took %d kB", more, m.PeakKB)
		}
	}
	for name, grown := range map[string]int{"daemon": peak(t, shim.PID()) - daemon, "engine": peak(t, plugin(t, n).PID) - engine} {
		t.Logf("the %s's peak grew by %d kB", name, grown)
		if grown > most/2 {
			t.Errorf("the %s's peak grew by %d kB", name, grown)
		}
	}
}

// peak is the most memory a process has had, in kB.
func peak(t *testing.T, pid int) (kb int) {
	t.Helper()
	b := must[[]byte](t)(os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)))
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	if _, err := fmt.Sscan(rest, &kb); err != nil {
		t.Fatal(err)
	}
	return kb
}

// TestTwentyThousandNewFlowsASecond for ten seconds, while all that stand are
// deleted every two: the standby's cache equals the active's filtered table.
func TestTwentyThousandNewFlowsASecond(t *testing.T) {
	l := newLab(t, lab.Options{})
	must[string](t)(l.R[0].Run("sysctl", "-qw", "net.netfilter.nf_conntrack_udp_timeout=600"))
	startPair(t, l)
	blasted := make(chan error, 1)
	go func() { blasted <- l.Blast(context.Background(), 20000, 10) }()
	// What is born last stays, so that there is something to compare.
	for done, start := false, time.Now(); !done; {
		select {
		case err := <-blasted:
			if err != nil {
				t.Fatal(err)
			}
			done = true
		case <-time.After(2 * time.Second):
			if time.Since(start) < 7*time.Second {
				_, _ = l.R[0].Run("conntrack", "-D", "-p", "udp", "-s", lab.ClientAddr)
			}
		}
	}
	ended, began := time.Now(), time.Time{}
	wait(t, "equal tables", func() (bool, error) {
		began = time.Now()
		return equal(l, 0, 1)
	})
	t.Logf("the standby's cache was read from %v after the end of the load on", began.Sub(ended))
	s := must[statsOf](t)(counters(l.R[0]))
	if s.created < 190_000 || s.destroyed < 50_000 || s.active < 10_000 {
		t.Errorf("the load was not what it should be: %+v", s)
	}
	t.Logf("active: %+v", s)
}

type statsOf struct{ active, created, destroyed, overruns uint64 }

func counters(n *lab.Node) (statsOf, error) {
	s, err := n.Statistics()
	c := s.Main.CacheInternal
	return statsOf{c.Active, c.Created, c.Destroyed, s.Drops["event_overruns"]}, err
}
