package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/log"
	"github.com/osrg/gobgp/v3/pkg/server"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// quiet is a log of gobgp's that says nothing.
type quiet struct{}

func (quiet) Panic(string, log.Fields) {}
func (quiet) Fatal(string, log.Fields) {}
func (quiet) Error(string, log.Fields) {}
func (quiet) Warn(string, log.Fields)  {}
func (quiet) Info(string, log.Fields)  {}
func (quiet) Debug(string, log.Fields) {}
func (quiet) SetLevel(log.LogLevel)    {}
func (quiet) GetLevel() log.LogLevel   { return log.ErrorLevel }

const asn = 65001

// newServer is a BGP server without sockets of BGP's; listen, where it is not "",
// is where its API listens.
func newServer(t testing.TB, listen string) *server.BgpServer {
	t.Helper()
	opts := []server.ServerOption{server.LoggerOption(quiet{})}
	if listen != "" {
		opts = append(opts, server.GrpcListenAddress(listen), server.GrpcOption([]grpc.ServerOption{}))
	}
	s := server.NewBgpServer(opts...)
	go s.Serve()
	startBGP(t, s)
	t.Cleanup(func() {
		_ = s.StopBgp(context.Background(), &api.StopBgpRequest{})
		s.Stop()
	})
	return s
}

func startBGP(t testing.TB, s *server.BgpServer) {
	t.Helper()
	g := &api.Global{Asn: asn, RouterId: "192.0.2.1", ListenPort: -1}
	if err := s.StartBgp(t.Context(), &api.StartBgpRequest{Global: g}); err != nil {
		t.Fatal(err)
	}
}

// world is a Source that a test changes.
type world struct {
	mu    sync.Mutex
	state State
	wake  chan struct{}
	words []stats.RouteWord
	why   string
}

func (w *world) Obstacle(why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.why = why
}

func (w *world) State() (State, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	st := w.state
	st.Groups = slices.Clone(st.Groups)
	return st, w.wake
}

func (w *world) Announce(words []stats.RouteWord) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.words = words
}

func (w *world) change(fn func(s *State)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fn(&w.state)
	close(w.wake)
	w.wake = make(chan struct{})
}

func (w *world) said() []stats.RouteWord {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.words
}

func routes(prefixes ...string) *conf.BGP {
	c := &conf.BGP{API: conf.DefaultAPI, MasterMED: 100, StandbyMED: 200, Grace: 50 * time.Millisecond}
	for _, p := range prefixes {
		c.Prefixes = append(c.Prefixes, conf.BGPPrefix{Prefix: netip.MustParsePrefix(p)})
	}
	return c
}

// run starts a Router on a speaker; nil: the one of the configuration.
func run(t testing.TB, c *conf.BGP, s Speaker) (*Router, *world, func()) {
	t.Helper()
	w := &world{wake: make(chan struct{}), state: State{Conf: c, Groups: []Group{{Name: "SG", Input: Input{Engine: true}}}}}
	r := New(Options{Speaker: s, verify: 100 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.Run(ctx, w)
	}()
	stop := sync.OnceFunc(func() {
		cancel()
		<-done
	})
	t.Cleanup(stop)
	return r, w, stop
}

// become tells the Router a role.
func (w *world) become(role string, committed, ready bool) {
	w.change(func(s *State) {
		g := &s.Groups[0]
		g.Role, g.Committed, g.Ready = role, committed, ready
	})
}

func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// announced waits until the speaker announces a prefix with a MED; -1: not at all.
func announced(s Speaker, prefix string, med int) func() error {
	return func() error {
		attrs, held, err := s.Path(context.Background(), netip.MustParsePrefix(prefix))
		if err != nil {
			return err
		}
		got := -1
		if held {
			m, _ := worn(attrs)
			got = int(m)
		}
		if got != med {
			return fmt.Errorf("%s has med %d, want %d: %v", prefix, got, med, attrs)
		}
		return nil
	}
}

// packed is a list of attributes as the API has them.
func packed(t *testing.T, messages ...proto.Message) (attrs []*anypb.Any) {
	t.Helper()
	for _, m := range messages {
		a, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		attrs = append(attrs, a)
	}
	return attrs
}
