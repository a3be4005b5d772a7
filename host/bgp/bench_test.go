package bgp

import (
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"
)

// BenchmarkTakeOver is the time from the end of a commit until a neighbour, over a
// real session on the loopback device, has the MASTER's path as its best.
func BenchmarkTakeOver(b *testing.B) {
	port := freePort(b).Port()
	upstream := server.NewBgpServer(server.LoggerOption(quiet{}))
	go upstream.Serve()
	defer upstream.Stop()
	ok(b, upstream.StartBgp(b.Context(), &api.StartBgpRequest{Global: &api.Global{Asn: 65000, RouterId: "192.0.2.9",
		ListenPort: int32(port), ListenAddresses: []string{"127.0.0.1"}}}))
	ok(b, upstream.AddPeer(b.Context(), &api.AddPeerRequest{Peer: &api.Peer{Conf: &api.PeerConf{NeighborAddress: "127.0.0.1", PeerAsn: asn},
		Transport: &api.Transport{PassiveMode: true}}}))
	best := make(chan uint32, 100)
	ok(b, upstream.WatchEvent(b.Context(), &api.WatchEventRequest{Table: &api.WatchEventRequest_Table{Filters: []*api.WatchEventRequest_Table_Filter{
		{Type: api.WatchEventRequest_Table_Filter_BEST}}}}, func(r *api.WatchEventResponse) {
		for _, p := range r.GetTable().GetPaths() {
			if med, has := worn(p.Pattrs); has && !p.IsWithdraw {
				best <- med
			}
		}
	}))
	s := newServer(b, "")
	ok(b, s.AddPeer(b.Context(), &api.AddPeerRequest{Peer: &api.Peer{Conf: &api.PeerConf{NeighborAddress: "127.0.0.1", PeerAsn: 65000},
		Timers:    &api.Timers{Config: &api.TimersConfig{ConnectRetry: 1, IdleHoldTimeAfterReset: 1}},
		Transport: &api.Transport{RemotePort: uint32(port)}}}))
	c := routes("198.51.100.0/24")
	c.MasterMED, c.StandbyMED = 1<<30, 1<<31
	_, w, stop := run(b, c, Embedded(s))
	defer stop()
	awaited := func(better func(med uint32) bool) {
		for end := time.After(time.Minute); ; {
			select {
			case med := <-best:
				if better(med) {
					return
				}
			case <-end:
				b.Fatal("no such path")
			}
		}
	}
	peer := func(settled bool, generation uint32) []Peer {
		return []Peer{{Name: "b", Alive: true, Word: &stats.RouteWord{Group: "SG", Settled: settled, Raised: settled, Generation: generation}}}
	}
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		w.change(func(s *State) {
			s.Groups[0].Role, s.Groups[0].Committed, s.Groups[0].Ready, s.Groups[0].Peers = "BACKUP", false, true, peer(true, uint32(2*i))
		})
		awaited(func(med uint32) bool { return med == c.StandbyMED })
		b.StartTimer()
		w.change(func(s *State) {
			s.Groups[0].Role, s.Groups[0].Committed, s.Groups[0].Peers = "MASTER", true, peer(false, uint32(2*i))
		})
		awaited(func(med uint32) bool { return med <= c.MasterMED })
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
