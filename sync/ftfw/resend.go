package ftfw

import (
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// resendQueue holds the messages sent and not yet acknowledged in a ring
// without gaps: a number's place is its distance from the oldest one's. It
// grows on demand up to ResendLimit places.
type resendQueue struct {
	ring []slot // power of two
	head uint32 // number of the oldest place
	n    int    // places in use, dead ones included
	live int    // data messages waiting
}

type slot struct {
	item Item
	live bool
}

// push appends a message and returns how many live ones had to be forgotten
// for it. A control message takes a dead place, so that the numbers stay
// without gaps: what it asked for is asked again by a newer one.
func (q *resendQueue) push(m *Out) (forgotten uint64) {
	if q.n == 0 {
		q.head = m.Seq
	}
	if q.n == ResendLimit {
		if q.at(q.head).live {
			forgotten = 1
			q.live--
		}
		q.head++
		q.n--
		q.trim()
		if q.n == 0 {
			q.head = m.Seq
		}
	}
	if q.n == len(q.ring) {
		q.grow()
	}
	q.n++
	p := q.at(m.Seq)
	*p = slot{}
	if m.Type != wire.Control {
		*p = slot{item: Item{Type: m.Type, Key: m.Key}, live: true}
		q.live++
	}
	return forgotten
}

func (q *resendQueue) grow() {
	ring := make([]slot, max(1024, 2*len(q.ring)))
	for i := range uint32(q.n) {
		ring[(q.head+i)&uint32(len(ring)-1)] = *q.at(q.head + i)
	}
	q.ring = ring
}

func (q *resendQueue) at(seq uint32) *slot { return &q.ring[seq&uint32(len(q.ring)-1)] }

// take frees the live places in from..to and hands each item to fn.
func (q *resendQueue) take(from, to uint32, fn func(Item)) {
	if q.n == 0 {
		return
	}
	if int32(from-q.head) < 0 {
		from = q.head
	}
	if end := q.head + uint32(q.n) - 1; int32(to-end) > 0 {
		to = end
	}
	for seq := from; int32(to-seq) >= 0; seq++ {
		if p := q.at(seq); p.live {
			p.live = false
			q.live--
			if fn != nil {
				fn(p.item)
			}
		}
	}
	q.trim()
}

// trim drops dead places at the old end.
func (q *resendQueue) trim() {
	for q.n > 0 && !q.at(q.head).live {
		q.head++
		q.n--
	}
}

func (q *resendQueue) clear() { *q = resendQueue{ring: q.ring} }

// mark remembers which number was next at a time.
type mark struct {
	at  time.Time
	seq uint32
}

func (s *Session) acked(from, to uint32) {
	if !s.sent(to) {
		s.Counters.Malformed++
		return
	}
	s.queue.take(from, to, nil)
	if s.resyncOut && int32(s.resyncSeq-from) >= 0 && int32(to-s.resyncSeq) >= 0 {
		s.resyncOut = false
		s.ready.ResyncHeard = true
	}
}

func (s *Session) nacked(from, to uint32) {
	if !s.sent(to) {
		s.Counters.Malformed++
		return
	}
	s.queue.take(from, to, s.again)
	if s.resyncOut && int32(s.resyncSeq-from) >= 0 && int32(to-s.resyncSeq) >= 0 {
		s.control(wire.FlagResync, 0, 0)
	}
}

// sent reports whether the number may be one of ours: not from the future.
func (s *Session) sent(seq uint32) bool { return int32(seq-s.seq) < 0 }

func (s *Session) again(it Item) {
	s.ready.Resend = append(s.ready.Resend, it)
	s.Counters.Resent++
}

// staleBatch bounds what one Tick sends again unasked.
const staleBatch = 4096

// resendStale sends again what is unacknowledged for staleAfter while the peer
// lives: its ACK or NACK must have been lost, and a peer repeats neither.
func (s *Session) resendStale(now time.Time) {
	if n := len(s.marks); n == 0 || now.Sub(s.marks[n-1].at) >= Keepalive {
		s.marks = append(s.marks, mark{now, s.seq})
	}
	i := 0
	for i+1 < len(s.marks) && now.Sub(s.marks[i+1].at) >= staleAfter {
		i++
	}
	s.marks = append(s.marks[:0], s.marks[i:]...)
	if old := s.marks[0]; now.Sub(old.at) >= staleAfter && s.queue.n > 0 {
		last := old.seq - 1
		if limit := s.queue.head + staleBatch; int32(last-limit) > 0 {
			last = limit
		}
		before := len(s.ready.Resend)
		s.queue.take(s.queue.head, last, s.again)
		s.Counters.Unanswered += uint64(len(s.ready.Resend) - before)
	}
}

// TakeUnacked hands over what the peer has not acknowledged and forgets it: the
// session ends.
func (s *Session) TakeUnacked(fn func(Item)) {
	if s.queue.n > 0 {
		s.queue.take(s.queue.head, s.queue.head+uint32(s.queue.n)-1, fn)
	}
}

// Waits reports whether the peer has not acknowledged a message about the flow.
func (s *Session) Waits(k *flow.Key) bool {
	q := &s.queue
	for i := range uint32(q.n) {
		if p := q.at(q.head + i); p.live && p.item.Key == *k {
			return true
		}
	}
	return false
}
