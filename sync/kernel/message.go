package kernel

import (
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"golang.org/x/sys/unix"
)

// message is one netlink message; body aliases the buffer it was read into.
type message struct {
	typ, flags uint16
	seq, pid   uint32
	body       []byte
}

// nextMessage splits the first message off b; ok is false at the end and at
// anything that cannot be one.
func nextMessage(b []byte) (m message, rest []byte, ok bool) {
	if len(b) < nlHeaderLen {
		return m, nil, false
	}
	n := int(ne.Uint32(b))
	if n < nlHeaderLen || n > len(b) {
		return m, nil, false
	}
	m = message{typ: ne.Uint16(b[4:]), flags: ne.Uint16(b[6:]), seq: ne.Uint32(b[8:]), pid: ne.Uint32(b[12:]), body: b[nlHeaderLen:n]}
	return m, b[min((n+3)&^3, len(b)):], true
}

// isFlow reports whether the message is a conntrack entry.
func (m *message) isFlow() bool { return m.isEntry(subsystem) }

// isExpect reports whether the message is an expectation.
func (m *message) isExpect() bool { return m.isEntry(subsystemExpect) }

func (m *message) isEntry(sub uint16) bool {
	return m.typ>>8 == sub && (m.typ&0xff == msgNew || m.typ&0xff == msgDelete) && len(m.body) >= nfHeaderLen
}

// decode fills f from a message for which isFlow holds.
func (m *message) decode(d *decoder, f *flow.Flow) error {
	return d.flow(m.body[0], m.body[nfHeaderLen:], f)
}

// decodeExpect fills x from a message for which isExpect holds.
func (m *message) decodeExpect(d *decoder, x *flow.Expect) error {
	return d.expect(m.body[0], m.body[nfHeaderLen:], x)
}

// event says what kind of event the message is: ctnetlink marks a birth with
// CREATE and EXCL.
func (m *message) event() flow.EventType {
	switch {
	case m.typ&0xff == msgDelete:
		return flow.EventDestroy
	case m.flags&(unix.NLM_F_CREATE|unix.NLM_F_EXCL) != 0:
		return flow.EventNew
	}
	return flow.EventUpdate
}

// failure returns the error number an NLMSG_ERROR carries; 0 is an
// acknowledgement.
func (m *message) failure() unix.Errno {
	if len(m.body) < 4 {
		return unix.EBADMSG
	}
	return unix.Errno(-int32(ne.Uint32(m.body)))
}
