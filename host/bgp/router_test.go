package bgp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	api "github.com/osrg/gobgp/v3/api"
	"google.golang.org/protobuf/types/known/anypb"
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
	eventually(t, "met", func() error {
		if d := r.Routes(); !d.Connected || len(d.Groups) == 0 || d.Groups[0].Level != "master" {
			return fmt.Errorf("%+v", d)
		}
		return nil
	})
	w.become("MASTER", false, true)
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

func freePort(t testing.TB) netip.AddrPort {
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

// TestWhatStandbysAnnounce: prepended, nothing at all, a bad MED for the unready;
// and a drained MASTER's path.
func TestWhatStandbysAnnounce(t *testing.T) {
	const p = "198.51.100.0/24"
	shape := func(s Speaker) (med int, own int, drained bool) {
		attrs, held, err := s.Path(t.Context(), netip.MustParsePrefix(p))
		if err != nil {
			t.Fatal(err)
		}
		if !held {
			return -1, 0, false
		}
		m, _ := worn(attrs)
		for _, a := range attrs {
			x, _ := a.UnmarshalNew()
			switch x := x.(type) {
			case *api.AsPathAttribute:
				for _, s := range x.Segments {
					own += len(s.Numbers)
				}
			case *api.CommunitiesAttribute:
				drained = slices.Contains(x.Communities, gracefulShutdown)
			}
		}
		return int(m), own, drained
	}
	becomes := func(s Speaker, what string, med, own int, drained bool) {
		t.Helper()
		eventually(t, what, func() error {
			if m, o, d := shape(s); m != med || o != own || d != drained {
				return fmt.Errorf("med %d, own AS %d times, drained %v", m, o, d)
			}
			return nil
		})
	}
	t.Run("prepended", func(t *testing.T) {
		c := routes(p)
		c.StandbyPrepend, c.UnreadyMED = 2, 900
		s := Embedded(newServer(t, ""))
		_, w, _ := run(t, c, s)
		w.become("BACKUP", false, false)
		becomes(s, "unready", 900, 2, false)
		w.become("BACKUP", false, true)
		becomes(s, "standby", 200, 2, false)
		w.become("MASTER", true, true)
		becomes(s, "master", 99, 0, false)
	})
	t.Run("withdrawn after draining", func(t *testing.T) {
		c := routes(p)
		c.StandbyWithdraw, c.GracefulShutdown = true, 300*time.Millisecond
		s := Embedded(newServer(t, ""))
		_, w, _ := run(t, c, s)
		w.become("MASTER", true, true)
		becomes(s, "master", 99, 0, false)
		settled := &stats.RouteWord{Group: "SG", Settled: true, Raised: true, Generation: 2}
		w.change(func(s *State) {
			s.Groups[0].Role, s.Groups[0].Peers = "BACKUP", []Peer{{Name: "b", Alive: true, Word: settled}}
		})
		becomes(s, "draining", 99, 0, true)
		becomes(s, "withdrawn", -1, 0, false)
	})
}

// TestGroupsOfTheirOwn: two sync groups with opposite roles at once.
func TestGroupsOfTheirOwn(t *testing.T) {
	c := routes("198.51.100.0/24", "203.0.113.0/24")
	c.Prefixes[1].SyncGroup = "other"
	s := Embedded(newServer(t, ""))
	_, w, _ := run(t, c, s)
	w.change(func(s *State) {
		s.Groups = []Group{{Name: "SG", Input: Input{Role: "MASTER", Committed: true, Engine: true}},
			{Name: "other", Input: Input{Role: "BACKUP", Ready: true, Engine: true}}}
	})
	eventually(t, "the first group's", announced(s, "198.51.100.0/24", 99))
	eventually(t, "the other group's", announced(s, "203.0.113.0/24", 200))
	w.change(func(s *State) {
		s.Groups[0].Role, s.Groups[0].Committed = "FAULT", false
		s.Groups[1].Role, s.Groups[1].Committed = "MASTER", true
	})
	eventually(t, "given up", announced(s, "198.51.100.0/24", -1))
	eventually(t, "taken over", announced(s, "203.0.113.0/24", 99))
	words := w.said()
	if len(words) != 2 || words[0].Settled || !words[1].Settled || words[0].Group != "SG" {
		t.Errorf("%+v", words)
	}
}

// stubborn is a Speaker that refuses or hangs.
type stubborn struct {
	Speaker
	refuse, hang atomic.Bool
}

func (s *stubborn) Add(ctx context.Context, p netip.Prefix, attrs []*anypb.Any) error {
	if s.hang.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	if s.refuse.Load() {
		return errors.New("no such address family")
	}
	return s.Speaker.Add(ctx, p, attrs)
}

// TestStubbornSpeaker: a speaker that refuses is named, is no settled word, and is
// asked again; one that hangs holds nothing up for ever.
func TestStubbornSpeaker(t *testing.T) {
	s := &stubborn{Speaker: Embedded(newServer(t, ""))}
	s.refuse.Store(true)
	r, w, stop := run(t, routes("198.51.100.0/24"), s)
	w.become("MASTER", true, true)
	eventually(t, "the problem is named", func() error {
		d := r.Routes()
		if len(d.Problems) == 0 || !slices.Contains(d.Problems, "routes: 198.51.100.0/24 cannot be announced: no such address family") {
			return fmt.Errorf("%q", d.Problems)
		}
		return nil
	})
	if words := w.said(); len(words) != 1 || words[0].Settled {
		t.Errorf("%+v", words)
	}
	s.refuse.Store(false)
	s.hang.Store(true)
	eventually(t, "a hang is named", func() error {
		if d := r.Routes(); !slices.Contains(d.Problems, "routes: 198.51.100.0/24 cannot be announced: context deadline exceeded") {
			return fmt.Errorf("%q", d.Problems)
		}
		return nil
	})
	s.hang.Store(false)
	eventually(t, "announced", announced(s, "198.51.100.0/24", 99))
	s.hang.Store(true)
	w.become("BACKUP", false, true)
	stop()
}

// fed is a speaker whose sessions a test tells.
type fed struct {
	Speaker
	sessions chan []Session
}

func (f fed) Watch(ctx context.Context, fn func([]Session)) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case all := <-f.sessions:
			fn(all)
		}
	}
}

// TestReadyWithSessions: a node is not ready before each session that its
// prefixes need is established, unless one has been away for too long to wait for.
func TestReadyWithSessions(t *testing.T) {
	var later atomic.Int64
	s := fed{Embedded(newServer(t, "")), make(chan []Session)}
	w := &world{wake: make(chan struct{}), state: State{Conf: routes("198.51.100.0/24", "2001:db8:5::/48"),
		Groups: []Group{{Name: "SG", Input: Input{Engine: true, Role: "BACKUP", Ready: true}}}}}
	r := New(Options{Speaker: s, verify: 20 * time.Millisecond, Now: func() time.Time { return time.Now().Add(time.Duration(later.Load())) }})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.Run(ctx, w)
	}()
	defer func() { cancel(); <-done }()

	v4 := func(up bool) Session { return Session{Neighbor: "203.0.113.10", Up: up, IPv4: true} }
	v6 := func(up bool) Session { return Session{Neighbor: "fd02::10", Up: up, IPv6: true} }
	obstacle := func(what, want string) {
		t.Helper()
		eventually(t, what, func() error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.why != want {
				return fmt.Errorf("obstacle %q, want %q", w.why, want)
			}
			return nil
		})
	}
	alarm := func(what string, want ...string) {
		t.Helper()
		eventually(t, what, func() error {
			if got := r.Routes().Problems; !slices.Equal(got, want) {
				return fmt.Errorf("alarms %q, want %q", got, want)
			}
			return nil
		})
	}
	const noV4, noV6 = "routes: the session with 203.0.113.10 is not established yet", "routes: the session with fd02::10 is not established yet"
	s.sessions <- []Session{v4(false), v6(true)}
	obstacle("IPv4 is missing", noV4)
	s.sessions <- []Session{v4(true), v6(true)}
	obstacle("both are there", "")
	s.sessions <- []Session{v4(true), v6(false)}
	obstacle("IPv6 went away", noV6)
	later.Add(int64(sessionWait) / 2)
	s.sessions <- []Session{v4(false), v6(true)}
	obstacle("IPv4 went away, half the time later", noV4)
	alarm("it may return")
	later.Add(int64(sessionWait))
	obstacle("IPv4 does not come", "")
	alarm("IPv4 does not come", "routes: no session for IPv4 unicast is established, nobody hears of 198.51.100.0/24")
	s.sessions <- []Session{v4(true), v6(false)}
	obstacle("IPv6 is waited for anew", noV6)
	shut := v6(false)
	shut.Disabled = true
	s.sessions <- []Session{v4(true), shut}
	obstacle("an operator shut it down", "")
	alarm("an operator shut it down", "routes: no session for IPv6 unicast is established, nobody hears of 2001:db8:5::/48")
	s.sessions <- []Session{v4(true)}
	alarm("nobody was given it", "routes: no neighbour is configured for IPv6 unicast, nobody hears of 2001:db8:5::/48")
	obstacle("nobody was given it", "")
	s.sessions <- []Session{v4(true), v6(true)}
	alarm("both are there")
	s.sessions <- []Session{v4(false), v6(false)}
	obstacle("none", "routes: embedded speaker has no established session")
	w.change(func(s *State) { s.Conf = routes("198.51.100.0/24") })
	s.sessions <- []Session{v4(true), v6(false)}
	obstacle("no prefix needs IPv6", "")
	alarm("no prefix needs IPv6")
}
