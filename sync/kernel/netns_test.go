package kernel

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"golang.org/x/sys/unix"
)

// inNetns runs fn in a network namespace of its own, in which conntrack and NAT
// are in use. The namespace goes with the thread.
func inNetns(t testing.TB, fn func()) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		run(t, "ip", "link", "set", "lo", "up")
		nft := exec.Command("nft", "-f", "-")
		nft.Stdin = strings.NewReader(`table inet t {
	chain f { type filter hook input priority 0; ct state established accept; }
	chain n { type nat hook postrouting priority srcnat; }
	chain d { type nat hook prerouting priority dstnat; }
}`)
		if out, err := nft.CombinedOutput(); err != nil {
			t.Errorf("nft: %v\n%s", err, out)
			return
		}
		fn()
	}()
	<-done
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func open(t *testing.T) *Conn {
	c, err := Open(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

var (
	client = netip.MustParseAddr("10.1.0.10")
	server = netip.MustParseAddr("203.0.113.10")
	nat    = netip.MustParseAddr("203.0.113.254")
	six1   = netip.MustParseAddr("fd01::10")
	six2   = netip.MustParseAddr("fd02::10")
	sixNAT = netip.MustParseAddr("fd02::fe")
)

func established(src, dst netip.Addr, sport, dport uint16) flow.Flow {
	f := flow.Flow{
		Orig:    flow.MakeTuple(flow.ProtoTCP, src, dst, sport, dport),
		Has:     flow.HasStatus | flow.HasTimeout | flow.HasTCPState | flow.HasReply,
		Status:  flow.StatusSeenReply | flow.StatusAssured | flow.StatusConfirmed,
		Timeout: 3600,
		TCP:     flow.TCP{State: flow.TCPEstablished},
	}
	f.Reply = f.Orig.Inverse()
	return f
}

func translated(src, dst, to netip.Addr, sport, dport, natPort uint16) flow.Flow {
	f := established(src, dst, sport, dport)
	f.Reply.SetDst(to)
	f.Reply.Dport = natPort
	f.Status |= flow.StatusSrcNAT | flow.StatusSrcNATDone | flow.StatusDstNATDone
	f.SetNAT()
	return f
}

func upsert(t *testing.T, c *Conn, flows ...flow.Flow) flow.Applied {
	t.Helper()
	batch := make([]flow.Change, len(flows))
	for i, f := range flows {
		batch[i] = flow.Change{Op: flow.Upsert, Flow: f}
	}
	done, err := c.Apply(context.Background(), batch)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func dump(t *testing.T, c *Conn) map[flow.Key]flow.Flow {
	t.Helper()
	m := map[flow.Key]flow.Flow{}
	err := c.Dump(context.Background(), func(fs []flow.Flow) error {
		for _, f := range fs {
			m[f.Key()] = f
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestDumpUnreplied: the flows without a reply are found among the others, in both
// families.
func TestDumpUnreplied(t *testing.T) {
	inNetns(t, func() {
		c := open(t)
		upsert(t, c, established(client, server, 1000, 80), established(client, server, 1001, 80))
		alone := established(client, server, 1002, 80)
		alone6 := established(six1, six2, 1003, 80)
		for _, f := range []*flow.Flow{&alone, &alone6} {
			f.Status, f.TCP.State = flow.StatusConfirmed, flow.TCPSynSent
		}
		upsert(t, c, alone, alone6)
		got := map[flow.Key]bool{}
		err := c.DumpUnreplied(t.Context(), func(fs []flow.Flow) error {
			for _, f := range fs {
				got[f.Key()] = true
			}
			return nil
		})
		if err != nil || len(got) != 2 || !got[alone.Key()] || !got[alone6.Key()] {
			t.Errorf("%v, %v", got, err)
		}
	})
}

// TestOffloadedFlows: an entry of a flow table is without a timeout and has
// status bits that are the kernel's own; it is written as an ordinary one.
func TestOffloadedFlows(t *testing.T) {
	inNetns(t, func() {
		c := open(t)
		f := established(client, server, 1000, 80)
		f.Status |= flow.StatusOffload | flow.StatusHWOffload
		f.Has &^= flow.HasTimeout
		f.Timeout = 0
		for range 2 { // made, then brought up to date
			if done := upsert(t, c, f); len(done.Failed) > 0 {
				t.Fatalf("%+v", done)
			}
		}
		got := dump(t, c)[f.Key()]
		if got.Status&(flow.StatusOffload|flow.StatusHWOffload) != 0 || got.Status&flow.StatusAssured == 0 || got.Timeout == 0 {
			t.Errorf("status %#x, timeout %d", got.Status, got.Timeout)
		}
	})
}

func TestKernelHoldsWhatWasWritten(t *testing.T) {
	inNetns(t, func() {
		c := open(t)
		icmp := flow.Flow{
			Orig: flow.MakeICMP(flow.ProtoICMP, client, server, 8, 0, 77),
			Has:  flow.HasStatus | flow.HasTimeout | flow.HasReply, Timeout: 30,
			Status: flow.StatusSeenReply | flow.StatusConfirmed,
		}
		icmp.Reply = icmp.Orig.Inverse()
		icmp6 := icmp
		icmp6.Orig = flow.MakeICMP(flow.ProtoICMPv6, six1, six2, 128, 0, 78)
		icmp6.Reply = icmp6.Orig.Inverse()
		marked := established(client, server, 1002, 80)
		marked.Mark, marked.Has = 7, marked.Has|flow.HasMark
		marked.TCP.WScaleOrig, marked.TCP.WScaleReply = 7, 9
		marked.Has |= flow.HasTCPWScaleOrig | flow.HasTCPWScaleReply
		zoned := established(client, server, 1003, 80)
		zoned.Zone, zoned.Has = 5, zoned.Has|flow.HasZone
		flows := []flow.Flow{
			established(client, server, 1001, 80), marked, zoned,
			translated(client, server, nat, 1004, 80, 50004),
			translated(six1, six2, sixNAT, 1005, 80, 50005), icmp, icmp6,
		}
		if done := upsert(t, c, flows...); done.Created != len(flows) || len(done.Failed) != 0 {
			t.Fatalf("%+v", done)
		}
		have := dump(t, c)
		for _, f := range flows {
			h, ok := have[f.Key()]
			if !ok {
				t.Errorf("%v is not in the table", f.Orig)
				continue
			}
			const nats = flow.StatusSrcNAT | flow.StatusDstNAT
			if h.Reply != f.Reply || h.Mark != f.Mark || h.TCP.State != f.TCP.State || h.Zone != f.Zone ||
				h.TCP.WScaleOrig != f.TCP.WScaleOrig || h.TCP.WScaleReply != f.TCP.WScaleReply ||
				h.Status&nats != f.Status&nats || h.Has&flow.HasNAT != f.Has&flow.HasNAT {
				t.Errorf("wrote\n%+v\nthe table has\n%+v", f, h)
			}
			if f.Orig.Proto == flow.ProtoTCP && h.TCP.FlagsOrig&h.TCP.FlagsReply&tcpFlagBeLiberal == 0 {
				t.Errorf("%v is not tracked liberally: flags %#x and %#x", f.Orig, h.TCP.FlagsOrig, h.TCP.FlagsReply)
			}
		}
	})
}

// table is what a Conn and the fake have in common here.
type table interface {
	Events(ctx context.Context, fn func(batch []flow.Event, err error)) error
	Apply(ctx context.Context, batch []flow.Change) (flow.Applied, error)
	DumpExpects(ctx context.Context, fn func([]flow.Expect) error) error
	ApplyExpects(ctx context.Context, batch []flow.ExpectChange) (flow.Applied, error)
}

// collect gathers events until stop says that the last one came.
func collect(t *testing.T, c table, stop func(flow.Event) bool) []flow.Event {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var all []flow.Event
	ended := false
	_ = c.Events(ctx, func(batch []flow.Event, err error) {
		if err != nil {
			t.Errorf("events: %v", err)
		}
		all = append(all, batch...)
		for _, e := range batch {
			if stop(e) {
				ended = true
				cancel()
			}
		}
	})
	if !ended {
		t.Errorf("the last event did not come; %d came", len(all))
	}
	return all
}

func TestExistingFlowsAreUpdatedInPlace(t *testing.T) {
	inNetns(t, func() {
		c := open(t)
		f := translated(client, server, nat, 1004, 80, 50004)
		upsert(t, c, f)
		f.TCP.State, f.Timeout = flow.TCPFinWait, 100
		f.Mark, f.Has = 9, f.Has|flow.HasMark
		if done := upsert(t, c, f); done.Updated != 1 || done.Recreated+done.Created+len(done.Failed) != 0 {
			t.Fatalf("%+v", done)
		}
		h := dump(t, c)[f.Key()]
		if h.TCP.State != flow.TCPFinWait || h.Mark != 9 || h.Timeout > 100 || h.Status&flow.StatusSrcNAT == 0 {
			t.Fatalf("after the update: %+v", h)
		}
		last := established(client, server, 2000, 80)
		upsert(t, c, last)
		for _, e := range collect(t, c, func(e flow.Event) bool { return e.Flow.Orig == last.Orig }) {
			if e.Type == flow.EventDestroy || !e.Own {
				t.Errorf("event %v of %v, own %v", e.Type, e.Flow.Orig, e.Own)
			}
		}
	})
}

// TestBirthsUnheard: what is born while nobody listens is heard of when it changes
// and when it ends.
func TestBirthsUnheard(t *testing.T) {
	inNetns(t, func() {
		c := open(t)
		hear := func(wanted bool) {
			if come, err := c.Births(wanted); err != nil || come != wanted {
				t.Fatalf("births wanted %v, come %v, %v", wanted, come, err)
			}
		}
		hear(false)
		quiet := established(client, server, 1200, 80)
		upsert(t, c, quiet)
		run(t, "conntrack", "-U", "-p", "tcp", "--orig-src", client.String(), "--mark", "7")
		hear(true)
		last := established(client, server, 2000, 80)
		upsert(t, c, last)
		run(t, "conntrack", "-D", "-p", "tcp", "--orig-port-src", "1200", "--orig-src", client.String())
		var said []flow.EventType
		for _, e := range collect(t, c, func(e flow.Event) bool { return e.Type == flow.EventDestroy }) {
			if e.Flow.Orig == quiet.Orig {
				said = append(said, e.Type)
			}
		}
		if !slices.Equal(said, []flow.EventType{flow.EventUpdate, flow.EventDestroy}) {
			t.Errorf("of a flow born unheard: %v", said)
		}
	})
}

// TestSynproxyOfZerosIsNone: the kernel gives every flow made over ctnetlink one.
func TestSynproxyOfZerosIsNone(t *testing.T) {
	inNetns(t, func() {
		c := open(t)
		plain, proxied := established(client, server, 1100, 80), established(client, server, 1101, 80)
		proxied.Has |= flow.HasSynproxy
		proxied.Synproxy = flow.Synproxy{ISN: 1, ITS: 2, TSOff: 3}
		upsert(t, c, plain)
		upsert(t, c, proxied)
		table := dump(t, c)
		if h := table[plain.Key()]; h.Has&flow.HasSynproxy != 0 {
			t.Errorf("a plain flow comes back with %+v", h.Synproxy)
		}
		if h := table[proxied.Key()]; h.Has&flow.HasSynproxy == 0 || h.Synproxy != proxied.Synproxy {
			t.Errorf("a proxied flow comes back with %+v", h.Synproxy)
		}
	})
}

// TestTranslatedIdentifier: two hosts ping with the same identifier, and one of
// them is given another behind the translation.
func TestTranslatedIdentifier(t *testing.T) {
	inNetns(t, func() {
		c := open(t)
		f := flow.Flow{Orig: flow.MakeICMP(flow.ProtoICMP, client, server, 8, 0, 77),
			Has: flow.HasStatus | flow.HasTimeout | flow.HasReply, Timeout: 30,
			Status: flow.StatusSeenReply | flow.StatusConfirmed | flow.StatusSrcNAT | flow.StatusSrcNATDone | flow.StatusDstNATDone}
		f.Reply = f.Orig.Inverse()
		f.Reply.SetDst(nat)
		f.Reply.Sport = 4711
		f.SetNAT()
		for i, want := range []flow.Applied{{Created: 1}, {Updated: 1}} {
			if done := upsert(t, c, f); done.Created != want.Created || done.Updated != want.Updated || len(done.Failed) > 0 {
				t.Errorf("%d: %+v", i, done)
			}
		}
		if got := dump(t, c)[f.Key()]; got.Reply != f.Reply || got.Status&flow.StatusSrcNAT == 0 {
			t.Errorf("reply %v, status %#x, want %v", got.Reply, got.Status, f.Reply)
		}
	})
}

// TestMarkIsCleared: a flow without a mark takes away the one that stands.
func TestMarkIsCleared(t *testing.T) {
	inNetns(t, func() {
		c := open(t)
		f := established(client, server, 1000, 80)
		f.Mark, f.Has = 7, f.Has|flow.HasMark
		upsert(t, c, f)
		got, err := c.Get(t.Context(), []flow.Key{f.Key(), {Tuple: f.Reply}, {Tuple: f.Orig, Zone: 3}})
		if err != nil || len(got) != 1 || got[0].Mark != 7 {
			t.Fatalf("%+v, %v", got, err)
		}
		f.Mark, f.Has = 0, f.Has&^flow.HasMark
		if done := upsert(t, c, f); done.Updated != 1 {
			t.Fatalf("%+v", done)
		}
		if got := dump(t, c)[f.Key()]; got.Mark != 0 {
			t.Errorf("mark %d", got.Mark)
		}
	})
}

// TestGREIsUpdatedInPlace although its timeout is fixed.
func TestGREIsUpdatedInPlace(t *testing.T) {
	inNetns(t, func() {
		c := open(t)
		f := flow.Flow{Orig: flow.MakeTuple(flow.ProtoGRE, client, server, 0, 0),
			Has: flow.HasStatus | flow.HasTimeout | flow.HasReply, Timeout: 30, Status: flow.StatusConfirmed}
		f.Reply = f.Orig.Inverse()
		upsert(t, c, f)
		f.Status |= flow.StatusSeenReply | flow.StatusAssured
		if done := upsert(t, c, f); done.Updated != 1 || done.Recreated != 0 {
			t.Errorf("%+v", done)
		}
		if got := dump(t, c)[f.Key()]; got.Status&flow.StatusAssured == 0 || got.Timeout < 3600 {
			t.Errorf("status %#x, timeout %d", got.Status, got.Timeout)
		}
	})
}

func TestAnotherTranslationIsRecreated(t *testing.T) {
	inNetns(t, func() {
		c := open(t)
		upsert(t, c, translated(client, server, nat, 1004, 80, 50004))
		f := translated(client, server, nat, 1004, 80, 50009)
		if done := upsert(t, c, f); done.Recreated != 1 || len(done.Failed) != 0 {
			t.Fatalf("%+v", done)
		}
		if h := dump(t, c)[f.Key()]; h.Reply != f.Reply {
			t.Fatalf("reply %v, want %v", h.Reply, f.Reply)
		}
	})
}

func TestStrayEntryInOurReplyTupleGivesWay(t *testing.T) {
	inNetns(t, func() {
		c := open(t)
		f := translated(client, server, nat, 1004, 80, 50004)
		stray := established(server, nat, 80, 50004) // begins as our reply
		upsert(t, c, stray)
		if done := upsert(t, c, f); done.Created != 1 || len(done.Failed) != 0 {
			t.Fatalf("%+v", done)
		}
		have := dump(t, c)
		if _, there := have[stray.Key()]; there || have[f.Key()].Reply != f.Reply {
			t.Fatalf("the table has %v", have)
		}
	})
}

func TestRefusalsHaveReasons(t *testing.T) {
	inNetns(t, func() {
		c := open(t)
		taken := translated(client, server, nat, 1004, 80, 50004)
		upsert(t, c, taken)
		clash := translated(netip.MustParseAddr("10.1.0.11"), server, nat, 1004, 80, 50004)
		orphan := established(client, server, 1005, 80)
		orphan.Master, orphan.Has = flow.MakeTuple(flow.ProtoTCP, client, server, 9, 21), orphan.Has|flow.HasMaster
		broken := established(client, server, 1006, 80)
		broken.TCP.State = 200
		fine := established(client, server, 1007, 80)
		helped := established(client, server, 1008, 80)
		helped.Helper, helped.Has = flow.MakeHelper("nosuch"), helped.Has|flow.HasHelper
		done := upsert(t, c, clash, orphan, broken, fine, helped)
		got := map[int]flow.Reason{}
		for _, f := range done.Failed {
			got[f.Index] = f.Reason
		}
		want := map[int]flow.Reason{0: flow.ReasonClash, 1: flow.ReasonNoMaster, 2: flow.ReasonInvalid}
		for i, r := range want {
			if got[i] != r {
				t.Errorf("change %d: %v, want %v", i, got[i], r)
			}
		}
		if len(got) != len(want) || done.Created != 2 {
			t.Errorf("%+v", done)
		}
		if _, ok := dump(t, c)[helped.Key()]; !ok {
			t.Error("a flow whose helper is unknown is worth keeping")
		}
	})
}

func TestDelete(t *testing.T) {
	inNetns(t, func() {
		c := open(t)
		f := established(client, server, 1001, 80)
		upsert(t, c, f)
		h := dump(t, c)[f.Key()]
		wrong := h
		wrong.ID++
		done, err := c.Apply(context.Background(), []flow.Change{{Op: flow.Delete, Flow: wrong}})
		if err != nil || done.Deleted != 0 || len(done.Failed) != 0 || len(dump(t, c)) != 1 {
			t.Fatalf("another flow's id: %+v, %v", done, err)
		}
		done, err = c.Apply(context.Background(), []flow.Change{{Op: flow.Delete, Flow: h}, {Op: flow.Delete, Flow: h}})
		if err != nil || done.Deleted != 1 || len(done.Failed) != 0 || len(dump(t, c)) != 0 {
			t.Fatalf("%+v, %v", done, err)
		}
	})
}

func TestHundredThousand(t *testing.T) {
	inNetns(t, func() {
		c := open(t)
		flows := make([]flow.Flow, 100_000)
		for i := range flows {
			src := netip.AddrFrom4([4]byte{10, byte(i >> 14), byte(i >> 7 & 127), byte(i&127 + 1)})
			flows[i] = established(src, server, 1000, 80)
		}
		if done := upsert(t, c, flows...); done.Created != len(flows) {
			t.Fatalf("created %d, %d failed", done.Created, len(done.Failed))
		}
		have := dump(t, c)
		for i := range flows {
			if h := have[flows[i].Key()]; h.Reply != flows[i].Reply {
				t.Fatalf("%v: %v", flows[i].Orig, h.Reply)
			}
		}
		if len(have) != len(flows) {
			t.Fatalf("%d entries", len(have))
		}
	})
}

func TestOverrunIsReported(t *testing.T) {
	inNetns(t, func() {
		c := open(t)
		if _, err := c.SetEventBuffer(32 << 10); err != nil {
			t.Fatal(err)
		}
		flows := make([]flow.Flow, 5000)
		for i := range flows {
			flows[i] = established(client, server, uint16(i+1), 80)
		}
		upsert(t, c, flows...)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		overrun, events := false, 0
		_ = c.Events(ctx, func(batch []flow.Event, err error) {
			events += len(batch)
			overrun = overrun || err == flow.ErrOverrun
			if overrun && events > 0 {
				cancel()
			}
		})
		if !overrun || events == 0 {
			t.Fatalf("overrun %v, %d events after it", overrun, events)
		}
	})
}
