package show

import (
	"bytes"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

func TestWhere(t *testing.T) {
	f := entry(0, 6, "10.1.0.10", "203.0.113.10", 40000, 80, 431990, flow.TCPEstablished)
	f.Has |= flow.HasReply
	f.Status = flow.StatusAssured
	f.Reply = f.Orig.Inverse()
	f.Reply.Dport = 1024
	own := entry(0, 17, "10.1.0.10", "203.0.113.10", 500, 500, 0, 0)
	var b bytes.Buffer
	err := Where(&b, stats.Where{Role: "MASTER", Truncated: true,
		Flows: []stats.Whereabouts{
			{Flow: f, Here: stats.Places{Kernel: &f, Internal: &f}, Sent: new(true), Peers: []stats.PeerPlace{
				{Address: "192.0.2.2", Acknowledged: new(true), Places: stats.Places{External: &f}},
				{Address: "192.0.2.3", Acknowledged: new(false)}}},
			{Flow: own, Here: stats.Places{Kernel: &own, Filtered: "router"}, Peers: []stats.PeerPlace{{Address: "192.0.2.2"}, {Address: "192.0.2.3"}}},
		},
		Peers: []stats.Asked{{Address: "192.0.2.2", Role: "BACKUP", Answered: true}, {Address: "192.0.2.3", Role: "BACKUP", Why: "it is silent"}}})
	if err != nil {
		t.Error(err)
	}
	golden(t, "where.txt", b.String())
	b.Reset()
	_ = Where(&b, stats.Where{})
	golden(t, "where-nothing.txt", b.String())
}
