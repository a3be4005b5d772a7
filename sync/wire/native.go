package wire

import (
	"errors"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

// Our own protocol, version 2: a frame travels as the bytes behind the header of
// an ALIVE message of version 1, whose sequence number numbers the datagram. A
// conntrackd that meets one takes it for a keepalive. docs/PROTOCOL.md specifies
// what follows.

// Frame is the head of a datagram of version 2.
type Frame struct {
	Seq    uint32 // of the datagram, +1 each
	Sender uint64 // chosen at random when the sender starts
	Epoch  uint32 // of the sender's last reign as MASTER, 0 if there was none
	Role   uint8
	Flags  uint8
	Body   []byte // the messages; aliases the datagram
}

// FlagProbe in a frame asks for a report at once.
const FlagProbe = 1

// Roles in a frame.
const (
	RoleUnknown = iota
	RoleMaster
	RoleBackup
	RoleFault
	RoleStop
)

const (
	frameFixed = 8 + 4 + 1 + 1 + 1 + 1 + 8 + 4 // version 1 header, magic, kind, role, flags, spare, sender, epoch
	frameMax   = 1<<16 - 4                     // what the length field can say
)

// MsgType is the kind of a message in a frame.
type MsgType uint8

// Messages of version 2. The first few have layouts of their own; from
// msgSized on a length follows the type, and a type that is not known is
// skipped.
const (
	MsgFlow   MsgType = 1 // a flow, whole, and the handle that names it from now on
	MsgUpdate MsgType = 2 // what changed of a flow, by handle
	MsgEnd    MsgType = 3 // a flow ended, by handle
	MsgEndKey MsgType = 4 // a flow ended, by key

	MsgExpect      MsgType = 16 // an expectation, as version 1 encodes it
	MsgExpectEnd   MsgType = 17
	MsgReport      MsgType = 18 // what arrived of a sender's datagrams
	MsgBeat        MsgType = 19 // who is there
	MsgDigest      MsgType = 20 // of everything, by group of buckets
	MsgAskBuckets  MsgType = 21 // for the digests of some groups' buckets
	MsgBuckets     MsgType = 22 // the digests of a group's buckets
	MsgAskCopy     MsgType = 23 // for the flows of some buckets
	MsgCopyStart   MsgType = 24
	MsgCopyEnd     MsgType = 25
	MsgQuestion    MsgType = 26 // an operator's, to be answered by one node
	MsgAnswer      MsgType = 27
	MsgRoutes      MsgType = 28 // what became of the routes of each sync group
	msgSized               = 16
	nativeOverhead         = 3 // type and length of a sized message
)

var (
	errShort   = errors.New("message ends early")
	errUnknown = errors.New("message of unknown layout")
)

// ParseFrame reads the head of a frame from a message of version 1; ok is false
// when the message carries none.
func ParseFrame(m *Message) (f Frame, ok bool) {
	b := m.Body
	if m.Type != Control || m.Flags&FlagAlive == 0 || len(b) < frameFixed-headerLen ||
		string(b[:4]) != magic || b[4] != kindFrame || b[5] > RoleStop {
		return f, false
	}
	return Frame{Seq: m.Seq, Role: b[5], Flags: b[6], Sender: be.Uint64(b[8:]), Epoch: be.Uint32(b[16:]), Body: b[20:]}, true
}

// Native is one message of a frame. Which of its members are set follows from
// the type.
type Native struct {
	Type   MsgType
	Handle uint32
	Check  uint16
	Flow   flow.Flow // of MsgFlow and MsgUpdate; of MsgEndKey the key alone
	Body   []byte    // of a sized message; aliases the frame
}

// NextNative reads the first message of b into m, which it resets, and returns
// the rest. At the end of the frame, where only padding is left, m.Type is 0.
func NextNative(b []byte, m *Native) (rest []byte, err error) {
	m.Type, m.Body = 0, nil
	if len(b) == 0 || b[0] == 0 {
		return nil, nil
	}
	r := reader{b: b[1:]}
	m.Type = MsgType(b[0])
	switch {
	case m.Type >= msgSized:
		n := int(r.u16())
		m.Body = r.bytes(n)
	case m.Type == MsgFlow:
		m.Handle = r.handle()
		r.flow(&m.Flow)
	case m.Type == MsgUpdate:
		m.Handle, m.Check = r.handle(), r.u16()
		m.Flow = flow.Flow{}
		bitmap := r.uvarint(64)
		if bitmap&^compact != 0 {
			return nil, errUnknown
		}
		r.compact(&m.Flow, bitmap)
	case m.Type == MsgEnd:
		m.Handle, m.Check = r.handle(), r.u16()
	case m.Type == MsgEndKey:
		m.Flow = flow.Flow{}
		bitmap := r.uvarint(64)
		if bitmap&^(fIPv6|fKey|fZone) != 0 {
			return nil, errUnknown
		}
		r.key(&m.Flow, bitmap)
	default:
		return nil, errUnknown
	}
	if r.short {
		return nil, errShort
	}
	return r.b, nil
}
