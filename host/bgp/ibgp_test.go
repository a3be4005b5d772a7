//go:build !race

package bgp

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"
)

// internal is a neighbour in the routers' own AS, and the best paths it chose. Servers
// of one process share variables of package gobgp that it writes at each start, which the
// race detector says: it does not see these tests.
type internal struct {
	*server.BgpServer
	port uint32

	mu   sync.Mutex
	best []string // "neighbor MED"
}

func newInternal(t *testing.T, routers ...string) *internal {
	t.Helper()
	u := &internal{BgpServer: server.NewBgpServer(server.LoggerOption(quiet{})), port: uint32(freePort(t).Port())}
	go u.Serve()
	t.Cleanup(u.Stop)
	ok(t, u.StartBgp(t.Context(), &api.StartBgpRequest{Global: &api.Global{Asn: asn, RouterId: "192.0.2.9",
		ListenPort: int32(u.port), ListenAddresses: []string{"127.0.0.1"}}}))
	for _, addr := range routers {
		ok(t, u.AddPeer(t.Context(), &api.AddPeerRequest{Peer: &api.Peer{Conf: &api.PeerConf{NeighborAddress: addr, PeerAsn: asn},
			Transport: &api.Transport{PassiveMode: true}}}))
	}
	ok(t, u.WatchEvent(t.Context(), &api.WatchEventRequest{Table: &api.WatchEventRequest_Table{Filters: []*api.WatchEventRequest_Table_Filter{
		{Type: api.WatchEventRequest_Table_Filter_BEST}}}}, func(r *api.WatchEventResponse) {
		u.mu.Lock()
		defer u.mu.Unlock()
		for _, p := range r.GetTable().GetPaths() {
			med, _ := worn(p.Pattrs)
			u.best = append(u.best, fmt.Sprintf("%s %d", p.NeighborIp, med))
		}
	}))
	return u
}

func (u *internal) chose() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.best)
}

// router starts a speaker at an address of the loopback device, with a session to
// the neighbour, and what makes it follow roles.
func (u *internal) router(t *testing.T, c *conf.BGP, addr string) (*Router, *world) {
	t.Helper()
	s := server.NewBgpServer(server.LoggerOption(quiet{}))
	go s.Serve()
	t.Cleanup(s.Stop)
	ok(t, s.StartBgp(t.Context(), &api.StartBgpRequest{Global: &api.Global{Asn: asn, RouterId: addr, ListenPort: -1}}))
	ok(t, s.AddPeer(t.Context(), &api.AddPeerRequest{Peer: &api.Peer{Conf: &api.PeerConf{NeighborAddress: "127.0.0.1", PeerAsn: asn},
		Timers:    &api.Timers{Config: &api.TimersConfig{ConnectRetry: 1, IdleHoldTimeAfterReset: 1}},
		Transport: &api.Transport{RemotePort: u.port, LocalAddress: addr}}}))
	r, w, _ := run(t, c, Embedded(s))
	eventually(t, addr+"'s session", func() error {
		up := false
		err := s.ListPeer(context.Background(), &api.ListPeerRequest{}, func(p *api.Peer) { up = p.State.SessionState == api.PeerState_ESTABLISHED })
		if err == nil && !up {
			err = fmt.Errorf("not established")
		}
		return err
	})
	return r, w
}

func (u *internal) last(best string) func() error {
	return func() error {
		if all := u.chose(); len(all) == 0 || all[len(all)-1] != best {
			return fmt.Errorf("best paths so far %v, want %s", all, best)
		}
		return nil
	}
}

// TestInternalNeighbour: a neighbour in the same AS compares the MEDs too. The new
// MASTER's path wins against a frozen one's, and not before the commit.
func TestInternalNeighbour(t *testing.T) {
	const a, b, prefix = "127.0.0.2", "127.0.0.3", "198.51.100.0/24"
	u := newInternal(t, a, b)
	_, wa := u.router(t, routes(prefix), a)
	rb, wb := u.router(t, routes(prefix), b)
	wb.become("BACKUP", false, true)
	eventually(t, "the standby alone", u.last(b+" 200"))
	wa.become("MASTER", true, true)
	eventually(t, "the first MASTER", u.last(a+" 99"))
	// It freezes: nothing lowers its path, and its word is the last that was heard.
	former := []Peer{{Name: "a", Alive: true, Word: &stats.RouteWord{Group: "SG", Settled: true, Raised: true, Generation: 1}}}
	wb.change(func(s *State) {
		g := &s.Groups[0]
		g.Role, g.Committed, g.Peers = "MASTER", false, former
	})
	eventually(t, "the commit runs", func() error {
		if g := rb.Routes().Groups[0]; g.Why != "MASTER, the commit is not over" {
			return fmt.Errorf("%+v", g)
		}
		return nil
	})
	before := len(u.chose())
	if err := u.last(a + " 99")(); err != nil {
		t.Error("before the commit is over:", err)
	}
	wb.become("MASTER", true, true)
	eventually(t, "the new MASTER", u.last(b+" 98"))
	if got := u.chose()[before:]; len(got) != 1 {
		t.Errorf("best paths of the take-over %v", got)
	}
}

// TestInternalNeighbourPrepend: own AS numbers in front are a loop to a neighbour in
// the same AS, which would keep the path before: they are left out, and the MEDs
// decide.
func TestInternalNeighbourPrepend(t *testing.T) {
	const a, b, prefix = "127.0.0.2", "127.0.0.3", "198.51.100.0/24"
	u := newInternal(t, a, b)
	c := routes(prefix)
	c.StandbyPrepend = 2
	_, wa := u.router(t, c, a)
	_, wb := u.router(t, c, b)
	wb.become("MASTER", true, true)
	eventually(t, "the first MASTER", u.last(b+" 99"))
	taken := []Peer{{Name: "a", Alive: true, Word: &stats.RouteWord{Group: "SG", Settled: true, Raised: true, Generation: 2}}}
	wb.change(func(s *State) {
		s.Groups[0].Role, s.Groups[0].Committed, s.Groups[0].Peers = "BACKUP", false, taken
	})
	eventually(t, "the former MASTER as a standby", u.last(b+" 200"))
	wa.become("MASTER", true, true)
	eventually(t, "the new MASTER", u.last(a+" 99"))
}
