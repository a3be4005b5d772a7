package ftfw

import (
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// Receive takes the messages of one or more datagrams in the order of their
// arrival. Delivered messages alias the given ones.
func (s *Session) Receive(now time.Time, msgs []wire.Message) Ready {
	s.begin()
	for i := range msgs {
		s.receive(now, &msgs[i])
	}
	return s.ready
}

func (s *Session) receive(now time.Time, m *wire.Message) {
	if !valid(m) {
		s.Counters.Malformed++
		return
	}
	if m.Flags&wire.FlagHelloBack != 0 {
		s.greeting = false
	}
	switch d := s.place(m); d {
	case restarted:
		s.restart(now, m)
	case before:
		s.Counters.Before++
		return
	case far:
		if !s.suspect.confirmed(m.Seq) {
			s.Counters.Far++
			return
		}
		s.restart(now, m)
	case gap:
		s.gap(now, m)
	case next:
		s.count(now, m)
	}
	s.suspect = suspicion{}
	s.heardAt = now
	s.last = m.Seq
	switch hello := m.Flags&wire.FlagHello != 0; {
	case hello:
		// A greeting that is not believed has no answer: were it a new life's,
		// its followers would greet no more and look like old messages.
		s.greetBack = true
	case !s.peerDone:
		s.peerDone, s.doneAt = true, m.Seq
	}
	s.process(m)
}

// valid is the protocol's rule of which header may carry which flags.
func valid(m *wire.Message) bool {
	if m.Type != wire.Control {
		return m.Type <= wire.ExpDel && m.Flags&^(wire.FlagHello|wire.FlagHelloBack) == 0
	}
	switch m.Flags &^ (wire.FlagHello | wire.FlagHelloBack) {
	case wire.FlagAck, wire.FlagNack:
		return int32(m.To-m.From) >= 0
	case wire.FlagResync, wire.FlagAlive:
		return true
	}
	return false
}

// position is where a number lies, seen from the last one.
type position uint8

const (
	next position = iota
	gap
	before
	far
	restarted
)

func (s *Session) place(m *wire.Message) position {
	if !s.started {
		return restarted
	}
	d := int32(m.Seq - s.last - 1)
	hello := m.Flags&wire.FlagHello != 0
	switch {
	case hello && s.peerDone:
		// It had ended its greeting and greets again: a new life. conntrackd
		// numbers from its clock's seconds, so that of a quiet one starts close
		// to where the last one was. A message of the greeting that was
		// overtaken looks the same, but lies before the greeting's end, is
		// close behind and has no followers.
		if d < 0 && d > -Window && int32(m.Seq-s.doneAt) < 0 {
			return far
		}
		return restarted
	case d == 0:
		return next
	case d > 0 && d <= ResendLimit:
		return gap
	case hello:
		return restarted
	case d < 0 && d >= -ResendLimit:
		return before
	}
	return far
}

// suspicion follows messages at a place where none were expected.
type suspicion struct {
	next uint32
	run  int
}

func (p *suspicion) confirmed(seq uint32) bool {
	if p.run == 0 || seq != p.next {
		p.run = 0
	}
	p.run++
	p.next = seq + 1
	return p.run >= confirmations
}

// restart begins to follow a numbering.
func (s *Session) restart(now time.Time, m *wire.Message) {
	if s.started {
		s.Counters.Restarts++
	}
	if s.started && m.Flags&wire.FlagHello != 0 {
		s.queue.clear() // it lost everything and gets everything
		s.marks = s.marks[:0]
	}
	s.started, s.peerDone = true, false
	s.ackFrom, s.ackSet, s.ackAt = m.Seq, true, now
	s.window = Window - 1
	s.ready.Restarted = true
	s.ready.SendAll, s.ready.AskAll = true, true
}

// gap acknowledges what came before the hole and asks for the hole.
func (s *Session) gap(now time.Time, m *wire.Message) {
	missing := m.Seq - s.last - 1
	s.Counters.Lost += uint64(missing)
	if s.ackSet {
		s.control(wire.FlagAck, s.ackFrom, s.last)
	}
	s.control(wire.FlagNack, s.last+1, m.Seq-1)
	s.Counters.Nacks++
	if missing > ResendLimit/2 {
		s.ready.AskAll = true // the peer may have forgotten the oldest
	}
	s.ackFrom, s.ackSet, s.ackAt = m.Seq, true, now
	s.window = Window - 1
}

// count acknowledges once a window is full.
func (s *Session) count(now time.Time, m *wire.Message) {
	if !s.ackSet {
		s.ackFrom, s.ackSet, s.ackAt = m.Seq, true, now
	}
	if s.window--; s.window <= 0 {
		s.last = m.Seq
		s.acknowledge()
	}
}

func (s *Session) process(m *wire.Message) {
	if m.Type != wire.Control {
		s.ready.Deliver = append(s.ready.Deliver, *m)
		return
	}
	switch {
	case m.Flags&wire.FlagAck != 0:
		s.acked(m.From, m.To)
	case m.Flags&wire.FlagNack != 0:
		s.nacked(m.From, m.To)
	case m.Flags&wire.FlagResync != 0:
		s.ready.SendAll = true
	}
}
