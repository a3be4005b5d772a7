package groups_test

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/sync/engine"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/groups"
	"github.com/conntrack-sync/conntrack-sync/sync/kernel/kerneltest"
	"github.com/conntrack-sync/conntrack-sync/sync/udp/udptest"
)

type groupKey struct{}

// of makes a context for calls about a group.
func of(name string) context.Context {
	return context.WithValue(context.Background(), groupKey{}, name)
}

type node struct {
	*groups.Groups
	table *kerneltest.Table
	link  *udptest.Link
}

func settings(names ...string) conf.Settings {
	s := conf.Settings{Config: conf.Config{McastGroup: conf.DefaultMcastGroup, SyncGroup: names[0], OtherGroups: names[1:],
		Interfaces: []conf.Interface{{Name: "eth0", Port: conf.DefaultPort}}, EventQueueMB: conf.DefaultEventQueueMB,
		SyncQueueMB: conf.DefaultSyncQueueMB, PurgeTimeout: time.Minute}}
	for _, name := range names {
		if len(names) < 2 {
			break
		}
		for _, p := range virtual[name] {
			s.VirtualAddresses = append(s.VirtualAddresses, p.Addr())
		}
		s.GroupAddresses = append(s.GroupAddresses, conf.Group{Name: name, Virtual: virtual[name]})
	}
	return s
}

var virtual = map[string][]netip.Prefix{
	"red":  {netip.MustParsePrefix("10.1.0.254/16"), netip.MustParsePrefix("203.0.113.253/24")},
	"blue": {netip.MustParsePrefix("10.2.0.254/16"), netip.MustParsePrefix("203.0.113.254/24")},
}

// flowOf is a flow of a group, translated to its virtual address or not.
func flowOf(group string, i int) flow.Flow {
	net := map[string]byte{"red": 1, "blue": 2}[group]
	f := flow.Flow{
		Orig: flow.MakeTuple(flow.ProtoTCP, netip.AddrFrom4([4]byte{10, net, byte(i >> 8), byte(i)}), netip.AddrFrom4([4]byte{203, 0, 113, 10}), 1000, 80),
		Has:  flow.HasStatus | flow.HasTimeout | flow.HasReply | flow.HasTCPState, Timeout: 100,
		Status: flow.StatusConfirmed, TCP: flow.TCP{State: flow.TCPEstablished},
	}
	f.Reply = f.Orig.Inverse()
	if i%2 == 0 {
		f.Status |= flow.StatusSrcNATDone
		f.Reply.SetDst(virtual[group][1].Addr())
		f.SetNAT()
	}
	return f
}

func start(t *testing.T, link *udptest.Link, names ...string) *node {
	t.Helper()
	n := &node{table: kerneltest.New(), link: link}
	n.Groups = groups.New(engine.Options{
		OpenKernel: func() (engine.Kernel, error) { return n.table, nil },
		OpenLink:   func(engine.LinkConfig) (engine.Link, error) { return link, nil },
	}, func(ctx context.Context) string { name, _ := ctx.Value(groupKey{}).(string); return name })
	if err := n.Configure(t.Context(), settings(names...)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *node) roles(t *testing.T, roles map[string]string) {
	t.Helper()
	for group, role := range roles {
		if err := n.SetRole(t.Context(), group, role); err != nil {
			t.Fatal(err)
		}
	}
}

func (n *node) entries(t *testing.T, group string, which flow.Table) map[flow.Key]bool {
	t.Helper()
	m := map[flow.Key]bool{}
	err := n.Flows(of(group), which, func(fs []flow.Flow) error {
		for _, f := range fs {
			m[f.Key()] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func keys(group string, from, to int) map[flow.Key]bool {
	m := map[flow.Key]bool{}
	for i := from; i < to; i++ {
		f := flowOf(group, i)
		m[f.Key()] = true
	}
	return m
}

func (n *node) put(group string, from, to int) {
	for i := from; i < to; i++ {
		n.table.Put(flowOf(group, i))
	}
}

func holds(t *testing.T, n *node, group string, which flow.Table, want map[flow.Key]bool) {
	t.Helper()
	have := 0
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		got := n.entries(t, group, which)
		if have = len(got); maps.Equal(got, want) {
			return
		}
	}
	t.Fatalf("group %s, table %v: %d entries, want %d", group, which, have, len(want))
}

// onceKernel says of a change of addresses once that there was one, as a kernel does,
// and nothing but at the start to those who watch.
type onceKernel struct {
	*kerneltest.Table
	changed atomic.Bool
}

func (k *onceKernel) AddrsChanged() bool { return k.changed.Swap(false) }

func (k *onceKernel) WatchAddrs(ctx context.Context, fn func(map[netip.Addr]bool)) error {
	fn(map[netip.Addr]bool{})
	<-ctx.Done()
	return ctx.Err()
}

// TestAddressesThatLeave are noticed by every group: flows that were masqueraded to
// them end here, and not at the peers.
func TestAddressesThatLeave(t *testing.T) {
	red, blue := virtual["red"][1].Addr(), virtual["blue"][1].Addr()
	k := &onceKernel{Table: kerneltest.New(red, blue)}
	link, _ := udptest.Pair(7, udptest.Faults{})
	n := &node{table: k.Table, link: link}
	n.Groups = groups.New(engine.Options{
		OpenKernel: func() (engine.Kernel, error) { return k, nil },
		OpenLink:   func(engine.LinkConfig) (engine.Link, error) { return link, nil },
	}, func(ctx context.Context) string { name, _ := ctx.Value(groupKey{}).(string); return name })
	if err := n.Configure(t.Context(), settings("red", "blue")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Stop(context.Background()) })
	n.roles(t, map[string]string{"red": "MASTER", "blue": "MASTER"})
	n.put("red", 0, 2)
	n.put("blue", 0, 2)
	holds(t, n, "red", flow.Internal, keys("red", 0, 2))
	holds(t, n, "blue", flow.Internal, keys("blue", 0, 2))
	k.SetLocal()
	k.changed.Store(true)
	for _, group := range []string{"red", "blue"} { // 0 is masqueraded, 1 is not
		for i := range 2 {
			f := flowOf(group, i)
			n.table.Remove(f.Key())
		}
	}
	holds(t, n, "red", flow.Internal, keys("red", 0, 1))
	holds(t, n, "blue", flow.Internal, keys("blue", 0, 1))
}

// TestOppositeRoles: each node is MASTER of a group; each holds the other's flows,
// and takes over one group without touching the other. The nodes name different
// groups first.
func TestOppositeRoles(t *testing.T) {
	la, lb := udptest.Pair(7, udptest.Faults{Drop: 0.05})
	a, b := start(t, la, "red", "blue"), start(t, lb, "blue", "red")
	a.roles(t, map[string]string{"red": "MASTER", "blue": "BACKUP"})
	b.roles(t, map[string]string{"red": "BACKUP", "blue": "MASTER"})
	a.put("red", 0, 300)
	b.put("blue", 0, 200)
	holds(t, a, "red", flow.Internal, keys("red", 0, 300))
	holds(t, a, "blue", flow.Internal, nil)
	holds(t, b, "red", flow.External, keys("red", 0, 300))
	holds(t, a, "blue", flow.External, keys("blue", 0, 200))
	holds(t, b, "blue", flow.External, nil)
	holds(t, a, "", flow.External, keys("blue", 0, 200))

	b.roles(t, map[string]string{"red": "MASTER"})
	done, err := b.Commit(of("red"))
	if err != nil || done.Created != 300 {
		t.Errorf("%+v, %v", done, err)
	}
	if n := b.table.Len(); n != 500 {
		t.Errorf("%d flows in the kernel that took over", n)
	}
	holds(t, b, "blue", flow.Internal, keys("blue", 0, 200))
	holds(t, b, "red", flow.Internal, keys("red", 0, 300))
	st, err := b.Status(t.Context())
	if err != nil || len(st.Groups) != 2 || st.Groups["red"].Commit == nil || st.Groups["blue"].Commit != nil {
		t.Errorf("%+v, %v", st, err)
	}
	if one, err := b.Status(of("red")); err != nil || one.Groups != nil || one.Commit == nil {
		t.Errorf("%+v, %v", one, err)
	}
	if err := b.Flush(of("red"), flow.Both); err != nil {
		t.Error(err)
	}
	holds(t, b, "blue", flow.Internal, keys("blue", 0, 200))
	if err := b.SetRole(t.Context(), "green", "MASTER"); err == nil {
		t.Error("a role of a group that is not there")
	}
	x, err := a.Statistics(t.Context())
	if err != nil || x.Main.CacheInternal.Active != 300 || x.Main.CacheExternal.Active != 200 || len(x.Groups) != 2 || x.Groups["blue"].Main.CacheExternal.Active != 200 {
		t.Errorf("%+v, %v", x, err)
	}
}

// TestACommitOfAnotherGroup: while one group writes much into the kernel, flows of the
// other that begin are heard of as ever.
func TestACommitOfAnotherGroup(t *testing.T) {
	la, lb := udptest.Pair(9, udptest.Faults{})
	a, b := start(t, la, "red", "blue"), start(t, lb, "red", "blue")
	a.roles(t, map[string]string{"red": "MASTER", "blue": "BACKUP"})
	b.roles(t, map[string]string{"red": "BACKUP", "blue": "MASTER"})
	a.put("red", 0, 1000)
	holds(t, b, "red", flow.External, keys("red", 0, 1000))
	release := b.table.HoldApply()
	committed := make(chan error, 1)
	go func() {
		_, err := b.Commit(of("red"))
		committed <- err
	}()
	for running := false; !running; {
		st, err := b.Status(of("red"))
		if err != nil {
			t.Fatal(err)
		}
		running = st.Commit != nil && st.Commit.Running
	}
	b.put("blue", 0, 10)
	holds(t, b, "blue", flow.Internal, keys("blue", 0, 10))
	release()
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
	holds(t, b, "red", flow.Internal, keys("red", 0, 1000))
}

// TestAGroupComesAndGoes while the other goes on: flows change hands.
func TestAGroupComesAndGoes(t *testing.T) {
	la, lb := udptest.Pair(8, udptest.Faults{})
	a, b := start(t, la, "red"), start(t, lb, "red")
	a.roles(t, map[string]string{"red": "MASTER"})
	b.roles(t, map[string]string{"red": "BACKUP"})
	a.put("red", 0, 50)
	a.put("blue", 0, 50)
	all := keys("red", 0, 50)
	maps.Copy(all, keys("blue", 0, 50))
	holds(t, b, "red", flow.External, all)
	if err := a.Configure(t.Context(), settings("red", "blue")); err != nil {
		t.Fatal(err)
	}
	holds(t, a, "red", flow.Internal, keys("red", 0, 50))
	holds(t, a, "blue", flow.Internal, keys("blue", 0, 50))
	holds(t, b, "red", flow.External, keys("red", 0, 50)) // a node with one group understands its own
	if err := b.Configure(t.Context(), settings("red", "blue")); err != nil {
		t.Fatal(err)
	}
	a.roles(t, map[string]string{"blue": "MASTER"})
	b.roles(t, map[string]string{"blue": "BACKUP"})
	holds(t, b, "blue", flow.External, keys("blue", 0, 50))
	a.put("blue", 50, 60)
	holds(t, b, "blue", flow.External, keys("blue", 0, 60))
	for _, n := range []*node{a, b} {
		if err := n.Configure(t.Context(), settings("red")); err != nil {
			t.Fatal(err)
		}
	}
	maps.Copy(all, keys("blue", 50, 60))
	holds(t, a, "red", flow.Internal, all)
	holds(t, b, "red", flow.External, all)
}

// TestAForeignGroupIsRefused: a node does not take a group it has not for its own.
func TestAForeignGroupIsRefused(t *testing.T) {
	la, lb := udptest.Pair(9, udptest.Faults{})
	a, b := start(t, la, "red", "blue"), start(t, lb, "green")
	a.roles(t, map[string]string{"red": "MASTER", "blue": "MASTER"})
	b.roles(t, map[string]string{"green": "BACKUP"})
	a.put("red", 0, 50)
	holds(t, a, "red", flow.Internal, keys("red", 0, 50))
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		st, err := b.Status(t.Context())
		if err == nil && st.ForeignGroup {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v, %v", st, err)
		}
	}
	if got := b.entries(t, "green", flow.External); len(got) != 0 {
		t.Errorf("%d flows of another group were taken", len(got))
	}
}

// TestASingleGroupAddsNothing to what goes over the link, and may change its name.
func TestASingleGroupAddsNothing(t *testing.T) {
	la, lb := udptest.Pair(10, udptest.Faults{})
	a := start(t, la, "red")
	old := &node{table: kerneltest.New(), link: lb} // an engine that knows nothing of groups
	e := engine.New(engine.Options{
		OpenKernel: func() (engine.Kernel, error) { return old.table, nil },
		OpenLink:   func(engine.LinkConfig) (engine.Link, error) { return lb, nil },
	})
	if err := e.Configure(t.Context(), settings("red")); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = e.Stop(context.Background()) }()
	a.put("red", 0, 50)
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		n := 0
		_ = e.Flows(t.Context(), flow.External, func(fs []flow.Flow) error { n += len(fs); return nil })
		if n == 50 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d flows arrived", n)
		}
	}
	if err := a.Configure(t.Context(), settings("crimson")); err != nil {
		t.Fatal(err)
	}
	holds(t, a, "crimson", flow.Internal, keys("red", 0, 50))
	if err := a.SetRole(t.Context(), "crimson", "MASTER"); err != nil {
		t.Error(err)
	}
}

func TestNothingIsConfigured(t *testing.T) {
	g := groups.New(engine.Options{OpenKernel: func() (engine.Kernel, error) { return nil, fmt.Errorf("no kernel") }},
		func(context.Context) string { return "" })
	if _, err := g.Status(t.Context()); err == nil {
		t.Error("a status of nothing")
	}
	if err := g.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if err := g.Configure(t.Context(), settings("red", "blue")); err == nil || slices.Contains([]string{""}, err.Error()) {
		t.Error(err)
	}
	if _, err := g.Status(t.Context()); err == nil {
		t.Error("a status of what could not be configured")
	}
}
