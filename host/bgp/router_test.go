package bgp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	api "github.com/osrg/gobgp/v3/api"
)

// TestFollowsRoles is the life of a pair's router on an embedded server, over
// IPv4 and IPv6: standby, MASTER before and after the commit, handed over.
func TestFollowsRoles(t *testing.T) {
	s := Embedded(newServer(t, ""))
	_, w, stop := run(t, routes("198.51.100.0/24", "2001:db8:5::/48"), s)
	both := func(what string, med int) {
		t.Helper()
		eventually(t, what, announced(s, "198.51.100.0/24", med))
		eventually(t, what, announced(s, "2001:db8:5::/48", med))
	}
	w.become("BACKUP", false, false)
	both("not in sync", -1)
	w.become("BACKUP", false, true)
	both("in sync", 200)
	w.become("MASTER", false, true)
	both("the commit runs", 200)
	w.become("MASTER", true, true)
	both("committed", 99)
	eventually(t, "the word to the peers", func() error {
		want := stats.RouteWord{Group: "SG", Settled: true, Raised: true, Generation: 1}
		if got := w.said(); len(got) != 1 || got[0] != want {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
	peer := Peer{Name: "192.0.2.2", Alive: true, Word: &stats.RouteWord{Group: "SG", Generation: 1}}
	w.change(func(s *State) { s.Groups[0].Role, s.Groups[0].Peers = "BACKUP", []Peer{peer} })
	eventually(t, "its word is taken back", func() error {
		if got := w.said(); got[0].Settled || !got[0].Raised {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
	both("no peer has taken over", 99)
	taken := peer
	taken.Word = &stats.RouteWord{Group: "SG", Settled: true, Raised: true, Generation: 2}
	w.change(func(s *State) { s.Groups[0].Peers = []Peer{taken} })
	both("the peer has taken over", 200)
	stop()
	both("stopped: nobody keeps the standby's table up", -1)
}

// TestMasterStaysBehind: a MASTER whose daemon ends leaves its path, and the next
// run takes it over with its generation.
func TestMasterStaysBehind(t *testing.T) {
	s := Embedded(newServer(t, ""))
	_, w, stop := run(t, routes("198.51.100.0/24"), s)
	w.become("MASTER", true, true)
	eventually(t, "announced", announced(s, "198.51.100.0/24", 99))
	w.become("BACKUP", false, true)
	eventually(t, "given up with nobody there", announced(s, "198.51.100.0/24", -1))
	w.become("MASTER", true, true)
	eventually(t, "better than before", announced(s, "198.51.100.0/24", 97))
	stop()
	if err := announced(s, "198.51.100.0/24", 97)(); err != nil {
		t.Error("after the end:", err)
	}
	r, w, _ := run(t, routes("198.51.100.0/24"), s)
	w.become("MASTER", false, true)
	eventually(t, "met", func() error {
		if !r.Routes().Connected {
			return errors.New("not connected")
		}
		return nil
	})
	if err := announced(s, "198.51.100.0/24", 97)(); err != nil {
		t.Error("before the role's work is done:", err)
	}
	w.become("MASTER", true, true)
	eventually(t, "said", func() error {
		if got := w.said(); len(got) != 1 || !got[0].Settled || got[0].Generation != 3 {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
	if err := announced(s, "198.51.100.0/24", 97)(); err != nil {
		t.Error("the same reign goes on:", err)
	}
}

// TestOthersAttributesStay: a path somebody else made keeps what is not ours, and
// is given back as it was.
func TestOthersAttributesStay(t *testing.T) {
	s := Embedded(newServer(t, ""))
	p := netip.MustParsePrefix("198.51.100.0/24")
	before := packed(t, &api.OriginAttribute{Origin: 2}, &api.NextHopAttribute{NextHop: "192.0.2.77"}, &api.MultiExitDiscAttribute{Med: 5000},
		&api.CommunitiesAttribute{Communities: []uint32{65001<<16 | 7}},
		&api.LargeCommunitiesAttribute{Communities: []*api.LargeCommunity{{GlobalAdmin: 4200000001, LocalData1: 1, LocalData2: 2}}})
	if err := s.Add(t.Context(), p, before); err != nil {
		t.Fatal(err)
	}
	c := routes(p.String())
	c.StandbyPrepend = 3
	c.Communities = []conf.Community{{A: 65001, B: 99}, {Large: true, A: 4200000001, B: 9, C: 9}}
	_, w, _ := run(t, c, s)
	w.become("BACKUP", false, true)
	eventually(t, "standby", announced(s, p.String(), 200))
	attrs, _, err := s.Path(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	want := packed(t, &api.OriginAttribute{Origin: 2}, &api.NextHopAttribute{NextHop: "192.0.2.77"}, &api.MultiExitDiscAttribute{Med: 200},
		&api.AsPathAttribute{Segments: []*api.AsSegment{{Type: api.AsSegment_AS_SEQUENCE, Numbers: []uint32{asn, asn, asn}}}},
		&api.CommunitiesAttribute{Communities: []uint32{65001<<16 | 7, 65001<<16 | 99}},
		&api.LargeCommunitiesAttribute{Communities: []*api.LargeCommunity{{GlobalAdmin: 4200000001, LocalData1: 1, LocalData2: 2}, {GlobalAdmin: 4200000001, LocalData1: 9, LocalData2: 9}}})
	if !sameAttributes(attrs, want) {
		t.Errorf("announced %v\nwant %v", attrs, want)
	}
	w.change(func(s *State) { s.Conf = routes("203.0.113.0/24") })
	eventually(t, "given back", func() error {
		attrs, _, err := s.Path(t.Context(), p)
		if err == nil && !sameAttributes(attrs, before) {
			err = fmt.Errorf("%v", attrs)
		}
		return err
	})
	eventually(t, "the other prefix", announced(s, "203.0.113.0/24", 200))
	w.change(func(s *State) { s.Conf = nil })
	eventually(t, "taken away", announced(s, "203.0.113.0/24", -1))
}

// TestRemote: a gobgpd that is not there when the take-over comes is given the
// truth when it comes, again after a restart, and again when somebody meddles.
func TestRemote(t *testing.T) {
	// The server is made first: it sets a variable of gRPC's that clients read.
	target, addr := freePort(t), freePort(t)
	s := newServer(t, target.String())
	c := routes("198.51.100.0/24", "2001:db8:5::/48")
	c.API = addr
	r, w, _ := run(t, c, nil)
	w.become("MASTER", true, true)
	eventually(t, "a problem is named", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.why == "" {
			return errors.New("nothing speaks against a take-over")
		}
		if d := r.Routes(); len(d.Problems) == 0 || d.Error == "" {
			return fmt.Errorf("%+v", d)
		}
		return nil
	})
	if got := w.said(); got[0].Settled {
		t.Errorf("said to have announced: %+v", got)
	}
	forward(t, addr, target)
	local := Embedded(s)
	eventually(t, "announced", announced(local, "198.51.100.0/24", 99))
	eventually(t, "IPv6", announced(local, "2001:db8:5::/48", 99))
	eventually(t, "said", func() error {
		if got := w.said(); !got[0].Settled {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
	if err := local.Delete(t.Context(), netip.MustParsePrefix("2001:db8:5::/48")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "given again", announced(local, "2001:db8:5::/48", 99))
	if err := s.StopBgp(t.Context(), &api.StopBgpRequest{}); err != nil {
		t.Fatal(err)
	}
	startBGP(t, s)
	eventually(t, "after a restart", announced(local, "198.51.100.0/24", 99))
	d := r.Routes()
	if i := slices.IndexFunc(d.Routes, func(x stats.Route) bool { return x.Level != "master" || x.Announced.MED != 99 || x.Kept }); i >= 0 || !d.Connected || d.AS != asn {
		t.Errorf("%+v", d)
	}
}

func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}

// forward makes what listens at one address be there at another one too.
func forward(t *testing.T, from, to netip.AddrPort) {
	t.Helper()
	l, err := net.Listen("tcp", from.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to.String())
			if err != nil {
				_ = in.Close()
				continue
			}
			go func() {
				_, _ = io.Copy(out, in)
				_ = out.Close()
			}()
			go func() {
				_, _ = io.Copy(in, out)
				_ = in.Close()
			}()
		}
	}()
}
