package wire

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

func TestEnvelope(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.String().Draw(t, "name")
		inner := rapid.SliceOfN(rapid.Byte(), 0, 1400).Draw(t, "datagram")
		b := AppendEnvelope(nil, TagOf(name), inner)
		if len(b) != EnvelopeLen+len(inner) {
			t.Fatalf("%d bytes around %d", len(b), len(inner))
		}
		tag, got, ok := ParseEnvelope(b)
		if !ok || tag != TagOf(name) || !bytes.Equal(got, inner) {
			t.Fatalf("%x %x %v", tag, got, ok)
		}
		if _, _, ok := ParseEnvelope(append(b, 0)); ok {
			t.Fatal("a length that is not its own")
		}
	})
	if TagOf("red") == TagOf("blue") {
		t.Error("two groups, one tag")
	}
}

// TestEnvelopeIsAKeepalive for those who do not know it.
func TestEnvelopeIsAKeepalive(t *testing.T) {
	var f Framer
	f.Max = 1400
	f.Begin(&Frame{Seq: 77, Sender: 5})
	f.Close()
	d := f.Datagrams()[0]
	msgs, errs := Split(AppendEnvelope(nil, TagOf("red"), d), nil)
	if errs.Total() != 0 || len(msgs) != 1 || msgs[0].Type != Control || msgs[0].Flags&FlagAlive == 0 || msgs[0].Seq != 77 {
		t.Fatalf("%+v %+v", msgs, errs)
	}
	if _, ok := ParseFrame(&msgs[0]); ok {
		t.Error("an envelope is taken for a frame")
	}
	if _, _, ok := ParseEnvelope(d); ok {
		t.Error("a frame is taken for an envelope")
	}
}
