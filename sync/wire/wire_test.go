package wire

import (
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

func tcp() flow.Flow {
	f := flow.Flow{
		Orig:   flow.MakeTuple(flow.ProtoTCP, netip.MustParseAddr("10.1.0.10"), netip.MustParseAddr("203.0.113.10"), 40000, 80),
		Has:    flow.HasStatus | flow.HasTimeout | flow.HasTCPState | flow.HasReply | flow.HasMark,
		Status: 0x19e, Timeout: 432000, Mark: 7, TCP: flow.TCP{State: flow.TCPEstablished},
	}
	f.Reply = f.Orig.Inverse()
	f.Reply.SetDst(netip.MustParseAddr("203.0.113.254"))
	f.Reply.Dport = 50000
	f.SetNAT()
	return f
}

func TestSplitCountsWhatIsWrong(t *testing.T) {
	ok := "1a300008" + "00000001"
	for _, c := range []struct {
		name, hex string
		msgs      int
		errs      Errors
	}{
		{"one", ok, 1, Errors{}},
		{"two", ok + ok, 2, Errors{}},
		{"seven bytes", ok + "1a30000800000", 1, Errors{Truncated: 1}},
		{"length 0", "1a300000" + "00000001" + ok, 0, Errors{BadSize: 1}},
		{"length 4", "1a300004" + "00000001" + ok, 0, Errors{BadSize: 1}},
		{"beyond the datagram", "1a30000c" + "00000001", 0, Errors{BadSize: 1}},
		{"version 2 is skipped alone", "2a300008" + "00000001" + ok, 1, Errors{Version: 1}},
		{"an ACK without a range", "1a080008" + "00000001" + ok, 0, Errors{BadSize: 1}},
		{"bytes after a control header", "1a10000c" + "00000001" + "deadbeef" + ok, 2, Errors{}},
	} {
		h := c.hex
		if len(h)%2 == 1 {
			h += "0"
		}
		b, err := hex.DecodeString(h)
		if err != nil {
			t.Fatal(err)
		}
		if c.name == "seven bytes" {
			b = b[:15]
		}
		msgs, errs := Split(b, nil)
		if len(msgs) != c.msgs || errs != c.errs {
			t.Errorf("%s: %d messages, %+v; want %d, %+v", c.name, len(msgs), errs, c.msgs, c.errs)
		}
	}
}

func TestUnknownAttributesAreSkipped(t *testing.T) {
	f := tcp()
	b := AppendFlow(nil, &Message{Type: CTUpd}, &f)
	b = append(b, 0, 7, 0, 99, 1, 2, 3, 0) // number 99, three bytes and padding
	var g flow.Flow
	if err := ParseFlow(b[headerLen:], &g); err != nil || g != f {
		t.Fatalf("parsed %+v, %v", g, err)
	}
}

func TestAttributesThatCannotBeRight(t *testing.T) {
	for name, body := range map[string][]byte{
		"length beyond the message": {0, 20, 0, 2, 6, 0, 0, 0},
		"length below four":         {0, 3, 0, 2, 6, 0, 0, 0},
		"address of seven bytes":    {0, 11, 0, 0, 1, 2, 3, 4, 5, 6, 7, 0},
		"no addresses":              {0, 5, 0, 2, 6, 0, 0, 0},
		"no protocol":               {0, 12, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8},
		"nothing":                   {},
	} {
		var f flow.Flow
		if err := ParseFlow(body, &f); err == nil {
			t.Errorf("%s: accepted as %+v", name, f)
		}
	}
}

func TestPackerKeepsDatagramsBelowTheLimit(t *testing.T) {
	p := Packer{Max: 300}
	f := tcp()
	for round := range 3 {
		p.Reset()
		for i := range 100 {
			p.Flow(Message{Type: CTUpd, Seq: uint32(i)}, &f)
			p.Control(Message{Type: Control, Flags: FlagAck, Seq: uint32(1000 + i), From: 1, To: 2})
		}
		n := 0
		for _, d := range p.Datagrams() {
			if len(d) >= p.Max || len(d) == 0 {
				t.Fatalf("round %d: a datagram of %d bytes", round, len(d))
			}
			msgs, errs := Split(d, nil)
			if errs.Total() != 0 {
				t.Fatalf("round %d: %+v", round, errs)
			}
			for _, m := range msgs {
				if want := uint32(n / 2); m.Seq != want && m.Seq != 1000+want {
					t.Fatalf("round %d: message %d has number %d", round, n, m.Seq)
				}
				n++
			}
		}
		if n != 200 {
			t.Fatalf("round %d: %d messages of 200", round, n)
		}
	}
}

func TestHotPathAllocatesNothing(t *testing.T) {
	p := Packer{Max: 1472}
	f := tcp()
	msgs := make([]Message, 0, 64)
	var g flow.Flow
	n := testing.AllocsPerRun(100, func() {
		p.Reset()
		for i := range 20 {
			p.Flow(Message{Type: CTUpd, Seq: uint32(i)}, &f)
		}
		for _, d := range p.Datagrams() {
			msgs, _ = Split(d, msgs[:0])
			for i := range msgs {
				if err := ParseFlow(msgs[i].Body, &g); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
	if n != 0 {
		t.Fatalf("%v allocations for 20 flows there and back", n)
	}
}

func BenchmarkAppendFlow(b *testing.B) {
	f := tcp()
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendFlow(buf[:0], &Message{Type: CTUpd}, &f)
	}
}

func BenchmarkParseFlow(b *testing.B) {
	f := tcp()
	buf := AppendFlow(nil, &Message{Type: CTUpd}, &f)
	b.ReportAllocs()
	for b.Loop() {
		if err := ParseFlow(buf[headerLen:], &f); err != nil {
			b.Fatal(err)
		}
	}
}
