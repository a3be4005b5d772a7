package wire

// Advert says who sends: bytes behind the header of a control message, which
// conntrackd accepts and ignores. docs/PROTOCOL.md specifies them.
type Advert struct {
	Low, High uint8  // the lowest and the highest protocol version spoken
	Release   string // of the sender's software, printable, at most 32 bytes
}

const (
	magic       = "CtSy" // begins whatever of ours stands behind a control header
	advertFixed = len(magic) + 4
	releaseMax  = 32
)

// Kinds of what stands behind the magic.
const (
	kindAdvert = 0
	kindFrame  = 1
	kindSealed = 2 // a frame that only holders of a key can read: not spoken yet
	kindGroup  = 3 // the envelope of a sync group's datagram
)

// AppendAdvert writes the advert, a multiple of four bytes.
func AppendAdvert(b []byte, a *Advert) []byte {
	release := a.Release[:min(len(a.Release), releaseMax)]
	b = append(append(b, magic...), kindAdvert, a.Low, a.High, byte(len(release)))
	b = append(b, release...)
	for range -len(release) & 3 {
		b = append(b, 0)
	}
	return b
}

// ParseAdvert reads the bytes behind a control header; ok is false when they are
// no advert. What a later release adds behind the name is skipped.
func ParseAdvert(body []byte) (low, high uint8, release []byte, ok bool) {
	if len(body) < advertFixed || string(body[:len(magic)]) != magic || body[4] != kindAdvert {
		return 0, 0, nil, false
	}
	n := int(body[7])
	if n > releaseMax || advertFixed+n > len(body) || body[5] > body[6] {
		return 0, 0, nil, false
	}
	release = body[advertFixed : advertFixed+n]
	for _, c := range release {
		if c < ' ' || c > '~' {
			return 0, 0, nil, false
		}
	}
	return body[5], body[6], release, true
}
