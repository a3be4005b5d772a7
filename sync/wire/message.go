// Package wire is conntrackd's replication protocol, version 1, byte for byte:
// headers and attributes to flows and back. It is pure and allocates nothing
// per message.
package wire

import "encoding/binary"

// Type is the kind of a message.
type Type uint8

// The types of version 1.
const (
	CTNew   Type = 0
	CTUpd   Type = 1
	CTDel   Type = 2
	ExpNew  Type = 3
	ExpUpd  Type = 4
	ExpDel  Type = 5
	Control Type = 10
)

// Flags of a message; data messages may carry the last two only.
const (
	FlagResync    = 0x02
	FlagNack      = 0x04
	FlagAck       = 0x08
	FlagAlive     = 0x10
	FlagHello     = 0x20
	FlagHelloBack = 0x40
)

const (
	version   = 1
	headerLen = 8
	rangeLen  = 16 // header plus from and to
)

// Message is one message of a datagram.
type Message struct {
	Type     Type
	Flags    uint8
	Seq      uint32
	From, To uint32 // of ACK, NACK, RESYNC: inclusive
	Body     []byte // attributes of a data message, or bytes after a control header; aliases the datagram
}

// HasRange reports whether the message carries From and To.
func (m *Message) HasRange() bool {
	return m.Type == Control && m.Flags&(FlagAck|FlagNack|FlagResync) != 0
}

// Errors counts what was wrong with a datagram.
type Errors struct {
	Truncated uint64 // fewer bytes left than a header takes
	BadSize   uint64 // a length that is 0, short, or beyond the datagram
	Version   uint64 // not version 1
}

// Total is the sum.
func (e *Errors) Total() uint64 { return e.Truncated + e.BadSize + e.Version }

// Split appends the messages of a datagram to msgs. A message of another
// version is skipped; a length that cannot be right ends the datagram.
func Split(d []byte, msgs []Message) ([]Message, Errors) {
	var errs Errors
	for len(d) > 0 {
		if len(d) < headerLen {
			errs.Truncated++
			break
		}
		n := int(binary.BigEndian.Uint16(d[2:]))
		if n < headerLen || n > len(d) {
			errs.BadSize++
			break
		}
		m, ok := parseHeader(d[:n])
		switch {
		case d[0]>>4 != version:
			errs.Version++
		case !ok:
			errs.BadSize++
			return msgs, errs
		default:
			msgs = append(msgs, m)
		}
		d = d[n:]
	}
	return msgs, errs
}

func parseHeader(b []byte) (m Message, ok bool) {
	m = Message{Type: Type(b[0] & 0x0f), Flags: b[1], Seq: binary.BigEndian.Uint32(b[4:])}
	if !m.HasRange() {
		m.Body = b[headerLen:]
		return m, true
	}
	if len(b) < rangeLen {
		return m, false
	}
	m.From, m.To = binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])
	m.Body = b[rangeLen:]
	return m, true
}

// appendHeader writes a header whose length is patched by seal.
func appendHeader(b []byte, m *Message) []byte {
	b = append(b, version<<4|byte(m.Type), m.Flags, 0, 0)
	return binary.BigEndian.AppendUint32(b, m.Seq)
}

// seal writes the length of the message that begins at start.
func seal(b []byte, start int) []byte {
	binary.BigEndian.PutUint16(b[start+2:], uint16(len(b)-start))
	return b
}

// AppendControl encodes a control message; Body is written after the header.
func AppendControl(b []byte, m *Message) []byte {
	start := len(b)
	b = appendHeader(b, m)
	if m.HasRange() {
		b = binary.BigEndian.AppendUint32(b, m.From)
		b = binary.BigEndian.AppendUint32(b, m.To)
	}
	return seal(append(b, m.Body...), start)
}
