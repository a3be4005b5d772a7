package engine_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/sync/engine"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/kernel/kerneltest"
	"github.com/conntrack-sync/conntrack-sync/sync/udp/udptest"
)

// node is an engine between a table in memory and an end of a link in memory.
type node struct {
	*engine.Engine
	table *kerneltest.Table
	link  *udptest.Link
}

// protocol is what all nodes of a test are configured to speak.
var protocol = conf.ProtocolAuto

// TestMain runs the tests twice: over our own protocol, and over conntrackd's those
// it can pass. They wait more than they work, so many run at a time.
func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	code := m.Run()
	protocol = conf.ProtocolConntrackd
	if err := flag.Set("test.skip", "^TestNative"); err != nil {
		panic(err)
	}
	os.Exit(max(code, m.Run()))
}

func settings() conf.Settings {
	return conf.Settings{Config: conf.Config{McastGroup: conf.DefaultMcastGroup, SyncGroup: "syncgrp",
		Interfaces: []conf.Interface{{Name: "eth0", Port: conf.DefaultPort, Protocol: protocol}}, EventQueueMB: conf.DefaultEventQueueMB,
		SyncQueueMB: conf.DefaultSyncQueueMB, PurgeTimeout: time.Millisecond}}
}

func start(t *testing.T, table *kerneltest.Table, link *udptest.Link) *node {
	t.Helper()
	return startAt(t, table, link, nil)
}

// startAt starts a node with a clock of its own; nil: time's.
func startAt(t *testing.T, table *kerneltest.Table, link *udptest.Link, now func() time.Time) *node {
	t.Helper()
	var log *slog.Logger
	if os.Getenv("ENGINE_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	n := &node{table: table, link: link}
	n.Engine = engine.New(engine.Options{
		OpenKernel: func() (engine.Kernel, error) { return table, nil },
		OpenLink:   func(engine.LinkConfig) (engine.Link, error) { return link, nil },
		Log:        log,
		Now:        now,
	})
	if err := n.Configure(t.Context(), settings()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Stop(context.Background()) })
	return n
}

func pair(t *testing.T, f udptest.Faults) (a, b *node) {
	la, lb := udptest.Pair(7, f)
	return start(t, kerneltest.New(), la), start(t, kerneltest.New(), lb)
}

func flowNo(i int) flow.Flow {
	src := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
	f := flow.Flow{
		Orig: flow.MakeTuple(flow.ProtoTCP, src, netip.AddrFrom4([4]byte{203, 0, 113, 10}), 1000, 80),
		Has:  flow.HasStatus | flow.HasTimeout | flow.HasReply | flow.HasTCPState, Timeout: 100,
		Status: flow.StatusConfirmed | flow.StatusSrcNATDone, TCP: flow.TCP{State: flow.TCPEstablished},
	}
	f.Reply = f.Orig.Inverse()
	f.Reply.SetDst(netip.AddrFrom4([4]byte{203, 0, 113, 254}))
	f.SetNAT()
	return f
}

func entries(t *testing.T, n *node, which flow.Table) map[flow.Key]uint8 {
	m := map[flow.Key]uint8{}
	err := n.Flows(context.Background(), which, func(fs []flow.Flow) error {
		for _, f := range fs {
			m[f.Key()] = f.TCP.State
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// eventually polls for a promise that needs the other goroutines' time.
func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// mirrors says whether b's external cache is a's kernel table.
func mirrors(t *testing.T, a, b *node) func() error {
	return func() error {
		have := entries(t, b, flow.External)
		if len(have) != a.table.Len() {
			return fmt.Errorf("%d entries, the table has %d", len(have), a.table.Len())
		}
		for k, state := range have {
			if f, ok := a.table.Flow(k); !ok || f.TCP.State != state {
				return fmt.Errorf("%v: state %d, the table has %d (%v)", k.Tuple, state, f.TCP.State, ok)
			}
		}
		return nil
	}
}

func TestFlowsAreReplicatedAndCommitted(t *testing.T) {
	t.Parallel()
	a, b := pair(t, udptest.Faults{})
	for i := range 500 {
		a.table.Put(flowNo(i))
	}
	for i := range 100 {
		f := flowNo(i)
		a.table.Remove(f.Key())
	}
	eventually(t, "the standby's view", mirrors(t, a, b))
	done, err := b.Commit(t.Context())
	if err != nil || done.Created != 400 || len(done.Refused) != 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	f, _ := b.table.Flow(new(flowNo(200)).Key())
	if f.Reply != flowNo(200).Reply || f.Timeout != 100 {
		t.Errorf("committed as %+v", f)
	}
	if done, err = b.Commit(t.Context()); err != nil || done.Updated != 400 || done.Created+done.Recreated != 0 {
		t.Errorf("once more: %+v, %v", done, err)
	}
}

// TestLossIsRepaired: with a tenth of the datagrams lost, others repeated and
// overtaken, births, changes and ends all arrive.
func TestLossIsRepaired(t *testing.T) {
	t.Parallel()
	for _, faults := range []udptest.Faults{{Drop: 0.01}, {Drop: 0.1, Duplicate: 0.1, Reorder: 0.1}, {Drop: 0.3, Duplicate: 0.2, Reorder: 0.3}} {
		t.Run(fmt.Sprint(faults), func(t *testing.T) {
			a, b := pair(t, faults)
			for i := range 3000 {
				a.table.Put(flowNo(i))
				if i%3 == 0 {
					f := flowNo(i)
					f.TCP.State = flow.TCPFinWait
					a.table.Put(f)
				}
				if i%5 == 0 {
					f := flowNo(i)
					a.table.Remove(f.Key())
				}
				if i%100 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
			eventually(t, "equality under loss", mirrors(t, a, b))
		})
	}
}

// known puts n flows into a's kernel, and waits until b's view has them.
func known(t *testing.T, n int, a, b *node) {
	t.Helper()
	for i := range n {
		a.table.Put(flowNo(i))
	}
	eventually(t, "the first view", mirrors(t, a, b))
}

// TestStandbyRestart: a restarted standby is filled without being asked.
func TestStandbyRestart(t *testing.T) {
	t.Parallel()
	la, lb := udptest.Pair(7, udptest.Faults{})
	a := start(t, kerneltest.New(), la)
	b := start(t, kerneltest.New(), lb)
	known(t, 1000, a, b)
	_ = b.Stop(t.Context())
	lb2, _ := udptest.Pair(9, udptest.Faults{})
	udptest.Join(la, lb2)
	b = start(t, kerneltest.New(), lb2)
	eventually(t, "the view after the restart", mirrors(t, a, b))
}

// TestActiveRestart: what ended while the active was down leaves the standby,
// too.
func TestActiveRestart(t *testing.T) {
	t.Parallel()
	la, lb := udptest.Pair(7, udptest.Faults{})
	table := kerneltest.New()
	a := start(t, table, la)
	b := start(t, kerneltest.New(), lb)
	known(t, 1000, a, b)
	_ = a.Stop(t.Context())
	for i := range 300 {
		f := flowNo(i)
		table.RemoveSilently(f.Key())
	}
	la2, _ := udptest.Pair(9, udptest.Faults{})
	udptest.Join(la2, lb)
	a = start(t, table, la2)
	eventually(t, "the view after the restart", mirrors(t, a, b))
}

// TestSlowFill: while a restarted active still reads its kernel's table, the
// standby keeps what it has; an acknowledgement is not a copy.
func TestSlowFill(t *testing.T) {
	t.Parallel()
	la, lb := udptest.Pair(7, udptest.Faults{})
	table := kerneltest.New()
	a := start(t, table, la)
	b := start(t, kerneltest.New(), lb)
	known(t, 1000, a, b)
	_ = a.Stop(t.Context())
	release := table.HoldDump()
	la2, _ := udptest.Pair(9, udptest.Faults{})
	udptest.Join(la2, lb)
	started := make(chan *node)
	go func() { started <- start(t, table, la2) }()
	for until := time.Now().Add(6 * time.Second); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		if n := len(entries(t, b, flow.External)); n != 1000 {
			t.Errorf("the standby is down to %d entries", n)
			break
		}
	}
	release()
	a = <-started
	eventually(t, "the view after the fill", mirrors(t, a, b))
}

// TestOverrun: lost events are found by comparison, and only the differences
// are sent.
func TestOverrun(t *testing.T) {
	t.Parallel()
	a, b := pair(t, udptest.Faults{})
	known(t, 1000, a, b)
	time.Sleep(300 * time.Millisecond) // the first full copies end
	before := a.link.Stats().BytesSent
	for i := range 10 {
		f, g, h := flowNo(i), flowNo(100+i), flowNo(2000+i)
		a.table.RemoveSilently(f.Key())
		g.TCP.State = flow.TCPCloseWait
		a.table.PutSilently(g)
		a.table.PutSilently(h)
	}
	a.table.Overrun()
	eventually(t, "the view after the overrun", mirrors(t, a, b))
	if sent := a.link.Stats().BytesSent - before; sent > 30*100+2000 {
		t.Errorf("%d bytes for 30 differences", sent)
	}
	s, _ := a.Statistics(t.Context())
	if s.Drops["event_overruns"] != 1 {
		t.Errorf("drops %v", s.Drops)
	}
}

// TestFlushAndRefill: the take-over sequence ends no flow at the peer; a flush
// that nothing follows does.
func TestFlushAndRefill(t *testing.T) {
	t.Parallel()
	a, b := pair(t, udptest.Faults{})
	for i := range 100 {
		a.table.Put(flowNo(i))
	}
	eventually(t, "the first view", mirrors(t, a, b))
	destroyed := func() uint64 {
		s, err := b.Statistics(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s.Main.CacheExternal.Destroyed
	}
	f := flowNo(3)
	a.table.RemoveSilently(f.Key())
	if err := a.Flush(t.Context(), flow.Both); err != nil {
		t.Fatal(err)
	}
	if err := a.Resync(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the view after flush and refill", mirrors(t, a, b))
	if d := destroyed(); d > 101 {
		t.Errorf("%d entries were destroyed at the peer", d)
	}
	if err := a.Flush(t.Context(), flow.Internal); err != nil {
		t.Fatal(err)
	}
	eventually(t, "empty caches after a flush alone", func() error {
		if n := len(entries(t, b, flow.External)); n != 0 {
			return fmt.Errorf("%d entries", n)
		}
		return nil
	})
}

// TestPurge removes what the last reign left and the new MASTER does not hold;
// nothing else.
func TestPurge(t *testing.T) {
	t.Parallel()
	a, b := pair(t, udptest.Faults{})
	ctx := t.Context()
	_ = a.SetRole(ctx, "syncgrp", "MASTER")
	for i := range 20 {
		a.table.Put(flowNo(i))
	}
	eventually(t, "the internal cache", func() error {
		if n := len(entries(t, a, flow.Internal)); n != 20 {
			return fmt.Errorf("%d entries", n)
		}
		return nil
	})
	for i := range 10 { // the new MASTER holds half of them
		b.table.Put(flowNo(i))
	}
	_ = b.SetRole(ctx, "syncgrp", "MASTER")
	_ = a.SetRole(ctx, "syncgrp", "BACKUP")
	eventually(t, "what the new MASTER holds", mirrors(t, b, a))
	if err := a.ShortenTimers(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the purge", func() error {
		if n := a.table.Len(); n != 10 {
			return fmt.Errorf("%d entries left", n)
		}
		return nil
	})
	for i := range 10 {
		f := flowNo(i)
		if _, ok := a.table.Flow(f.Key()); !ok {
			t.Errorf("%v was purged although the MASTER holds it", f.Orig)
		}
	}
	if b.table.Len() != 10 {
		t.Errorf("the MASTER's table has %d entries", b.table.Len())
	}
}

func TestTableFullIsReported(t *testing.T) {
	t.Parallel()
	a, b := pair(t, udptest.Faults{})
	for i := range 100 {
		a.table.Put(flowNo(i))
	}
	eventually(t, "the standby's view", mirrors(t, a, b))
	b.table.Limit(60)
	done, err := b.Commit(t.Context())
	if err != nil || done.Created != 60 || done.Refused["table full"] != 40 {
		t.Fatalf("%+v, %v", done, err)
	}
}

// TestFormerLink: the kernel keeps the flow of the sync link's datagrams for a
// while when the link has moved to another group; it is no flow to replicate.
func TestFormerLink(t *testing.T) {
	la, _ := udptest.Pair(7, udptest.Faults{})
	n := start(t, kerneltest.New(), la)
	s := settings()
	s.McastGroup = netip.MustParseAddr("225.0.0.99")
	if err := n.Configure(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	for _, port := range []uint16{conf.DefaultPort, 5000} {
		f := flow.Flow{Orig: flow.MakeTuple(flow.ProtoUDP, netip.MustParseAddr("192.0.2.2"), conf.DefaultMcastGroup, 40000, port), Has: flow.HasReply | flow.HasStatus}
		f.Reply = f.Orig.Inverse()
		n.table.Put(f)
	}
	eventually(t, "one of the link and one of somebody else's", func() error {
		st, err := n.Statistics(t.Context())
		if err != nil || st.Excluded["sync-link"] != 1 || st.Main.CacheInternal.Active != 1 {
			return fmt.Errorf("%v, %d entries, %w", st.Excluded, st.Main.CacheInternal.Active, err)
		}
		return nil
	})
}

// TestAcceptProtocolReachesTheKernel: the kernel is asked to keep other events
// back, and to send all again when the setting is gone.
func TestAcceptProtocolReachesTheKernel(t *testing.T) {
	t.Parallel()
	table := kerneltest.New()
	la, _ := udptest.Pair(7, udptest.Faults{})
	n := start(t, table, la)
	for _, want := range [][]uint8{{flow.ProtoTCP, flow.ProtoUDP}, {flow.ProtoTCP}, nil} {
		s := settings()
		s.AcceptProtocols = want
		if err := n.Configure(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if got := table.Passing(); !slices.Equal(got, want) {
			t.Errorf("the kernel was asked for %v, want %v", got, want)
		}
	}
}

// TestExcludedFlows: what is never replicated, counted by class.
func TestExcludedFlows(t *testing.T) {
	t.Parallel()
	own, vip := netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.1.0.254")
	la, _ := udptest.Pair(7, udptest.Faults{})
	n := start(t, kerneltest.New(own, vip), la)
	s := settings()
	s.VirtualAddresses = []netip.Addr{vip}
	s.AcceptProtocols = []uint8{flow.ProtoTCP}
	s.IgnoreAddresses = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	if err := n.Configure(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	mk := func(proto uint8, src, dst string) flow.Flow {
		f := flow.Flow{Orig: flow.MakeTuple(proto, netip.MustParseAddr(src), netip.MustParseAddr(dst), 1000, 80), Has: flow.HasReply | flow.HasStatus}
		f.Reply = f.Orig.Inverse()
		return f
	}
	dnat := mk(6, "10.9.0.9", "203.0.113.5")
	dnat.Reply.SetSrc(netip.MustParseAddr("198.51.100.7"))
	want := map[string]flow.Flow{
		"vrrp": mk(112, "10.1.0.1", "224.0.0.18"), "loopback": mk(6, "127.0.0.1", "127.0.0.1"),
		"link-local": mk(17, "10.1.0.10", "224.0.0.251"), "sync-link": mk(17, "192.0.2.1", "225.0.0.50"),
		"router": mk(6, "10.1.0.10", "10.1.0.1"), "accept-protocol": mk(17, "10.1.0.10", "203.0.113.10"), "ignore-address": dnat,
	}
	eventually(t, "the kernel's table read", func() error { // which counts what it meets
		if st, err := n.Status(t.Context()); err != nil || st.Filling {
			return fmt.Errorf("%+v, %w", st, err)
		}
		return nil
	})
	for _, f := range want {
		n.table.Put(f)
	}
	n.table.Put(mk(6, "10.1.0.10", "10.1.0.254")) // to a virtual address: replicated
	n.table.Put(mk(6, "10.1.0.10", "203.0.113.10"))
	eventually(t, "two entries and one of each class", func() error {
		st, err := n.Statistics(t.Context())
		if err != nil {
			return err
		}
		for class := range want {
			if st.Excluded[class] != 1 {
				return fmt.Errorf("%v", st.Excluded)
			}
		}
		if st.Main.CacheInternal.Active != 2 {
			return fmt.Errorf("%d entries", st.Main.CacheInternal.Active)
		}
		return nil
	})
}
