package native

import (
	"fmt"
	"maps"
	"math"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
	"pgregory.net/rapid"
)

// The model: one node owns a table of numbered things and tells of each change;
// others keep a view of it. A datagram carries the things' values of the moment
// it is sent. The link loses, repeats and overtakes.

type thing struct {
	key   uint16
	value int // 0: gone
}

type packet struct {
	frame  wire.Frame
	things []thing
	report *wire.Report
}

type node struct {
	*Session
	view map[uint16]int
	wait []packet // on their way to it
}

type world struct {
	t     *rapid.T
	now   time.Time
	owner *node
	nodes []*node // all, the owner first
	truth map[uint16]int
	queue []uint16 // changed and not sent
	value int
	lives int
	// owners says of each life that began whether it was the owner's.
	owners map[uint64]bool
}

func newWorld(t *rapid.T, nodes int, seq uint32) *world {
	w := &world{t: t, now: time.Unix(1000, 0), truth: map[uint16]int{}, owners: map[uint64]bool{1: true}}
	for i := range nodes {
		w.nodes = append(w.nodes, &node{Session: New(uint64(i+1), seq), view: map[uint16]int{}})
	}
	w.owner = w.nodes[0]
	return w
}

func key(k uint16) flow.Key { return flow.Key{Zone: k} }

// send puts a packet on its way to everybody else.
func (w *world) send(n *node, p packet, items []Item) {
	p.frame.Seq, p.frame.Sender = n.Next(), n.ID
	n.Sent(w.now, items)
	for _, to := range w.nodes {
		if to != n {
			to.wait = append(to.wait, p)
		}
	}
}

func (w *world) change(k uint16, gone bool) {
	w.value++
	w.truth[k] = w.value
	if gone {
		w.truth[k] = 0
	}
	w.queue = append(w.queue, k)
}

// flush sends what changed, a few things a datagram.
func (w *world) flush() {
	for len(w.queue) > 0 {
		n := min(3, len(w.queue))
		p, items := packet{frame: wire.Frame{Flags: wire.FlagContent}}, []Item{}
		for _, k := range w.queue[:n] {
			p.things = append(p.things, thing{k, w.truth[k]})
			items = append(items, Item{Type: wire.MsgFlow, Key: key(k)})
		}
		w.queue = w.queue[n:]
		w.send(w.owner, p, items)
	}
}

func (w *world) reports(n *node, all bool) {
	n.Due(w.now, all, func(r *wire.Report) {
		c := *r
		c.Missing = append([]wire.Range(nil), r.Missing...)
		w.send(n, packet{report: &c}, nil)
	})
}

// arrive delivers the i-th packet that is on its way to n.
func (w *world) arrive(n *node, i int, keep bool) {
	p := n.wait[i]
	if !keep {
		n.wait = append(n.wait[:i:i], n.wait[i+1:]...)
	}
	from, verdict := n.Receive(w.now, &p.frame)
	if verdict == Drop {
		return
	}
	if verdict == Meet {
		w.meet(n, p.frame.Sender)
	}
	for _, x := range p.things {
		n.view[x.key] = x.value
	}
	if p.report != nil && p.report.To == n.ID {
		for _, it := range n.Reported(w.now, from, p.report) {
			w.queue = append(w.queue, it.Key.Zone)
		}
	}
	if n == w.owner {
		w.flush()
	}
	w.reports(n, false)
}

// restart begins another life of a node, with an empty view. What is on its way to
// it still arrives.
func (w *world) restart(i int) {
	w.lives++
	n := w.nodes[i]
	n.Session = New(uint64(100*w.lives+i+1), uint32(w.lives)*7919)
	n.view = map[uint16]int{}
	w.owners[n.ID] = n == w.owner
	if n == w.owner {
		w.queue = nil
	}
}

// meet is what the engine does, by proof, when a node begins a life: a receiver
// gets a copy, and an owner's earlier table counts no more.
func (w *world) meet(n *node, sender uint64) {
	switch {
	case n == w.owner:
		for k := range w.truth {
			w.queue = append(w.queue, k)
		}
	case w.owners[sender]:
		n.view = map[uint16]int{}
	}
}

// settle lets everything arrive in order until nothing is said but beats.
func (w *world) settle() {
	for range 50 {
		for _, n := range w.nodes {
			for len(n.wait) > 0 {
				w.arrive(n, 0, false)
			}
		}
		w.now = w.now.Add(time.Second)
		for _, n := range w.nodes {
			n.Tick(w.now)
			w.reports(n, true)
			w.send(n, packet{}, nil) // a beat
		}
		w.flush()
	}
}

func (w *world) check() {
	for _, n := range w.nodes[1:] {
		have := maps.Clone(n.view)
		for k, v := range w.truth {
			if have[k] != v {
				w.t.Fatalf("node %d has %d for %d, the truth is %d", n.ID, have[k], k, v)
			}
			delete(have, k)
		}
		if len(have) > 0 {
			w.t.Fatalf("node %d has more: %v", n.ID, have)
		}
	}
}

// TestViewsEndEqual: whatever happens to datagrams, all views are the owner's
// table once the link works again, with two to four nodes and numbers that wrap.
func TestViewsEndEqual(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, rapid.IntRange(2, 4).Draw(t, "nodes"), rapid.SampledFrom([]uint32{0, 7, math.MaxUint32 - 20}).Draw(t, "first"))
		w.settle() // they meet
		t.Repeat(map[string]func(*rapid.T){
			"change": func(t *rapid.T) {
				for range rapid.IntRange(1, 12).Draw(t, "n") {
					w.change(rapid.Uint16Range(0, 30).Draw(t, "key"), rapid.IntRange(0, 3).Draw(t, "gone") == 0)
				}
				w.flush()
			},
			"deliver": func(t *rapid.T) {
				n := w.nodes[rapid.IntRange(0, len(w.nodes)-1).Draw(t, "to")]
				for range rapid.IntRange(1, 10).Draw(t, "n") {
					if len(n.wait) == 0 {
						return
					}
					w.arrive(n, rapid.IntRange(0, min(3, len(n.wait)-1)).Draw(t, "which"), rapid.IntRange(0, 5).Draw(t, "twice") == 0)
				}
			},
			"lose": func(t *rapid.T) {
				n := w.nodes[rapid.IntRange(0, len(w.nodes)-1).Draw(t, "of")]
				for range rapid.IntRange(1, 8).Draw(t, "n") {
					if len(n.wait) > 0 {
						i := rapid.IntRange(0, len(n.wait)-1).Draw(t, "which")
						n.wait = append(n.wait[:i:i], n.wait[i+1:]...)
					}
				}
			},
			"restart": func(t *rapid.T) { w.restart(rapid.IntRange(0, len(w.nodes)-1).Draw(t, "node")) },
			// Not so much of it that anybody counts as gone: what was sent to
			// nobody is found by proof, not by the session.
			"time": func(t *rapid.T) {
				w.now = w.now.Add(time.Duration(rapid.IntRange(1, 25).Draw(t, "ms")) * time.Millisecond)
				for _, n := range w.nodes {
					n.Tick(w.now)
					w.reports(n, rapid.Bool().Draw(t, "beat"))
					w.send(n, packet{}, nil) // a beat
				}
			},
		})
		w.settle()
		w.check()
		for _, p := range w.owner.Peers() {
			if w.owner.Behind(p) != 0 {
				t.Fatalf("node %d is %d behind", p.ID, w.owner.Behind(p))
			}
		}
		if w.owner.grams.len() > 60*len(w.nodes) || w.owner.items.len() > 0 {
			t.Fatalf("%d datagrams and %d messages are held for nobody", w.owner.grams.len(), w.owner.items.len())
		}
	})
}

func frame(sender uint64, seq uint32, flags uint8) *wire.Frame {
	return &wire.Frame{Sender: sender, Seq: seq, Flags: flags}
}

// TestASilentPeerHoldsNothing, a slow one no more than the limit.
func TestASilentPeerHoldsNothing(t *testing.T) {
	now := time.Unix(1000, 0)
	s := New(1, 0)
	items := make([]Item, 50)
	send := func() { s.Sent(now, items) }
	send()
	now = now.Add(DeadAfter + time.Second)
	s.Tick(now)
	if s.items.len() != 0 {
		t.Error("messages are held without a peer")
	}
	fast, _ := s.Receive(now, frame(2, 0, 0))
	slow, _ := s.Receive(now, frame(3, 0, 0))
	send()
	s.Reported(now, fast, &wire.Report{To: 1, From: 1, Upto: 1})
	s.Reported(now, slow, &wire.Report{To: 1, From: 1, Upto: 1})
	for i := range uint32(ResendLimit) {
		send()
		s.Reported(now, fast, &wire.Report{To: 1, From: 2 + i, Upto: 2 + i})
	}
	if s.items.len() > ResendLimit || s.Counters.Overflow == 0 || s.Behind(fast) != 0 || s.Behind(slow) < ResendLimit-50 {
		t.Errorf("%d held, %d behind, overflow %d", s.items.len(), s.Behind(slow), s.Counters.Overflow)
	}
	now = now.Add(DeadAfter + time.Second)
	s.Receive(now, frame(2, 1, 0))
	s.Tick(now)
	if s.items.len() != 0 {
		t.Errorf("%d messages are held for a silent peer", s.items.len())
	}
	now = now.Add(ForgetAfter + time.Second)
	s.Tick(now)
	if len(s.Peers()) != 0 {
		t.Error("peers are remembered for ever")
	}
}

// TestALostReport: what it said is taken for missing.
func TestALostReport(t *testing.T) {
	now := time.Unix(1000, 0)
	s := New(1, 10)
	p, v := s.Receive(now, frame(2, 5, 0))
	if v != Meet {
		t.Fatal(v)
	}
	for i := range uint16(6) {
		s.Sent(now, []Item{{Type: wire.MsgFlow, Key: key(i)}})
	}
	if got := s.Reported(now, p, &wire.Report{To: 1, From: 10, Upto: 11}); len(got) != 0 {
		t.Errorf("again: %v", got)
	}
	got := s.Reported(now, p, &wire.Report{To: 1, From: 14, Upto: 15, Missing: []wire.Range{{From: 15, To: 15}}})
	if fmt.Sprint(len(got), got[0].Key.Zone, got[1].Key.Zone, got[2].Key.Zone) != "3 2 3 5" || s.Counters.Holes != 1 {
		t.Errorf("again: %v, %+v", got, s.Counters)
	}
	if got := s.Reported(now, p, &wire.Report{To: 1, From: 12, Upto: 13}); len(got) != 0 {
		t.Errorf("the overtaken report: %v", got)
	}
	if got := s.Reported(now, p, &wire.Report{To: 1, From: 16, Upto: 99}); got != nil || s.Counters.Far != 1 {
		t.Errorf("a report on what was never sent: %v", got)
	}
}

func TestWhatIsNotBelieved(t *testing.T) {
	now := time.Unix(1000, 0)
	s := New(1, 0)
	if _, v := s.Receive(now, frame(1, 5, 0)); v != Drop {
		t.Error("our own datagram counts")
	}
	s.Receive(now, frame(2, 5, 0))
	for seq, want := range map[uint32]Verdict{6: Take, 5: Drop, 6 + farAway: Drop, math.MaxUint32 - farAway + 6: Drop} {
		if seq == 6 {
			continue
		}
		if _, v := s.Receive(now, frame(2, seq, 0)); v != want {
			t.Errorf("%d: %v", seq, v)
		}
	}
	if s.Counters.Far != 2 || s.Counters.Late != 1 {
		t.Errorf("%+v", s.Counters)
	}
}

// TestAnEarlierLife: what arrives late of a life that is over is not believed; its
// id is forgotten in the end.
func TestAnEarlierLife(t *testing.T) {
	now := time.Unix(1000, 0)
	s := New(1, 0)
	s.Receive(now, frame(2, 5, 0))
	s.Receive(now, frame(3, 7, 0))
	s.Forget(now, 2)
	if p, v := s.Receive(now, frame(2, 6, 0)); p != nil || v != Drop || s.Counters.Late != 1 {
		t.Errorf("%v %v %+v", p, v, s.Counters)
	}
	now = now.Add(DeadAfter + time.Second)
	s.Tick(now)
	if _, v := s.Receive(now, frame(2, 7, 0)); v != Meet || len(s.ended) != 0 {
		t.Error("one that goes on is another node with the same address, and is kept out for ever")
	}
}

// BenchmarkSession is a datagram of forty messages: booked, taken at the other end,
// reported from time to time, and one of twenty lost and asked for again.
func BenchmarkSession(b *testing.B) {
	for name, lost := range map[string]int{"whole": 0, "lossy": 20} {
		b.Run(name, func(b *testing.B) {
			now := time.Unix(1000, 0)
			a, z := New(1, 1), New(2, 1)
			z.Receive(now, &wire.Frame{Sender: 1})
			a.Receive(now, &wire.Frame{Sender: 2})
			items := make([]Item, 40)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				now = now.Add(time.Millisecond)
				f := wire.Frame{Seq: a.Next(), Sender: 1, Flags: wire.FlagContent}
				a.Sent(now, items)
				if lost == 0 || i%lost != 0 {
					z.Receive(now, &f)
				}
				z.Due(now, false, func(r *wire.Report) {
					a.Receive(now, &wire.Frame{Seq: z.Next(), Sender: 2})
					z.Sent(now, nil)
					a.Reported(now, a.Peer(2), r)
				})
			}
			if lost == 0 && a.Held() > 40*2*reportEvery {
				b.Fatalf("%d messages are held", a.Held())
			}
		})
	}
}
