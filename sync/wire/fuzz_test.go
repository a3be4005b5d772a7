package wire

import (
	"path/filepath"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

// seeds are the payloads of real conntrackds.
func seeds(f *testing.F) {
	files, _ := filepath.Glob("testdata/conntrackd/*.pcap")
	for _, file := range files[:6] {
		t := &testing.T{}
		for i, p := range readCapture(t, file) {
			if i%8 == 0 {
				f.Add(p.data)
			}
		}
	}
}

// FuzzDatagram: whatever arrives, nothing panics, and what was parsed encodes
// to something that parses to the same.
func FuzzDatagram(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		msgs, _ := Split(b, nil)
		for i := range msgs {
			m := &msgs[i]
			switch {
			case m.Type == Control:
				again, errs := Split(AppendControl(nil, m), nil)
				if errs.Total() != 0 || len(again) != 1 || again[0].Seq != m.Seq || again[0].From != m.From {
					t.Fatalf("%+v became %+v", m, again)
				}
			case m.Type >= ExpNew:
				fuzzExpect(t, m)
			default:
				fuzzFlow(t, m)
			}
		}
	})
}

func fuzzFlow(t *testing.T, m *Message) {
	var a, b flow.Flow
	if ParseFlow(m.Body, &a) != nil {
		return
	}
	again, _ := Split(AppendFlow(nil, m, &a), nil)
	if err := ParseFlow(again[0].Body, &b); err != nil {
		t.Fatalf("%+v does not parse again: %v", a, err)
	}
	// What cannot be said is left out: an empty name, empty labels, the
	// address of the other family, keys without an attribute.
	lossy := a.Has&(flow.HasHelper|flow.HasLabels|flow.HasSCTP|flow.HasDCCP|flow.HasMaster|flow.HasNAT) != 0 ||
		a.Orig.Proto == flow.ProtoUDPLite || a.Orig.IsICMP() != (a.Has&flow.HasICMP != 0)
	if !lossy && a != b {
		t.Fatalf("%+v\nbecame\n%+v", a, b)
	}
}

func fuzzExpect(t *testing.T, m *Message) {
	var a, b flow.Expect
	if ParseExpect(m.Body, &a) != nil || a.Mask.Family == 0 {
		return
	}
	again, _ := Split(AppendExpect(nil, m, &a), nil)
	if err := ParseExpect(again[0].Body, &b); err != nil {
		t.Fatalf("%+v does not parse again: %v", a, err)
	}
	if a.Timeout != b.Timeout || a.Tuple.Dst != b.Tuple.Dst {
		t.Fatalf("%+v\nbecame\n%+v", a, b)
	}
}
