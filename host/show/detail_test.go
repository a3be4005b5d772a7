package show

import (
	"bytes"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

func TestDetail(t *testing.T) {
	heard := int64(340)
	var b bytes.Buffer
	_ = Detail(&b, stats.Status{
		SyncInterface: "eth0, eth1", SyncGroup: "SG", LastTransition: "BACKUP at Fri Dec 24 10:34:36 UTC 2021",
		Role: "BACKUP", Since: "2021-12-24T10:34:36Z", Release: "0.2.0",
		Readiness: stats.Readiness{Reasons: []string{"the peer's table is still being copied"}},
		Alarms:    []string{"sync interface eth1 is absent"},
		Peers:     []stats.Peer{{Address: "192.0.2.1", Software: "conntrack-sync 0.1.9", Alive: true, LastHeardMS: 340, Unacked: 3}},
		Links: []stats.Link{{Interface: "eth0", Address: "225.0.0.50", Port: 3780, State: "up", Active: true, LastHeardMS: &heard},
			{Interface: "eth1", Address: "225.0.0.50", Port: 3781, State: "absent"}},
		Commit:        &stats.Commit{Trigger: "MASTER", Early: 9, EarlyLeadMS: 21.5, At: "2021-12-24T10:00:00Z", Entries: 12, Created: 10, DurationMS: 7.4, Refused: map[string]int{"clash": 2}},
		Guard:         stats.Guard{State: "up", InputDrops: 3, ForwardDrops: 1},
		Excluded:      map[string]uint64{"router": 7, "vrrp": 1, "loopback": 0},
		Configuration: stats.Configuration{Files: []string{"10-sync.conf", "20-site.conf"}},
		Plugin:        stats.Plugin{PID: 42, Release: "0.2.1", UpSince: "2021-12-24T09:00:00Z", Restarts: 1},
	})
	golden(t, "status-detail.txt", b.String())
}

func TestCommitReport(t *testing.T) {
	var b bytes.Buffer
	refused := entry(0, 6, "10.77.0.1", "10.77.0.2", 33018, 5000, 0, 0)
	expected := flow.Expect{Tuple: entry(0, 6, "fd77::1", "fd77::2", 0, 40000, 0, 0).Orig}
	for _, r := range []stats.CommitReport{{},
		{Commit: &stats.Commit{Trigger: "virtual address", At: "2021-12-24T10:00:00Z", Running: true, Total: 20000, Entries: 4096}},
		{Commit: &stats.Commit{Trigger: "MASTER", At: "2021-12-24T10:00:00Z", Entries: 3, Created: 1, DurationMS: 0.7, Refused: map[string]int{"clash": 1, "no master": 1}},
			Refused: []stats.Refusal{{Reason: "clash", Error: "file exists", Flow: &refused}, {Reason: "no master", Error: "no such file or directory", Expect: &expected}}},
	} {
		if err := CommitReport(&b, r); err != nil {
			t.Error(err)
		}
	}
	golden(t, "commit.txt", b.String())
}

func TestDiff(t *testing.T) {
	var b bytes.Buffer
	no, yes := false, true
	err := Diff(&b, stats.Diff{View: &stats.View{Differing: 2, Entries: 77, Repaired: 5, Epoch: 3},
		Peers: []stats.Peer{{Address: "192.0.2.1", Protocol: "native", Software: "conntrack-sync 0.2.0", Alive: true, LastHeardMS: 100, Role: "MASTER",
			Epoch: 3, InSync: &no, Differing: 2, LagP50MS: 0.4, LagP99MS: 2},
			{Address: "192.0.2.3", Protocol: "native", Software: "conntrack-sync 0.2.0", Alive: true, LastHeardMS: 100, Role: "BACKUP",
				Unacked: 12, BehindMS: 7, InSync: &yes, ProvenMS: 400, LagP50MS: 0.4, LagP99MS: 2}},
		Found: []stats.Difference{{At: "2021-12-24T10:34:36Z", Kind: "missing", Flow: entry(0, 6, "10.77.0.1", "10.77.0.2", 33018, 5000, 0, 0)},
			{At: "2021-12-24T10:34:36Z", Kind: "stale", Flow: entry(0, 17, "fd77::1", "fd77::2", 1, 2, 0, 0)}}})
	if err != nil {
		t.Error(err)
	}
	golden(t, "diff.txt", b.String())
}

func TestTransitions(t *testing.T) {
	var b bytes.Buffer
	ms := func(f float64) *float64 { return &f }
	err := Transitions(&b, []stats.Transition{
		{Group: "SG", State: "BACKUP", Source: "file", At: "2026-01-02T03:04:05.678Z", Outcome: "superseded by MASTER",
			Steps: []stats.TransitionStep{{Name: "tell the role", AtMS: 0.1, DurationMS: 0.34}}},
		{Group: "SG", State: "MASTER", Source: "fifo", At: "2026-01-02T03:04:06.000Z", Outcome: "done",
			Steps: []stats.TransitionStep{{Name: "tell the role", AtMS: 0.1, DurationMS: 0.3}, {Name: "commit the external cache", AtMS: 0.5, DurationMS: 12},
				{Name: "send everything to the peers", AtMS: 20, DurationMS: 1, Error: "no link"}},
			Commit: &stats.Commit{Entries: 1000, Created: 990, Updated: 7, Refused: map[string]int{"clash": 3}}, FirstEntryMS: ms(1.2), LastEntryMS: ms(12.5),
			DoneMS: ms(21), EqualMS: ms(1021.25)},
	})
	if err == nil {
		_, err = b.WriteString("\n")
	}
	if err == nil {
		err = Transitions(&b, nil)
	}
	if err != nil {
		t.Error(err)
	}
	golden(t, "transitions.txt", b.String())
}

func TestPeerSaysNoMoreThanIsKnown(t *testing.T) {
	yes, no := true, false
	for want, p := range map[string]stats.Peer{
		"alive, heard 100ms ago, 0 messages unacknowledged, BACKUP, epoch 0, in sync":                      {Alive: true, InSync: &yes},
		"alive, heard 100ms ago, 0 messages unacknowledged, BACKUP, epoch 0, NOT proven equal":             {Alive: true, InSync: &no},
		"alive, heard 100ms ago, 0 messages unacknowledged, BACKUP, epoch 0, DIFFERS in 3 of 4096 buckets": {Alive: true, InSync: &no, Differing: 3},
		"SILENT, heard 100ms ago, 0 messages unacknowledged, BACKUP, epoch 0":                              {InSync: &no, Differing: 3},
	} {
		p.Address, p.Software, p.Protocol, p.Role, p.LastHeardMS = "192.0.2.1", "x", "native", "BACKUP", 100
		if got := peer(&p); got != "192.0.2.1, x, "+want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}
