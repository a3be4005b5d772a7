package engine_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/engine"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/kernel/kerneltest"
	"github.com/conntrack-sync/conntrack-sync/sync/udp/udptest"
)

// fakeGuard writes down where it is.
type fakeGuard struct {
	mu      sync.Mutex
	state   string
	history []string
	renewed int
	virtual []netip.Addr
	spared  []netip.Addr
	fail    error
	lapsed  error // what a renewal ends with
}

func (g *fakeGuard) set(s string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fail != nil {
		return g.fail
	}
	g.state = s
	g.history = append(g.history, s)
	return nil
}
func (g *fakeGuard) Protect(virtual, spared []netip.Addr) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.virtual, g.spared = virtual, spared
	return nil
}
func (g *fakeGuard) Raise(armed, window bool) error {
	switch {
	case window:
		return g.set("window")
	case armed:
		return g.set("armed")
	}
	return g.set("up")
}
func (g *fakeGuard) Lower() error { return g.set("down") }
func (g *fakeGuard) Close() error { return g.set("closed") }
func (g *fakeGuard) Renew() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.renewed++
	return g.lapsed
}
func (g *fakeGuard) Drops() (input, forward uint64, err error) { return 5, 7, nil }

func (g *fakeGuard) said() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return fmt.Sprint(g.history)
}

func (g *fakeGuard) is(state string) func() error {
	return func() error {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.state != state {
			return fmt.Errorf("the guard is %q, not %q", g.state, state)
		}
		return nil
	}
}

var (
	ownAddr = netip.MustParseAddr("10.1.0.2")
	lanVIP  = netip.MustParseAddr("10.1.0.254")
	wanVIP  = netip.MustParseAddr("203.0.113.254")
)

// guarded starts a pair whose second node has virtual addresses and a guard; the
// first holds n flows, and the second knows them.
func guarded(t *testing.T, n int, local ...netip.Addr) (a, b *node, g *fakeGuard) {
	t.Helper()
	la, lb := udptest.Pair(7, udptest.Faults{})
	a = start(t, kerneltest.New(), la)
	g = &fakeGuard{}
	b = &node{table: kerneltest.New(append(local, ownAddr)...), link: lb}
	b.Engine = engine.New(engine.Options{
		OpenKernel: func() (engine.Kernel, error) { return b.table, nil },
		OpenLink:   func(engine.LinkConfig) (engine.Link, error) { return lb, nil },
		OpenGuard:  func() (engine.Guard, error) { return g, nil },
	})
	s := settings()
	s.VirtualAddresses = []netip.Addr{lanVIP, wanVIP}
	if err := b.Configure(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Stop(context.Background()) })
	for i := range n {
		a.table.Put(flowNo(i))
	}
	eventually(t, "the standby's view", mirrors(t, a, b))
	return a, b, g
}

func (n *node) role(t *testing.T, role string) {
	t.Helper()
	if err := n.SetRole(t.Context(), "syncgrp", role); err != nil {
		t.Fatal(err)
	}
}

func tableHas(b *node, n int) func() error {
	return func() error {
		if b.table.Len() != n {
			return fmt.Errorf("%d entries in the kernel, want %d", b.table.Len(), n)
		}
		return nil
	}
}

// TestGuardFollowsTheRole through a whole take-over.
func TestGuardFollowsTheRole(t *testing.T) {
	_, b, g := guarded(t, 100)
	b.role(t, "BACKUP")
	eventually(t, "BACKUP", g.is("armed"))
	release := b.table.HoldApply()
	b.table.SetLocal(ownAddr, lanVIP)
	eventually(t, "the window", g.is("window"))
	if st, err := b.Status(t.Context()); err != nil || !st.Commit.Running || st.Commit.Total != 100 || st.Commit.Trigger != "virtual address" {
		t.Errorf("while it runs: %+v, %v", st.Commit, err)
	}
	release()
	eventually(t, "the early commit", tableHas(b, 100))
	eventually(t, "the end of the window", g.is("up"))
	// It is up until the addresses were looked at first.
	if s := strings.TrimPrefix(g.said(), "[up "); strings.TrimPrefix(s, "[") != "armed window up]" {
		t.Errorf("before the role the guard went %s", s)
	}
	b.role(t, "MASTER")
	if err := g.is("up")(); err != nil {
		t.Errorf("before the commit: %v", err)
	}
	done, err := b.Commit(t.Context())
	if err != nil || done.Entries != 100 || done.Created != 100 || done.Early != 100 || done.Trigger != "MASTER" {
		t.Errorf("commit %+v, %v", done, err)
	}
	if err := g.is("down")(); err != nil {
		t.Errorf("after the commit: %v", err)
	}
	b.table.SetLocal(ownAddr)
	b.role(t, "FAULT")
	eventually(t, "FAULT", g.is("armed"))
	if err := g.is("armed")(); err != nil {
		t.Errorf("in FAULT: %v", err)
	}
	st, err := b.Status(t.Context())
	if err != nil || st.Guard.State != "armed" || st.Guard.InputDrops != 5 || st.Guard.ForwardDrops != 7 {
		t.Errorf("status %+v, %v", st.Guard, err)
	}
	eventually(t, "the addresses", func() error {
		g.mu.Lock()
		defer g.mu.Unlock()
		if len(g.virtual) != 2 || len(g.spared) != 1 || g.spared[0] != ownAddr {
			return fmt.Errorf("the guard protects %v and spares %v", g.virtual, g.spared)
		}
		return nil
	})
}

// TestGuardWithoutTheAddressEvent: where the role comes first, its commit is done
// in a window of its own.
func TestGuardWithoutTheAddressEvent(t *testing.T) {
	_, b, g := guarded(t, 10)
	b.role(t, "BACKUP")
	b.role(t, "MASTER")
	eventually(t, "the window", g.is("window"))
	if done, err := b.Commit(t.Context()); err != nil || done.Created != 10 || done.Early != 0 {
		t.Errorf("commit %+v, %v", done, err)
	}
	if err := g.is("down")(); err != nil {
		t.Error(err)
	}
}

// TestMasterFoundAtTheStart is not guarded: its stack answers for flows it has.
// Nor does an address that is here at the start begin a commit.
func TestMasterFoundAtTheStart(t *testing.T) {
	_, b, g := guarded(t, 10, lanVIP, wanVIP)
	b.role(t, "MASTER")
	if err := b.Resync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b.table.Len() != 0 || g.said() != "[]" {
		t.Errorf("%d entries were written, the guard went %s", b.table.Len(), g.said())
	}
}

// TestEarlyCommitIsRepeated: what comes between the address and the role is
// written by the role's commit, what ended there is removed again, and what did
// not change is not written twice.
func TestEarlyCommitIsRepeated(t *testing.T) {
	a, b, g := guarded(t, 100)
	b.role(t, "BACKUP")
	eventually(t, "BACKUP", g.is("armed"))
	b.table.SetLocal(ownAddr, lanVIP)
	eventually(t, "the early commit", tableHas(b, 100))
	for i := range 10 {
		f := flowNo(i)
		a.table.Remove(f.Key())
		a.table.Put(flowNo(1000 + i))
	}
	eventually(t, "the standby's view", mirrors(t, a, b))
	b.table.SetLocal(ownAddr, lanVIP, wanVIP) // the second address: once more
	eventually(t, "the second early commit", tableHas(b, 100))
	b.role(t, "MASTER")
	done, err := b.Commit(t.Context())
	if err != nil || done.Created != 110 || done.Updated != 0 || done.Entries != 110 {
		t.Errorf("commit %+v, %v", done, err)
	}
	eventually(t, "one table on both", mirrors(t, b, a)) // the former MASTER has learnt nothing wrong
	for i := range 10 {
		f := flowNo(i)
		if _, ok := b.table.Flow(f.Key()); ok {
			t.Errorf("%v ended before the role came and is in the kernel", f.Orig)
		}
	}
}

// TestTakeOverThatDoesNotComeAbout: the address comes and goes, or another role
// comes: what was written is removed, and nothing else.
func TestTakeOverThatDoesNotComeAbout(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, b *node){
		"the address leaves": func(_ *testing.T, b *node) { b.table.SetLocal(ownAddr) },
		"BACKUP comes":       func(t *testing.T, b *node) { b.role(t, "BACKUP") },
	} {
		t.Run(name, func(t *testing.T) {
			a, b, g := guarded(t, 100)
			b.role(t, "BACKUP")
			eventually(t, "BACKUP", g.is("armed"))
			others := netip.MustParseAddr("192.0.2.7") // what this BACKUP forwards for others
			f := flowNo(7777)
			f.Orig.SetSrc(others)
			f.Reply.SetDst(others)
			b.table.Put(f)
			mine := flowNo(5) // was here before the address came
			b.table.Put(mine)
			eventually(t, "the internal cache", func() error {
				if n := len(entries(t, b, flow.Internal)); n != 2 {
					return fmt.Errorf("%d entries", n)
				}
				return nil
			})
			b.table.SetLocal(ownAddr, lanVIP)
			eventually(t, "the early commit", tableHas(b, 101))
			end(t, b)
			eventually(t, "the way back", tableHas(b, 2))
			want := map[bool]string{true: "armed", false: "up"}[name == "the address leaves"]
			eventually(t, "the guard", g.is(want))
			if _, ok := b.table.Flow(f.Key()); !ok {
				t.Error("a flow of others was removed")
			}
			b.table.SetLocal(ownAddr)
			b.table.SetLocal(ownAddr, lanVIP, wanVIP)
			eventually(t, "the next take-over", tableHas(b, 101))
			b.role(t, "MASTER")
			if done, err := b.Commit(t.Context()); err != nil || done.Entries != 100 {
				t.Errorf("commit %+v, %v", done, err)
			}
			if n := a.table.Len(); n != 100 {
				t.Errorf("the former MASTER's kernel has %d entries", n)
			}
		})
	}
}

// TestEarlyCommitThatIsAbandoned while the kernel writes its last batch counts for
// nothing: the next take-over writes everything, also where the address was back
// before the batch was written.
func TestEarlyCommitThatIsAbandoned(t *testing.T) {
	for name, back := range map[string]bool{"for good": false, "and begun again meanwhile": true} {
		t.Run(name, func(t *testing.T) {
			_, b, g := guarded(t, 100)
			b.role(t, "BACKUP")
			eventually(t, "BACKUP", g.is("armed"))
			release := b.table.HoldWrite()
			b.table.SetLocal(ownAddr, lanVIP)
			eventually(t, "the window", g.is("window"))
			eventually(t, "the batch", func() error {
				if st, err := b.Status(t.Context()); err != nil || st.Commit == nil || !st.Commit.Running {
					return fmt.Errorf("%+v, %w", st.Commit, err)
				}
				return nil
			})
			b.table.SetLocal(ownAddr)
			eventually(t, "the window's end", g.is("armed"))
			if back {
				b.table.SetLocal(ownAddr, lanVIP)
				eventually(t, "the second window", g.is("window"))
			}
			release()
			if back {
				eventually(t, "the second early commit", g.is("up"))
				eventually(t, "what it wrote", tableHas(b, 100))
			} else {
				eventually(t, "the way back", tableHas(b, 0))
			}
			b.role(t, "MASTER")
			done, err := b.Commit(t.Context())
			if err != nil || done.Entries != 100 || done.Early != map[bool]int{true: 100}[back] {
				t.Errorf("commit %+v, %v", done, err)
			}
			if n := b.table.Len(); n != 100 {
				t.Errorf("%d entries in the kernel", n)
			}
		})
	}
}

// TestGuardThatCannotBeRaised is said, and the node goes on.
func TestGuardThatCannotBeRaised(t *testing.T) {
	_, b, g := guarded(t, 10)
	g.mu.Lock()
	g.fail = errors.New("operation not supported")
	g.mu.Unlock()
	b.role(t, "BACKUP")
	b.role(t, "MASTER")
	if done, err := b.Commit(t.Context()); err != nil || done.Created != 10 {
		t.Errorf("commit %+v, %v", done, err)
	}
	if st, err := b.Status(t.Context()); err != nil || st.Guard.Problem != "operation not supported" {
		t.Errorf("status %+v, %v", st.Guard, err)
	}
}

// TestGuardThatComesLater: where there was none at first there is one as soon as it
// can be had.
func TestGuardThatComesLater(t *testing.T) {
	g, table, tries := &fakeGuard{}, kerneltest.New(ownAddr), 0
	link, _ := udptest.Pair(7, udptest.Faults{})
	b := &node{table: table, link: link}
	b.Engine = engine.New(engine.Options{
		OpenKernel: func() (engine.Kernel, error) { return table, nil },
		OpenLink:   func(engine.LinkConfig) (engine.Link, error) { return link, nil },
		OpenGuard: func() (engine.Guard, error) {
			if tries++; tries == 1 {
				return nil, errors.New("no room")
			}
			return g, nil
		},
	})
	s := settings()
	s.VirtualAddresses = []netip.Addr{lanVIP}
	if err := b.Configure(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Stop(context.Background()) })
	b.role(t, "BACKUP")
	if st, err := b.Status(t.Context()); err != nil || st.Guard.Problem != "no room" {
		t.Errorf("status %+v, %v", st.Guard, err)
	}
	eventually(t, "the guard", g.is("armed"))
	if st, err := b.Status(t.Context()); err != nil || st.Guard.Problem != "" {
		t.Errorf("status %+v, %v", st.Guard, err)
	}
}

// TestGuardRenewalThatFailsOnce is a problem until one succeeds.
func TestGuardRenewalThatFailsOnce(t *testing.T) {
	_, b, g := guarded(t, 1)
	b.role(t, "BACKUP")
	for _, err := range []error{errors.New("no answer"), nil} {
		g.mu.Lock()
		g.lapsed = err
		g.mu.Unlock()
		eventually(t, "the state", func() error {
			if st, e := b.Status(t.Context()); e != nil || (st.Guard.Problem != "") != (err != nil) {
				return fmt.Errorf("status %+v, %w", st.Guard, e)
			}
			return nil
		})
	}
}

// TestGuardDisabled live, and enabled again.
func TestGuardDisabled(t *testing.T) {
	_, b, g := guarded(t, 1)
	b.role(t, "BACKUP")
	s := settings()
	s.VirtualAddresses = []netip.Addr{lanVIP, wanVIP}
	s.DisableGuard = true
	if err := b.Configure(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if st, err := b.Status(t.Context()); err != nil || st.Guard.State != "disabled" || g.said() != "[armed closed]" {
		t.Errorf("status %+v, %v; the guard went %s", st.Guard, err, g.said())
	}
	s.DisableGuard = false
	if err := b.Configure(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := g.is("armed")(); err != nil {
		t.Error(err)
	}
}

// TestBackupThatHasTheAddress from the start, because its role is wrong, is not
// armed: what it forwards must not wait for a take-over that never comes.
func TestBackupThatHasTheAddress(t *testing.T) {
	_, b, g := guarded(t, 1, lanVIP)
	eventually(t, "the first look", func() error {
		g.mu.Lock()
		defer g.mu.Unlock()
		if len(g.spared) == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	b.role(t, "BACKUP")
	if s := g.said(); s != "[up]" {
		t.Errorf("the guard went %s", s)
	}
}

// TestBackupWhoseAddressIsConfiguredLater is not armed either.
func TestBackupWhoseAddressIsConfiguredLater(t *testing.T) {
	other := netip.MustParseAddr("10.1.0.253")
	_, b, g := guarded(t, 1, other)
	b.role(t, "BACKUP")
	eventually(t, "without it", g.is("armed"))
	s := settings()
	s.VirtualAddresses = []netip.Addr{lanVIP, wanVIP, other}
	if err := b.Configure(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	eventually(t, "with it", g.is("up"))
}

// TestGuardIsRenewed while it stands, and lowered where no commit follows a role.
func TestGuardIsRenewed(t *testing.T) {
	_, b, g := guarded(t, 1)
	b.role(t, "BACKUP")
	eventually(t, "renewals", func() error {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.renewed < 3 {
			return fmt.Errorf("%d", g.renewed)
		}
		return nil
	})
	b.role(t, "MASTER")
	eventually(t, "patience's end", g.is("down"))
}

// TestCommitOrder: masters before children, what carries traffic before the rest,
// what was heard of last first; a grandchild after its master.
func TestCommitOrder(t *testing.T) {
	a, b := pair(t, udptest.Faults{})
	mk := func(i int, assured bool, parent *flow.Flow) flow.Flow {
		f := flowNo(i)
		if assured {
			f.Status |= flow.StatusAssured
		}
		if parent != nil {
			f.Master, f.Has = parent.Orig, f.Has|flow.HasMaster
		}
		return f
	}
	parent := mk(1, true, nil)
	child := mk(2, true, &parent)
	grandchild := mk(3, true, &child)
	idle, old, recent := mk(4, false, nil), mk(5, true, nil), mk(6, true, nil)
	for _, f := range []flow.Flow{grandchild, child, old} {
		a.table.Put(f)
	}
	eventually(t, "the first three", mirrors(t, a, b))
	for began := time.Now().Unix(); time.Now().Unix() < began+2; {
		time.Sleep(50 * time.Millisecond) // ages are told in seconds
	}
	for _, f := range []flow.Flow{idle, recent, parent} {
		a.table.Put(f)
	}
	eventually(t, "all six", mirrors(t, a, b))
	done, err := b.Commit(t.Context())
	if err != nil || done.Created != 6 || len(done.Refused) != 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	place := map[flow.Tuple]int{}
	for i, f := range b.table.All() {
		place[f.Orig] = i
	}
	for _, pair := range [][2]flow.Flow{{recent, old}, {old, idle}, {parent, child}, {idle, child}, {child, grandchild}} {
		if place[pair[0].Orig] > place[pair[1].Orig] {
			t.Errorf("%v was written behind %v", pair[0].Orig, pair[1].Orig)
		}
	}
	orphan := mk(8, true, new(mk(99, true, nil)))
	a.table.Put(orphan)
	eventually(t, "the orphan", mirrors(t, a, b))
	done, err = b.Commit(t.Context())
	if err != nil || done.Refused["no master"] != 1 {
		t.Fatalf("%+v, %v", done, err)
	}
	r, err := b.CommitReport(t.Context())
	if err != nil || len(r.Refused) != 1 || r.Refused[0].Reason != "no master" || r.Refused[0].Flow.Orig != orphan.Orig || r.Commit.Entries != 7 {
		t.Errorf("report %+v, %v", r, err)
	}
}

// TestNativeWhatHasArrivedCounts: datagrams that are left to gather when the role comes are
// taken before it, since what a former MASTER says later does not count.
func TestNativeWhatHasArrivedCounts(t *testing.T) {
	t.Parallel()
	nodes := group(t, 2, udptest.Faults{})
	a, b := nodes[0], nodes[1]
	a.table.Put(flowNo(1))
	eventually(t, "proof", inSync(t, b, 1))
	b.link.Hold()
	was := b.link.Stats().PacketsRecv
	a.table.Put(flowNo(2))
	eventually(t, "a datagram", func() error {
		if b.link.Stats().PacketsRecv == was {
			return errors.New("none")
		}
		return nil
	})
	if err := b.SetRole(t.Context(), "syncgrp", "MASTER"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := b.table.Len(); n != 2 {
		t.Errorf("%d flows are in the kernel", n)
	}
}
