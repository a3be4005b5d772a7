package engine

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// wireLink keeps what is sent in buffers of its own until it is pumped.
type wireLink struct {
	Link
	bufs [][]byte
	used int
}

func (l *wireLink) Send(batch [][]byte) error {
	for _, d := range batch {
		if l.used == len(l.bufs) {
			l.bufs = append(l.bufs, nil)
		}
		l.bufs[l.used] = append(l.bufs[l.used][:0], d...)
		l.used++
	}
	return nil
}

func (l *wireLink) MaxPayload() int      { return 1472 }
func (l *wireLink) SetPrompt(bool)       {}
func (l *wireLink) Drain()               {}
func (l *wireLink) Stats() stats.Channel { return stats.Channel{} }

// bench is two engines without kernel and clock: what happens is what the test
// does. The one goroutine there is, that of a full copy when they meet, has ended
// before anything is measured.
type bench struct {
	clock atomic.Int64
	ends  [2]*Engine
	links [2]*wireLink
	addrs [2]netip.AddrPort
	from  [64]netip.AddrPort
	batch []flow.Event
}

func newBench(tb testing.TB, native bool) *bench {
	b := &bench{}
	b.clock.Store(1_000_000 * int64(time.Second))
	protocol := conf.ProtocolConntrackd
	if native {
		protocol = conf.ProtocolNative
	}
	for i := range b.ends {
		e := New(Options{Now: b.now})
		b.links[i] = &wireLink{}
		b.addrs[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 3780)
		e.link, e.fill.done, e.own.on = b.links[i], true, native
		e.settings = &settings{}
		e.settings.McastGroup = conf.DefaultMcastGroup
		e.settings.Interfaces = []conf.Interface{{Name: "eth0", Protocol: protocol}}
		e.fill.ended = b.now().Add(1000 * time.Hour) // no audits
		e.filter = newFilter(e.settings, nil, nil, nil)
		b.ends[i] = e
	}
	b.ends[0].role, b.ends[1].role = "MASTER", "BACKUP"
	for range 40 { // they meet
		b.step()
	}
	if len(b.ends[0].own.session.Peers()) == 0 && native || !native && !b.ends[0].session.Alive(b.now()) {
		tb.Fatal("the engines have not met")
	}
	for b.ends[0].copying() || b.ends[1].copying() {
		time.Sleep(copyPause)
		b.step()
	}
	return b
}

func (b *bench) now() time.Time { return time.Unix(0, b.clock.Load()) }

// step lets a tick pass on both and delivers what they say.
func (b *bench) step() {
	b.clock.Add(int64(tickEvery))
	for _, e := range b.ends {
		e.tick()
	}
	b.pump()
	b.pump()
}

// pump delivers what was sent on either end to the other.
func (b *bench) pump() {
	for i := range b.ends {
		l := b.links[i]
		b.ends[i].mu.Lock() // under it the engine sends
		for first := 0; first < l.used; {
			n := min(l.used-first, len(b.from))
			for k := range n {
				b.from[k] = b.addrs[i]
			}
			b.ends[1-i].onDatagrams(l.bufs[first:first+n], b.from[:n])
			first += n
		}
		l.used = 0
		b.ends[i].mu.Unlock()
	}
}

// event is the next of a batch.
func (b *bench) event(t flow.EventType, i int, state uint8) {
	f := flow.Flow{Orig: flow.MakeTuple(flow.ProtoTCP, netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}),
		netip.AddrFrom4([4]byte{203, 0, 113, 10}), 1000, 80)}
	f.Reply = f.Orig.Inverse()
	f.Has = flow.HasReply | flow.HasStatus | flow.HasTimeout | flow.HasTCPState | flow.HasID
	f.Status, f.Timeout, f.TCP.State, f.ID = flow.StatusConfirmed, 100, state, uint32(i+1)
	b.batch = append(b.batch, flow.Event{Type: t, Flow: f})
}

// capture hands the batch to the active.
func (b *bench) capture() {
	b.clock.Add(int64(time.Millisecond))
	b.ends[0].onEvents(b.batch, nil)
	b.batch = b.batch[:0]
	b.pump()
}

// lives lets n flows be born, change twice and end, each in a batch of its own.
func (b *bench) lives(first, n int) {
	for step, t := range []flow.EventType{flow.EventNew, flow.EventUpdate, flow.EventUpdate, flow.EventDestroy} {
		for i := range n {
			b.event(t, first+i, uint8(1+step))
		}
		b.capture()
	}
}

// standing lets n flows be born that stay.
func (b *bench) standing(n int) {
	for i := range n {
		b.event(flow.EventNew, 1<<20+i, flow.TCPEstablished)
		if len(b.batch) == 256 {
			b.capture()
		}
	}
	b.capture()
	b.step()
}

func protocols(native bool) string {
	if native {
		return "native"
	}
	return "conntrackd"
}

// TestNothingIsAllocatedPerFlow: from a kernel's event to the peer's cache, and with
// the peer's reports, in both protocols.
func TestNothingIsAllocatedPerFlow(t *testing.T) {
	for _, native := range []bool{true, false} {
		t.Run(protocols(native), func(t *testing.T) {
			b := newBench(t, native)
			b.standing(1000)
			const n = 200
			life := func() { b.lives(0, n) }
			for range 300 { // queues grow to their size
				life()
				b.step()
			}
			if got := testing.AllocsPerRun(50, life); got > 0 {
				t.Errorf("%v allocations for the lives of %d flows", got, n)
			}
			if in, ex := b.ends[0].internal.Len(), b.ends[1].external.Len(); in != 1000 || ex != 1000 {
				t.Errorf("%d entries at the active, %d at the standby, want 1000", in, ex)
			}
		})
	}
}

// BenchmarkLife is a flow's whole way: born, changed twice and ended on the active, in
// the standby's cache each time.
func BenchmarkLife(b *testing.B) {
	for _, native := range []bool{true, false} {
		b.Run(protocols(native), func(b *testing.B) {
			x := newBench(b, native)
			x.standing(100_000)
			const n = 100
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i%n == 0 {
					x.lives(i%(1<<19), n)
				}
				if i%10_000 == 0 {
					x.step()
				}
			}
		})
	}
}

// BenchmarkManyFlows is a change of one of many flows, on the active and in the
// standby's cache: none is where the processor had it last.
func BenchmarkManyFlows(b *testing.B) {
	x := newBench(b, true)
	const n = 1 << 18
	x.standing(n)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		x.event(flow.EventUpdate, 1<<20+i*40503%n, uint8(flow.TCPEstablished+i/n%2))
		if len(x.batch) == 256 {
			x.capture()
		}
		if i%10_000 == 0 {
			x.step()
		}
	}
}
