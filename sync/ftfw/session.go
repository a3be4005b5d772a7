// Package ftfw is the reliable session of conntrackd's FT-FW mode as a pure
// state machine: message headers and the time go in, what to deliver, send and
// repair comes out. It opens no socket, starts no goroutine, reads no clock and
// never looks into a flow; a message's content is asked for again, by key, when
// it must be sent again.
//
// Where conntrackd loses state the session differs, in ways a conntrackd peer
// does not notice: a HELLO does not empty the resend queue, a number far away
// is a restart to be confirmed by more of its kind before it is believed, and
// what nobody acknowledged for a while is sent again unasked.
//
// A Session serves one peer and belongs to one goroutine at a time.
package ftfw

import (
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// Numbers of the protocol, conntrackd's defaults.
const (
	Window        = 300             // messages received before an ACK goes out
	ResendLimit   = 1 << 17         // messages kept until they are acknowledged
	Keepalive     = time.Second     // something is said at least this often
	DeadAfter     = 3 * time.Second // silence that makes a peer count as gone
	staleAfter    = 3 * time.Second // unacknowledged while newer ones are: sent again
	confirmations = 3               // messages in a row that make a far number believed
)

// Out is a message to be sent. The owner sets Type, Key, Ref and the flags of
// a control message; Send fills in the rest.
type Out struct {
	Type     wire.Type
	Flags    uint8
	Seq      uint32
	From, To uint32
	Key      flow.Key // of a data message
	Ref      uint32   // the owner's, not looked at
}

// Item is a sent data message the peer may have missed.
type Item struct {
	Type wire.Type
	Key  flow.Key
}

// Ready is what the owner must do now. Its slices are valid until the next
// call of a method of the session.
type Ready struct {
	Deliver []wire.Message // data, in sequence, to be applied
	Send    []Out          // control messages, to be given to Send with the rest
	Resend  []Item         // to be sent again, with their flows' content of now
	// SendAll: the peer asked for the whole table, or has restarted and lost it.
	SendAll bool
	// AskAll: what is known of the peer's table may be wrong without end: it
	// restarted, or more is missing than it can send again.
	AskAll bool
	// ResyncHeard: the peer acknowledged our last request for its table.
	ResyncHeard bool
	// Restarted: the peer's numbering began anew.
	Restarted bool
}

// Counters of a session; they only grow.
type Counters struct {
	Lost       uint64 // messages missing, each once, recovered or not
	Before     uint64 // older than expected: repeated or overtaken, dropped
	Far        uint64 // numbers too far away to be believed, dropped
	Malformed  uint64 // headers that make no sense
	Overflow   uint64 // unacknowledged messages forgotten for want of room
	Resent     uint64 // data messages sent again
	Nacks      uint64 // NACKs sent
	Restarts   uint64 // of the peer
	Unanswered uint64 // messages sent again because no answer ever came
}

// Session is one end of a conversation. Make one with New.
type Session struct {
	Counters Counters

	// sending
	seq       uint32 // next number
	greeting  bool   // HELLO until a HELLO_BACK comes
	greetBack bool   // owe a HELLO_BACK
	queue     resendQueue
	sentAt    time.Time // last message
	marks     []mark
	resyncSeq uint32 // number of our last RESYNC
	resyncOut bool   // it is not acknowledged
	resyncAt  time.Time

	// receiving
	started  bool
	last     uint32
	ackFrom  uint32
	ackSet   bool
	ackAt    time.Time // when ackFrom was set
	window   int
	peerDone bool   // the peer has sent something without HELLO
	doneAt   uint32 // its number, if so
	heardAt  time.Time
	suspect  suspicion

	ready Ready
}

// New makes a session whose first message has the number seq. A number chosen
// at random lets the peer tell a restart from a gap.
func New(seq uint32) *Session {
	return &Session{seq: seq, greeting: true, window: Window}
}

// Unacked is the number of data messages the peer has not acknowledged.
func (s *Session) Unacked() int { return s.queue.live }

// Alive reports whether the peer was heard within DeadAfter.
func (s *Session) Alive(now time.Time) bool {
	return !s.heardAt.IsZero() && now.Sub(s.heardAt) <= DeadAfter
}

// Heard is the time of the last valid message, zero if there was none.
func (s *Session) Heard() time.Time { return s.heardAt }

// Send numbers the messages, adds the greeting where it is due, and remembers
// what must be kept until it is acknowledged.
func (s *Session) Send(now time.Time, out []Out) {
	for i := range out {
		m := &out[i]
		m.Seq = s.seq
		s.seq++
		if s.greeting {
			m.Flags |= wire.FlagHello
		}
		if s.greetBack {
			m.Flags |= wire.FlagHelloBack
			s.greetBack = false
		}
		if m.Type == wire.Control && m.Flags&wire.FlagResync != 0 {
			s.resyncSeq, s.resyncOut, s.resyncAt = m.Seq, true, now
		}
		s.Counters.Overflow += s.queue.push(m)
	}
	if len(out) > 0 {
		s.sentAt = now
	}
}

// begin clears what the last call left for the owner.
func (s *Session) begin() {
	r := &s.ready
	*r = Ready{Deliver: r.Deliver[:0], Send: r.Send[:0], Resend: r.Resend[:0]}
}

func (s *Session) control(flags uint8, from, to uint32) {
	s.ready.Send = append(s.ready.Send, Out{Type: wire.Control, Flags: flags, From: from, To: to})
}

// Tick does what time makes necessary; call it some times a second.
func (s *Session) Tick(now time.Time) Ready {
	s.begin()
	alive := s.Alive(now)
	switch {
	case s.ackSet && now.Sub(s.ackAt) >= Keepalive:
		s.acknowledge()
	case now.Sub(s.sentAt) >= Keepalive:
		s.control(wire.FlagAlive, 0, 0)
	}
	if alive {
		s.resendStale(now)
		if s.resyncOut && now.Sub(s.resyncAt) >= staleAfter {
			s.control(wire.FlagResync, 0, 0)
		}
	}
	return s.ready
}

// acknowledge says what arrived since the last acknowledgement.
func (s *Session) acknowledge() {
	s.control(wire.FlagAck, s.ackFrom, s.last)
	s.ackSet = false
	s.window = Window
}
