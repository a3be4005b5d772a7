package contract

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/conf"
	pb "github.com/conntrack-sync/conntrack-sync/plugin/enginepb"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"pgregory.net/rapid"
)

// fake records what it is told.
type fake struct {
	Engine
	settings Settings
	role     string
	flushed  Table
	flows    []flow.Flow
	words    []stats.RouteWord
}

func (f *fake) Announce(_ context.Context, words []stats.RouteWord) error {
	f.words = words
	return nil
}

func (f *fake) Configure(_ context.Context, s Settings) error { f.settings = s; return nil }
func (f *fake) SetRole(_ context.Context, g, r string) error  { f.role = g + " " + r; return nil }
func (f *fake) Flush(_ context.Context, t Table) error        { f.flushed = t; return nil }
func (f *fake) Resync(context.Context) error                  { return errors.New("no kernel: permission denied") }
func (f *fake) Commit(ctx context.Context) (stats.Commit, error) {
	<-ctx.Done()
	return stats.Commit{}, ctx.Err()
}
func (f *fake) Status(context.Context) (stats.Engine, error) {
	return stats.Engine{Peers: []stats.Peer{{Address: "192.0.2.2"}}}, nil
}
func (f *fake) CommitReport(context.Context) (stats.CommitReport, error) {
	return stats.CommitReport{Refused: []stats.Refusal{{Reason: "clash"}}}, nil
}
func (f *fake) Flows(_ context.Context, _ Table, fn func([]flow.Flow) error) error {
	return fn(f.flows)
}

// overRPC returns an Engine that reaches e through real gRPC.
func overRPC(t *testing.T, e Engine) Engine {
	c, _ := goplugin.TestPluginGRPCConn(t, false, Plugins(e, nil))
	t.Cleanup(func() { _ = c.Close() })
	raw, err := c.Dispense(Name)
	if err != nil {
		t.Fatal(err)
	}
	return raw.(Engine)
}

func TestCallsArrive(t *testing.T) {
	ctx := t.Context()
	f := &fake{}
	e := overRPC(t, f)
	want := Settings{Config: conf.Config{SyncGroup: "syncgrp", McastGroup: conf.DefaultMcastGroup,
		Interfaces: []conf.Interface{{Name: "eth0", Port: 3780}}, PurgeTimeout: conf.DefaultPurgeTimeout,
		IgnoreAddresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
		VirtualAddresses: []netip.Addr{netip.MustParseAddr("192.0.2.254")}}
	if err := e.Configure(ctx, want); err != nil {
		t.Fatal(err)
	}
	if got := f.settings; got.SyncGroup != "syncgrp" || got.McastGroup != want.McastGroup ||
		got.Interfaces[0] != want.Interfaces[0] || got.PurgeTimeout != want.PurgeTimeout ||
		got.IgnoreAddresses[0] != want.IgnoreAddresses[0] || got.VirtualAddresses[0] != want.VirtualAddresses[0] {
		t.Errorf("settings arrived as %+v", got)
	}
	if err := errors.Join(e.SetRole(ctx, "syncgrp", "MASTER"), e.Flush(ctx, External)); err != nil {
		t.Fatal(err)
	}
	if f.role != "syncgrp MASTER" || f.flushed != External {
		t.Errorf("role %q, flushed %v", f.role, f.flushed)
	}
	words := []stats.RouteWord{{Group: "syncgrp", Settled: true, Raised: true, Generation: 7}}
	if err := e.Announce(ctx, words); err != nil || !slices.Equal(f.words, words) {
		t.Errorf("words about routes arrived as %+v, %v", f.words, err)
	}
	if err := e.Resync(ctx); err == nil || err.Error() != "no kernel: permission denied" {
		t.Errorf("an error arrives as %v", err)
	}
	if s, err := e.Status(ctx); err != nil || s.Peers[0].Address != "192.0.2.2" {
		t.Errorf("status %+v, %v", s, err)
	}
	if r, err := e.CommitReport(ctx); err != nil || len(r.Refused) != 1 || r.Refused[0].Reason != "clash" {
		t.Errorf("report %+v, %v", r, err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := e.Commit(cancelled); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled commit ends with %v", err)
	}
}

// TestFlowsSurvive sends flows with arbitrary fields through the adapters.
func TestFlowsSurvive(t *testing.T) {
	f := &fake{}
	e := overRPC(t, f)
	rapid.Check(t, func(rt *rapid.T) {
		u32 := rapid.Uint32()
		one := flow.Flow{
			Orig:  flow.MakeTuple(6, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), uint16(u32.Draw(rt, "sport")), 80),
			Reply: flow.MakeTuple(6, netip.MustParseAddr("fd00::2"), netip.MustParseAddr("fd00::1"), 80, 7),
			Zone:  3, Has: flow.Has(u32.Draw(rt, "has")), Status: u32.Draw(rt, "status"), Timeout: u32.Draw(rt, "timeout"),
			Mark: u32.Draw(rt, "mark"), ID: u32.Draw(rt, "id"), TCP: flow.TCP{State: 3, WScaleOrig: 7, FlagsReply: 9},
			DCCP: flow.DCCP{State: 1, Role: 2}, SCTP: flow.SCTP{State: 4, VtagOrig: u32.Draw(rt, "vtag"), VtagReply: 6},
			Helper: flow.MakeHelper("ftp"), Labels: [16]byte{3: 8}, SeqAdjOrig: flow.SeqAdj{Pos: 1, OffsetBefore: -2, OffsetAfter: 3},
			Synproxy: flow.Synproxy{ISN: 1, ITS: 2, TSOff: 3}, Counters: flow.Counters{OrigPackets: 1, ReplyBytes: 1 << 40}, Since: 1700000000,
		}
		one.Master = one.Reply
		f.flows = []flow.Flow{one, {Orig: one.Orig}}
		var got []flow.Flow
		if err := e.Flows(t.Context(), Internal, func(b []flow.Flow) error { got = append(got, b...); return nil }); err != nil {
			rt.Fatal(err)
		}
		if len(got) != 2 || got[0] != f.flows[0] || got[1] != f.flows[1] {
			rt.Fatalf("sent %+v\ngot %+v", f.flows, got)
		}
	})
}

// grouped says which group it is asked about.
type grouped struct {
	Engine
	asked []string
}

func (g *grouped) Ping(ctx context.Context) error {
	g.asked = append(g.asked, GroupOf(ctx))
	return nil
}
func (g *grouped) Flows(ctx context.Context, _ Table, _ func([]flow.Flow) error) error {
	g.asked = append(g.asked, GroupOf(ctx))
	return nil
}

// TestOlderEngine: a call that an engine does not know says what to do.
func TestOlderEngine(t *testing.T) {
	l, server := bufconn.Listen(1<<16), grpc.NewServer()
	pb.RegisterEngineServer(server, pb.UnimplementedEngineServer{})
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	conn, err := grpc.NewClient("passthrough:///older", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = newClient(conn).CommitReport(t.Context())
	if want := "the engine is of an older release and does not know this; install both programs of one release and restart: "; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got\n%v\nwant\n%s...", err, want)
	}
}

func TestCallsNameTheirGroup(t *testing.T) {
	g := &grouped{}
	e := overRPC(t, g)
	of := Of(e, "gr\u00fcn 1")
	for _, x := range []Engine{e, of} {
		if err := x.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := x.Flows(t.Context(), Internal, nil); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"", "", "gr\u00fcn 1", "gr\u00fcn 1"}; !slices.Equal(g.asked, want) {
		t.Errorf("asked about %q", g.asked)
	}
	if Of(g, "x") != Engine(g) {
		t.Error("an engine of this process has no groups")
	}
}
