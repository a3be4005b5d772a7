// Package native is the session of our own protocol as a pure state machine, for
// any number of nodes on a link: datagrams are numbered by their sender, every
// receiver reports what arrived and what is missing, and what is missing is sent
// again with its content of that moment under a new number. It opens no socket,
// starts no goroutine and reads no clock, and never looks into a flow.
//
// A datagram that was overtaken is dropped: its content may be older than what
// arrived since. Reports need no acknowledgement of their own: a sender that finds
// a hole between two reports of a peer takes everything in it for missing. A
// peer that is slow holds what it has not reported, up to ResendLimit messages; one
// that is silent holds nothing.
//
// A Session belongs to one goroutine at a time.
package native

import (
	"maps"
	"slices"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// Numbers of the protocol.
const (
	ResendLimit  = 1 << 17                // messages kept until every live peer reported them
	DeadAfter    = 3 * time.Second        // silence that makes a peer count as gone
	ForgetAfter  = 10 * time.Minute       // silence after which it is forgotten
	reportEvery  = 64                     // datagrams with content received before a report goes out
	reportWithin = 250 * time.Millisecond // and how long one waits at most
	rangesMax    = 64                     // missing ranges a report names one by one
	farAway      = 1 << 24                // a number further off is not believed
	lagSamples   = 512
)

// Item is a message that may have to be sent again.
type Item struct {
	Type wire.MsgType
	Key  flow.Key
}

// Counters of a session; they only grow.
type Counters struct {
	Lost     uint64 // datagrams missing, each once for each receiver that missed it
	Late     uint64 // overtaken or repeated, dropped
	Far      uint64 // numbers too far away to be believed, dropped
	Reports  uint64 // sent
	Holes    uint64 // reports that must have been lost
	Resent   uint64 // messages sent again
	Overflow uint64 // messages forgotten before every live peer reported them
}

// Peer is another node on the link, or rather one life of it: a node that
// restarts is another peer.
type Peer struct {
	ID    uint64
	Heard time.Time

	next      uint32 // number of its that is expected
	from      uint32 // first number not reported
	missing   []wire.Range
	due       bool      // a report is to go out now
	unsaid    int       // datagrams with content since the last report
	unsaidAt  time.Time // the first of them
	reporting bool      // it has reported on ours
	covered   uint32    // first number of ours it has not reported
	lags      []time.Duration
	lag       int // where the next sample goes
}

// Session is one node's end. Make one with New.
type Session struct {
	Counters Counters
	ID       uint64

	seq    uint32 // number of the next datagram
	grams  ring[datagram]
	items  ring[Item]
	peers  []*Peer
	report wire.Report
	resend []Item

	ended     map[uint64]time.Time // lives that are over, and since when
	inhabited time.Time            // when somebody was last heard, or the start
}

// datagram is what was sent under one number.
type datagram struct {
	seq   uint32
	first uint64 // of its items
	n     uint32 // items left to be sent again
	at    time.Time
}

// New makes a session of a node that calls itself id, which must be chosen at
// random at each start; its first datagram has the number seq.
func New(id uint64, seq uint32) *Session {
	return &Session{ID: id, seq: seq, ended: map[uint64]time.Time{}}
}

// Next is the number of the next datagram.
func (s *Session) Next() uint32 { return s.seq }

// Sent books the datagram Next as sent with these messages in it.
func (s *Session) Sent(now time.Time, items []Item) {
	g := datagram{seq: s.seq, first: s.items.tail, n: uint32(len(items)), at: now}
	s.seq++
	if s.deserted(now) {
		s.clear() // nobody who could ask for it
		return
	}
	for _, it := range items {
		s.items.push(it)
	}
	s.grams.push(g)
	for s.items.len() > ResendLimit || s.grams.len() > ResendLimit {
		s.Counters.Overflow += uint64(s.dropOldest())
	}
}

func (s *Session) clear() {
	s.grams.drop(s.grams.tail)
	s.items.drop(s.items.tail)
}

// dropOldest forgets a datagram and returns how many messages that cost.
func (s *Session) dropOldest() (n uint32) {
	g := s.grams.at(s.grams.head)
	n = g.n
	s.grams.drop(s.grams.head + 1)
	if s.grams.len() == 0 {
		s.items.drop(s.items.tail)
	} else {
		s.items.drop(s.grams.at(s.grams.head).first)
	}
	return n
}

// Verdict is what is to be done with a datagram.
type Verdict uint8

// What Receive says.
const (
	Drop Verdict = iota
	Take         // its messages count
	Meet         // they do, and its sender was not known before
)

// Receive takes the head of a datagram and returns its sender; nil for our own
// and for those that are not believed.
func (s *Session) Receive(now time.Time, f *wire.Frame) (*Peer, Verdict) {
	if f.Sender == s.ID {
		return nil, Drop
	}
	if at, over := s.ended[f.Sender]; over && now.Sub(at) <= DeadAfter {
		s.Counters.Late++
		return nil, Drop
	}
	p := s.Peer(f.Sender)
	if p == nil {
		p = &Peer{ID: f.Sender, Heard: now, next: f.Seq + 1, from: f.Seq, lags: make([]time.Duration, 0, lagSamples)}
		s.peers = append(s.peers, p)
		p.demand(now, f)
		return p, Meet
	}
	switch d := int32(f.Seq - p.next); {
	case d >= farAway || d <= -farAway:
		s.Counters.Far++
		return nil, Drop
	case d < 0:
		s.Counters.Late++
		return nil, Drop
	case d > 0:
		s.Counters.Lost += uint64(d)
		p.missing = append(p.missing, wire.Range{From: p.next, To: f.Seq - 1})
		p.due = true
	}
	p.Heard = now
	p.next = f.Seq + 1
	p.demand(now, f)
	return p, Take
}

// demand sees to it that a datagram that asks for a report gets one.
func (p *Peer) demand(now time.Time, f *wire.Frame) {
	if f.Flags&wire.FlagProbe != 0 {
		p.due = true
	}
	if f.Flags&wire.FlagContent == 0 {
		return
	}
	if p.unsaid++; p.unsaid == 1 {
		p.unsaidAt = now
	}
	p.due = p.due || p.unsaid >= reportEvery
}

// Peer returns the peer with this id, nil when it is not known.
func (s *Session) Peer(id uint64) *Peer {
	for _, p := range s.peers {
		if p.ID == id {
			return p
		}
	}
	return nil
}

// Peers are all that are known, in the order in which they were met.
func (s *Session) Peers() []*Peer { return s.peers }

// Alive reports whether the peer was heard lately.
func (p *Peer) Alive(now time.Time) bool { return now.Sub(p.Heard) <= DeadAfter }

// deserted reports whether nobody has been heard for so long that nothing need
// be kept. At the start somebody may be there who was not heard yet.
func (s *Session) deserted(now time.Time) bool {
	if s.inhabited.IsZero() || s.anyLive(now) {
		s.inhabited = now
	}
	return now.Sub(s.inhabited) > DeadAfter
}

func (s *Session) anyLive(now time.Time) bool {
	return slices.ContainsFunc(s.peers, func(p *Peer) bool { return p.Alive(now) })
}

// Forget drops a peer that has begun another life: what is still on its way of this
// one is not believed.
func (s *Session) Forget(now time.Time, id uint64) {
	if s.Peer(id) != nil {
		s.ended[id] = now
	}
	s.peers = slices.DeleteFunc(s.peers, func(p *Peer) bool { return p.ID == id })
}

// Due calls fn with each report that is to go out now; with all also with those
// that could wait. fn must not keep it.
func (s *Session) Due(now time.Time, all bool, fn func(r *wire.Report)) {
	for _, p := range s.peers {
		if !p.due && !(p.unsaid > 0 && now.Sub(p.unsaidAt) >= reportWithin) && !(all && p.from != p.next) {
			continue
		}
		s.report = wire.Report{To: p.ID, From: p.from, Upto: p.next - 1, Missing: p.missing}
		if len(p.missing) > rangesMax {
			// Too many holes to name: the whole stretch is called missing.
			s.report.Missing = []wire.Range{{From: p.missing[0].From, To: p.missing[len(p.missing)-1].To}}
		}
		s.Counters.Reports++
		fn(&s.report)
		p.from, p.missing, p.due, p.unsaid = p.next, p.missing[:0], false, 0
	}
}

// Reported takes a peer's report on our datagrams. It returns what must be sent
// again, valid until the next call.
func (s *Session) Reported(now time.Time, p *Peer, r *wire.Report) []Item {
	s.resend = s.resend[:0]
	if int32(r.Upto-s.seq) >= 0 || int32(r.Upto-r.From) < 0 {
		s.Counters.Far++ // of numbers that were not given yet
		return nil
	}
	if !p.reporting {
		// What was sent before it heard us for the first time is missing too, as
		// far as it is kept.
		p.reporting, p.covered = true, r.From
		if s.grams.len() > 0 {
			if oldest := s.grams.at(s.grams.head).seq; int32(r.From-oldest) > 0 {
				p.covered = oldest
			}
		}
	}
	if int32(r.Upto+1-p.covered) <= 0 {
		return nil // said before
	}
	if int32(r.From-p.covered) > 0 {
		s.Counters.Holes++
		s.again(p.covered, r.From-1)
	}
	for _, m := range r.Missing {
		s.again(m.From, m.To)
	}
	p.covered = r.Upto + 1
	if g := s.gram(r.Upto); g != nil {
		p.sample(now.Sub(g.at))
	}
	s.trim(now)
	return s.resend
}

// gram finds the datagram with this number, nil when it is forgotten.
func (s *Session) gram(seq uint32) *datagram {
	if s.grams.len() == 0 {
		return nil
	}
	i := int32(seq - s.grams.at(s.grams.head).seq)
	if i < 0 || int(i) >= s.grams.len() {
		return nil
	}
	return s.grams.at(s.grams.head + uint64(i))
}

// again collects the messages of the datagrams from..to, each once.
func (s *Session) again(from, to uint32) {
	if s.grams.len() == 0 {
		return
	}
	if oldest := s.grams.at(s.grams.head).seq; int32(from-oldest) < 0 {
		from = oldest
	}
	for seq := from; int32(to-seq) >= 0; seq++ {
		g := s.gram(seq)
		if g == nil {
			return
		}
		for i := range uint64(g.n) {
			s.resend = append(s.resend, *s.items.at(g.first + i))
		}
		s.Counters.Resent += uint64(g.n)
		g.n = 0
	}
}

// trim forgets what every live peer has reported. One that has never reported
// holds nothing: it has been here for too short a time.
func (s *Session) trim(now time.Time) {
	least, some := s.seq, false
	for _, p := range s.peers {
		if p.Alive(now) && p.reporting {
			some = true
			if int32(p.covered-least) < 0 {
				least = p.covered
			}
		}
	}
	if !some {
		return
	}
	for s.grams.len() > 0 && int32(s.grams.at(s.grams.head).seq-least) < 0 {
		s.dropOldest()
	}
}

// Tick does what time makes necessary; call it some times a second.
func (s *Session) Tick(now time.Time) {
	s.peers = slices.DeleteFunc(s.peers, func(p *Peer) bool { return now.Sub(p.Heard) > ForgetAfter })
	maps.DeleteFunc(s.ended, func(_ uint64, at time.Time) bool { return now.Sub(at) > DeadAfter })
	if s.deserted(now) {
		s.clear()
	}
	s.trim(now)
}

// Behind is the number of messages the peer has not reported.
func (s *Session) Behind(p *Peer) (n int) {
	for i := s.grams.head; i != s.grams.tail; i++ {
		if g := s.grams.at(i); int32(g.seq-p.covered) >= 0 {
			n += int(g.n)
		}
	}
	return n
}

// Since is when the oldest message was sent that the peer has not reported; zero
// when it has reported all.
func (s *Session) Since(p *Peer) time.Time {
	for i := s.grams.head; i != s.grams.tail; i++ {
		if g := s.grams.at(i); g.n > 0 && int32(g.seq-p.covered) >= 0 {
			return g.at
		}
	}
	return time.Time{}
}

// Waits reports whether the peer has not reported a message about the flow.
func (s *Session) Waits(p *Peer, k *flow.Key) bool {
	for i := s.grams.head; i != s.grams.tail; i++ {
		g := s.grams.at(i)
		if int32(g.seq-p.covered) < 0 {
			continue
		}
		for n := range uint64(g.n) {
			if s.items.at(g.first+n).Key == *k {
				return true
			}
		}
	}
	return false
}

// Covered reports whether the peer has reported everything before the number.
func (p *Peer) Covered(seq uint32) bool { return p.reporting && int32(p.covered-seq) >= 0 }

// Whole reports whether nothing of the peer's is known to be missing that was
// not reported yet.
func (p *Peer) Whole() bool { return len(p.missing) == 0 }

func (p *Peer) sample(d time.Duration) {
	if len(p.lags) < lagSamples {
		p.lags = append(p.lags, d)
		return
	}
	p.lags[p.lag] = d
	p.lag = (p.lag + 1) % lagSamples
}

// Lag returns how long it took until the peer said that it had applied a
// datagram, the median and the 99th percentile of the last reports; zero when
// there were none.
func (p *Peer) Lag() (p50, p99 time.Duration) {
	if len(p.lags) == 0 {
		return 0, 0
	}
	sorted := slices.Sorted(slices.Values(p.lags))
	return sorted[len(sorted)/2], sorted[len(sorted)*99/100]
}

// Held is the number of messages kept for peers that have not reported them.
func (s *Session) Held() int { return s.items.len() }

// Expected is the number of the peer's next datagram.
func (s *Session) Expected(p *Peer) uint32 { return p.next }

// TakeHeld hands over what not every peer has reported and forgets it: the
// protocol changes.
func (s *Session) TakeHeld(fn func(Item)) {
	for i := s.grams.head; i != s.grams.tail; i++ {
		g := s.grams.at(i)
		for k := range uint64(g.n) {
			fn(*s.items.at(g.first + k))
		}
	}
	s.clear()
}
