package flow

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestKeysArePlainMemory(t *testing.T) {
	if s := unsafe.Sizeof(Key{}); s != 40 {
		t.Errorf("a key takes %d bytes: there is padding", s)
	}
}

func TestInverse(t *testing.T) {
	for _, c := range [][2]Tuple{
		{MakeTuple(ProtoTCP, addr("10.0.0.1"), addr("10.0.0.2"), 1, 2), MakeTuple(ProtoTCP, addr("10.0.0.2"), addr("10.0.0.1"), 2, 1)},
		{MakeTuple(ProtoGRE, addr("fd00::1"), addr("fd00::2"), 0, 0x42), MakeTuple(ProtoGRE, addr("fd00::2"), addr("fd00::1"), 0x42, 0)},
		{MakeICMP(ProtoICMP, addr("10.0.0.1"), addr("10.0.0.2"), 8, 0, 7), MakeICMP(ProtoICMP, addr("10.0.0.2"), addr("10.0.0.1"), 0, 0, 7)},
		{MakeICMP(ProtoICMP, addr("10.0.0.1"), addr("10.0.0.2"), 13, 0, 7), MakeICMP(ProtoICMP, addr("10.0.0.2"), addr("10.0.0.1"), 14, 0, 7)},
		{MakeICMP(ProtoICMPv6, addr("fd00::1"), addr("fd00::2"), 128, 0, 7), MakeICMP(ProtoICMPv6, addr("fd00::2"), addr("fd00::1"), 129, 0, 7)},
	} {
		if got := c[0].Inverse(); got != c[1] {
			t.Errorf("the inverse of %v is %v, want %v", c[0], got, c[1])
		}
		if got := c[1].Inverse(); got != c[0] {
			t.Errorf("and back: %v", got)
		}
	}
}

func TestSetNAT(t *testing.T) {
	f := Flow{Orig: MakeTuple(ProtoTCP, addr("10.0.0.1"), addr("198.51.100.1"), 1000, 80), Has: HasReply,
		Reply: MakeTuple(ProtoTCP, addr("10.9.9.9"), addr("203.0.113.1"), 8080, 2000)}
	for status, want := range map[uint32]Has{
		0: 0, StatusSrcNATDone: HasSNAT | HasSPAT, StatusDstNATDone: HasDNAT | HasDPAT,
		StatusSrcNATDone | StatusDstNATDone: HasNAT,
	} {
		f.Status = status
		if f.SetNAT(); f.Has&HasNAT != want {
			t.Errorf("status %#x: %#x, want %#x", status, f.Has&HasNAT, want)
		}
	}
	f.Reply = f.Orig.Inverse()
	if f.SetNAT(); f.Has&HasNAT != 0 {
		t.Error("nothing is translated, whatever the DONE bits say")
	}
}

func TestUpdatesArePartial(t *testing.T) {
	f := Flow{Has: HasMark | HasHelper | HasReply | HasSNAT, Mark: 7, Helper: MakeHelper("ftp"), Reply: Tuple{Sport: 9}}
	f.Merge(&Flow{Has: HasStatus | HasReply, Status: 14, Reply: Tuple{Sport: 1}})
	if f.Mark != 7 || f.Helper.String() != "ftp" || f.Status != 14 || f.Reply.Sport != 9 || f.Has&HasSNAT == 0 {
		t.Errorf("%+v", f)
	}
	f.Merge(&Flow{Has: HasMark})
	if f.Mark != 0 {
		t.Error("a mark that is given as 0 is cleared")
	}
}

// TestJSONRoundTrip: flows reach the operator's command as JSON and must be the
// same there.
func TestJSONRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := Flow{Orig: MakeTuple(rapid.SampledFrom([]uint8{ProtoTCP, ProtoUDP, ProtoICMP, ProtoGRE, 99}).Draw(t, "proto"),
			addr("10.0.0.1"), addr("198.51.100.1"), 1000, 80)}
		if !f.Orig.HasPorts() && !f.Orig.IsICMP() && f.Orig.Proto != ProtoGRE {
			f.Orig.Sport, f.Orig.Dport = 0, 0
		}
		f.Reply, f.Has = f.Orig.Inverse(), HasReply
		opt := func(bit Has, set func()) {
			if rapid.Bool().Draw(t, "has") {
				f.Has |= bit
				set()
			}
		}
		opt(HasStatus, func() { f.Status = rapid.Uint32Range(1, 0xffff).Draw(t, "status") })
		opt(HasTimeout, func() { f.Timeout = rapid.Uint32().Draw(t, "timeout") })
		opt(HasMark, func() { f.Mark = rapid.Uint32().Draw(t, "mark") })
		opt(HasZone, func() { f.Zone = rapid.Uint16().Draw(t, "zone") })
		opt(HasID, func() { f.ID = rapid.Uint32().Draw(t, "id") })
		opt(HasHelper, func() { f.Helper = MakeHelper("ftp") })
		opt(HasLabels, func() { f.Labels[5] = 3 })
		opt(HasSeqAdj, func() { f.SeqAdjReply = SeqAdj{1, -2, 3} })
		opt(HasMaster, func() { f.Master = MakeTuple(ProtoTCP, addr("10.0.0.1"), addr("10.0.0.2"), 1, 21) })
		if f.Orig.Proto == ProtoTCP {
			opt(HasTCPState, func() { f.TCP.State = rapid.Uint8Range(0, 9).Draw(t, "state") })
			opt(HasTCPFlags, func() { f.TCP.FlagsOrig = 0x23 })
			opt(HasSNAT, func() { f.Reply.SetDst(addr("203.0.113.1")) })
			opt(HasSPAT, func() { f.Reply.Dport = 5 })
		}
		b, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		var g Flow
		if err := json.Unmarshal(b, &g); err != nil || g != f {
			t.Fatalf("%s\nbecame\n%+v\nwant\n%+v (%v)", b, g, f, err)
		}
	})
}

func TestJSONShape(t *testing.T) {
	f := Flow{Orig: MakeTuple(ProtoTCP, addr("10.1.0.10"), addr("203.0.113.10"), 40000, 80), Has: HasReply | HasStatus | HasTimeout | HasTCPState | HasID,
		Status: StatusSeenReply | StatusAssured | StatusConfirmed | StatusSrcNAT | StatusSrcNATDone, Timeout: 300, ID: 5, TCP: TCP{State: TCPEstablished}, Since: 1700000000}
	f.Reply = f.Orig.Inverse()
	f.Reply.SetDst(addr("203.0.113.254"))
	f.SetNAT()
	b, _ := json.Marshal(f)
	if want := `{"proto":"tcp","protonum":6,"family":"ipv4","orig":{"src":"10.1.0.10","dst":"203.0.113.10","sport":40000,"dport":80},` +
		`"reply":{"src":"203.0.113.10","dst":"203.0.113.254","sport":80,"dport":40000},"state":"ESTABLISHED",` +
		`"status":["SEEN_REPLY","ASSURED","CONFIRMED","SRC_NAT","SRC_NAT_DONE"],"timeout":300,"nat":{"src":"203.0.113.254"},` +
		`"id":5,"active_since":"2023-11-14T22:13:20Z"}`; string(b) != want {
		t.Errorf("got\n%s\nwant\n%s", b, want)
	}
	i := Flow{Orig: MakeICMP(ProtoICMP, addr("10.1.0.10"), addr("203.0.113.10"), 8, 0, 77)}
	if b, _ = json.Marshal(i); !strings.Contains(string(b), `"icmp_type":8,"icmp_code":0,"icmp_id":77`) {
		t.Errorf("%s", b)
	}
}
