package wire

import "crypto/sha256"

// A node with several sync groups sends the datagrams of each in an envelope that
// names the group, so that all groups share one link and none takes another's for
// its own. A node that does not know envelopes takes one for a keepalive.

// GroupTag names a sync group on the link.
type GroupTag [7]byte

// TagOf is the tag of a group's name.
func TagOf(name string) (t GroupTag) {
	sum := sha256.Sum256([]byte(name))
	copy(t[:], sum[:])
	return t
}

// EnvelopeLen is what an envelope adds to a datagram.
const EnvelopeLen = headerLen + len(magic) + 1 + len(GroupTag{})

// AppendEnvelope writes a datagram in its envelope. Its number is that of the
// datagram.
func AppendEnvelope(b []byte, t GroupTag, datagram []byte) []byte {
	n := EnvelopeLen + len(datagram)
	b = append(b, version<<4|byte(Control), FlagAlive, byte(n>>8), byte(n))
	if len(datagram) >= headerLen {
		b = append(b, datagram[4:headerLen]...)
	} else {
		b = append(b, 0, 0, 0, 0)
	}
	b = append(append(b, magic...), kindGroup)
	b = append(b, t[:]...)
	return append(b, datagram...)
}

// ParseEnvelope returns the group and the datagram, which aliases b; ok is false
// when b is no envelope.
func ParseEnvelope(b []byte) (t GroupTag, datagram []byte, ok bool) {
	const kind = headerLen + len(magic)
	if len(b) < EnvelopeLen || b[0] != version<<4|byte(Control) || b[1] != FlagAlive ||
		int(b[2])<<8|int(b[3]) != len(b) || string(b[headerLen:kind]) != magic || b[kind] != kindGroup {
		return t, nil, false
	}
	copy(t[:], b[kind+1:])
	return t, b[EnvelopeLen:], true
}
