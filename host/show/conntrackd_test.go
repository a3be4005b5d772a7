package show

import (
	"bytes"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// exactly compares to the byte: the files hold conntrackd's tabs and empty
// lines. That they are conntrackd's is shown by integration.
func exactly(t *testing.T, file, got string) {
	t.Helper()
	b, err := os.ReadFile("testdata/conntrackd/" + file)
	if err != nil {
		t.Fatal(err)
	}
	if string(b) != got {
		t.Errorf("%s: got\n%q\nwant\n%q", file, got, b)
	}
}

func cdSample() stats.Statistics {
	channel := stats.Channel{Type: "multicast", Device: "eth0", BytesSent: 6648, BytesRecv: 432, PacketsSent: 55, PacketsRecv: 27, ErrorsSent: 1}
	return stats.Statistics{
		Main: stats.Main{
			CacheInternal: stats.Cache{Active: 4, Created: 31, Updated: 49, Destroyed: 27},
			CacheExternal: &stats.Cache{Active: 2, Created: 3, CreatedFailed: 1, Destroyed: 1},
			Traffic:       stats.Traffic{Bytes: 1909, Packets: 32}, Channel: channel, Tracking: stats.Tracking{Malformed: 15, Lost: 6},
		},
		Drops: map[string]uint64{"malformed_version": 1, "malformed_header": 2, "malformed_payload": 3, "malformed_truncated": 4,
			"malformed_size": 5, "packets_before": 7, "event_overruns": 8},
		Session:  map[string]uint64{"native_late": 1},
		Excluded: map[string]uint64{"protocol": 2, "loopback": 1},
		Runtime:  stats.Runtime{Events: 71, Comparisons: 4, EventBuffer: 16777216, Unacknowledged: 3, ResendLimit: 131072},
		Links: []stats.Link{{Interface: "eth0", State: "up", Active: true, Channel: channel},
			{Interface: "eth1", State: "down", Channel: stats.Channel{Type: "udp"}}},
	}
}

func TestConntrackdViews(t *testing.T) {
	s := cdSample()
	for _, view := range append(ConntrackdViews, "") {
		var b bytes.Buffer
		if err := Conntrackd(&b, view, &s, 25*time.Hour+61*time.Minute); err != nil {
			t.Error(err)
		}
		if view == "" {
			view = "ct"
		}
		exactly(t, view+".txt", b.String())
	}
	s.Main.CacheExternal, s.Main.ExternalInject = nil, &stats.Cache{Created: 27, Updated: 44, Destroyed: 1, DestroyedFailed: 2}
	s.Main.Channel.Type = "udp"
	s.Expect = &s.Main
	var b bytes.Buffer
	_ = Conntrackd(&b, "expect", &s, 0)
	exactly(t, "inject.txt", b.String())
}

func TestUptime(t *testing.T) {
	for d, want := range map[time.Duration]string{59 * time.Second: "0 min", 59 * time.Minute: "59 min", time.Hour: "1 h 0 min", 50 * time.Hour: "2 day(s) 2 h 0 min"} {
		if got := uptime(d); got != want {
			t.Errorf("%v: %s", d, got)
		}
	}
}

func TestConntrackdDumps(t *testing.T) {
	now := time.Unix(1700000100, 0)
	natted := entry(7, 6, "10.1.0.10", "203.0.113.10", 58444, 21, 0, flow.TCPEstablished)
	natted.Reply = natted.Orig.Inverse()
	natted.Reply.Dst = flow.MakeTuple(6, netip.MustParseAddr("203.0.113.77"), netip.MustParseAddr("0.0.0.0"), 0, 0).Src
	natted.Status, natted.Helper, natted.Mark, natted.Zone = flow.StatusSeenReply|flow.StatusAssured, flow.MakeHelper("f&p"), 7, 5
	natted.Has |= flow.HasReply | flow.HasStatus | flow.HasHelper | flow.HasMark | flow.HasZone
	natted.Since = now.Unix() - 38
	gre := entry(8, 47, "fd01::1", "fd01::2", 0x7, 0x8, 0, 0)
	gre.Reply, gre.Has, gre.Since = gre.Orig.Inverse(), gre.Has|flow.HasReply|flow.HasStatus, now.Unix()+5
	ping := entry(9, 1, "10.1.0.1", "10.1.0.2", 77, 8<<8, 0, 0)
	x := flow.Expect{Tuple: entry(0, 6, "203.0.113.10", "203.0.113.254", 0, 35367, 0, 0).Orig, Mask: entry(0, 6, "255.255.255.255", "255.255.255.255", 0, 65535, 0, 0).Orig,
		Master: natted.Orig, Helper: flow.MakeHelper("ftp"), Has: flow.ExpectHasHelper, Since: now.Unix() - 1}
	var b []byte
	for _, f := range []*flow.Flow{&natted, &gre, &ping} {
		for _, external := range []bool{false, true} {
			b = ConntrackdFlow(b, f, external, now)
			b = ConntrackdXML(b, f, external)
		}
	}
	b = ConntrackdExpectXML(ConntrackdExpect(b, &x, now), &x)
	exactly(t, "dumps.txt", string(b))
}
