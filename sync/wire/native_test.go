package wire

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/proof"
	"pgregory.net/rapid"
)

func drawNative(t *rapid.T) flow.Flow {
	six := rapid.Bool().Draw(t, "six")
	addr := func(what string) netip.Addr {
		if six {
			return netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, what)))
		}
		return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, what)))
	}
	u16 := func(what string) uint16 { return rapid.Uint16().Draw(t, what) }
	family := flow.IPv4
	if six {
		family = flow.IPv6
	}
	tuple := func(what string) flow.Tuple {
		x := flow.Tuple{Proto: rapid.Byte().Draw(t, what), Family: family, Sport: u16(what), Dport: u16(what)}
		x.SetSrc(addr(what))
		x.SetDst(addr(what))
		x.Family = family
		return x
	}
	f := flow.Flow{Orig: tuple("orig"), Has: flow.Has(rapid.Uint32().Draw(t, "has"))}
	f.Has &= flow.HasStatus | flow.HasTimeout | flow.HasMark | flow.HasTCPState | flow.HasTCPWScaleOrig | flow.HasTCPWScaleReply |
		flow.HasTCPFlags | flow.HasReply | rareHas
	set := func(bit flow.Has, fn func()) {
		if f.Has&bit != 0 {
			fn()
		}
	}
	if f.Zone = u16("zone"); f.Zone != 0 {
		f.Has |= flow.HasZone
	}
	set(flow.HasReply, func() {
		f.Reply = f.Orig.Inverse()
		if rapid.Bool().Draw(t, "translated") {
			proto := f.Reply.Proto
			f.Reply = tuple("reply")
			f.Reply.Proto = proto
		}
	})
	set(flow.HasStatus, func() { f.Status = rapid.Uint32().Draw(t, "status") })
	set(flow.HasTimeout, func() { f.Timeout = rapid.Uint32().Draw(t, "timeout") })
	set(flow.HasMark, func() { f.Mark = rapid.Uint32().Draw(t, "mark") })
	set(flow.HasTCPState, func() { f.TCP.State = rapid.Byte().Draw(t, "state") })
	set(flow.HasTCPWScaleOrig, func() { f.TCP.WScaleOrig = rapid.Byte().Draw(t, "scale") })
	set(flow.HasTCPWScaleReply, func() { f.TCP.WScaleReply = rapid.Byte().Draw(t, "scale") })
	set(flow.HasTCPFlags, func() { f.TCP.FlagsOrig, f.TCP.FlagsReply = 9, rapid.Byte().Draw(t, "flags") })
	set(flow.HasSCTP, func() { f.SCTP = flow.SCTP{State: 4, VtagOrig: rapid.Uint32().Draw(t, "vtag"), VtagReply: 7} })
	set(flow.HasDCCP, func() { f.DCCP = flow.DCCP{State: 1, Role: 2} })
	set(flow.HasMaster, func() { f.Master = tuple("master") })
	set(flow.HasSeqAdj, func() { f.SeqAdjOrig = flow.SeqAdj{Pos: 1, OffsetBefore: -5, OffsetAfter: 7} })
	set(flow.HasHelper, func() { f.Helper = flow.MakeHelper("sip-5060-longest") })
	set(flow.HasLabels, func() { f.Labels[3] = rapid.Byte().Draw(t, "label") })
	set(flow.HasSynproxy, func() { f.Synproxy = flow.Synproxy{ISN: 1, ITS: 2, TSOff: 3} })
	f.SetNAT()
	return f
}

// TestNativeFlowsSurvive: whatever a flow has arrives, of any protocol.
func TestNativeFlowsSurvive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawNative(t)
		handle := rapid.Uint32().Draw(t, "handle")
		var m Native
		rest, err := NextNative(AppendNativeFlow(nil, handle, &f), &m)
		if err != nil || len(rest) != 0 || m.Type != MsgFlow || m.Handle != handle || m.Flow != f {
			t.Fatalf("%+v\nbecame\n%+v\n%v, %d bytes left", f, m.Flow, err, len(rest))
		}
		rest, err = NextNative(AppendUpdate(nil, handle, 0xbeef, &f), &m)
		if err != nil || len(rest) != 0 || m.Type != MsgUpdate || m.Handle != handle || m.Check != 0xbeef ||
			m.Flow.Status != f.Status || m.Flow.Timeout != f.Timeout || m.Flow.TCP != f.TCP || m.Flow.Mark != f.Mark {
			t.Fatalf("%+v\nupdates to\n%+v, %v", f, m.Flow, err)
		}
		k := f.Key()
		rest, err = NextNative(AppendEndKey(nil, &k), &m)
		if err != nil || len(rest) != 0 || m.Type != MsgEndKey || m.Flow.Key() != k {
			t.Fatalf("%+v ends as %+v, %v", k, m.Flow, err)
		}
	})
}

// TestSizes: what flows take on the link.
func TestSizes(t *testing.T) {
	udp := tcp()
	udp.Orig.Proto, udp.Reply.Proto = flow.ProtoUDP, flow.ProtoUDP
	udp.Has &^= flow.HasTCPState | flow.HasMark
	udp.Timeout = 120
	born, update, end := len(AppendNativeFlow(nil, 100_000, &udp)), len(AppendUpdate(nil, 100_000, 1, &udp)), len(AppendEnd(nil, 100_000, 1))
	if born != 28 || update != 11 || end != 6 {
		t.Errorf("a UDP flow behind source NAT takes %d, %d and %d bytes", born, update, end)
	}
}

func TestFramer(t *testing.T) {
	p := Framer{Max: 200}
	head := Frame{Seq: 7, Sender: 0x0102030405060708, Epoch: 9, Role: RoleMaster}
	f := tcp()
	for range 2 { // buffers are used again
		p.Reset()
		kept := 0
		for i := range 20 {
			for {
				if !p.Open() {
					p.Begin(&head)
					head.Seq++
				}
				if p.Keep(AppendNativeFlow(p.Buf(), uint32(i), &f)) {
					kept++
					break
				}
				p.Close()
			}
		}
		p.Close()
		seen := 0
		for _, d := range p.Datagrams() {
			msgs, errs := Split(d, nil)
			if errs.Total() != 0 || len(msgs) != 1 || len(d) > 200 || len(d)%4 != 0 {
				t.Fatalf("%d bytes: %+v %+v", len(d), msgs, errs)
			}
			got, ok := ParseFrame(&msgs[0])
			if !ok || got.Sender != head.Sender || got.Epoch != 9 || got.Role != RoleMaster {
				t.Fatalf("%+v", got)
			}
			var m Native
			for b := got.Body; ; seen++ {
				var err error
				if b, err = NextNative(b, &m); err != nil {
					t.Fatal(err)
				}
				if m.Type == 0 {
					break
				}
				if m.Flow != f || m.Handle != uint32(seen) {
					t.Fatalf("message %d: %+v", seen, m)
				}
			}
		}
		if seen != 20 || kept != 20 {
			t.Errorf("%d of %d messages arrived", seen, kept)
		}
	}
}

// TestUnknownMessagesAreSkipped, if they say how long they are.
func TestUnknownMessagesAreSkipped(t *testing.T) {
	b := AppendSized(nil, 99, []byte("of a later release"))
	b = AppendEnd(b, 5, 6)
	var m Native
	b, err := NextNative(b, &m)
	if err != nil || m.Type != 99 || string(m.Body) != "of a later release" {
		t.Fatalf("%+v %v", m, err)
	}
	if _, err = NextNative(b, &m); err != nil || m.Type != MsgEnd || m.Handle != 5 {
		t.Errorf("%+v %v", m, err)
	}
	if _, err = NextNative([]byte{15, 0, 0}, &m); err == nil {
		t.Error("an unknown layout is read")
	}
}

var writeVectors = flag.Bool("vectors", false, "write testdata/native.txt anew")

// frames are vectors with names, for whoever writes a peer.
func frames() map[string][]byte {
	head := Frame{Seq: 0x01020304, Sender: 0x1122334455667788, Epoch: 3, Role: RoleMaster}
	frame := func(fn func(b []byte) []byte) []byte {
		p := Framer{Max: 1472}
		p.Begin(&head)
		p.Keep(fn(p.Buf()))
		p.Close()
		return bytes.Clone(p.Datagrams()[0])
	}
	f := tcp()
	six := flow.Flow{Orig: flow.MakeTuple(flow.ProtoGRE, netip.MustParseAddr("fd01::10"), netip.MustParseAddr("fd02::10"), 7, 8),
		Has: flow.HasStatus | flow.HasReply | flow.HasTimeout | flow.HasHelper | flow.HasZone, Status: 0x18e, Timeout: 180, Zone: 5, Helper: flow.MakeHelper("pptp")}
	six.Reply = six.Orig.Inverse()
	k := six.Key()
	return map[string][]byte{
		"tcp-snat":      frame(func(b []byte) []byte { return AppendNativeFlow(b, 1, &f) }),
		"gre-ipv6-zone": frame(func(b []byte) []byte { return AppendNativeFlow(b, 300, &six) }),
		"update-end": frame(func(b []byte) []byte {
			return AppendEnd(AppendUpdate(b, 1, proof.CheckOf(new(f.Key())), &f), 1, proof.CheckOf(new(f.Key())))
		}),
		"end-by-key": frame(func(b []byte) []byte { return AppendEndKey(b, &k) }),
		"routes": frame(func(b []byte) []byte {
			body := AppendRouteWord(nil, RouteWord{Group: GroupHash("syncgrp"), Settled: true, Raised: true, Generation: 7})
			return AppendSized(b, MsgRoutes, AppendRouteWord(body, RouteWord{Group: GroupHash("other"), Generation: 2}))
		}),
		"expect": frame(func(b []byte) []byte {
			x := flow.Expect{Master: flow.MakeTuple(6, netip.MustParseAddr("10.1.0.10"), netip.MustParseAddr("203.0.113.113"), 40000, 21),
				Tuple: flow.MakeTuple(6, netip.MustParseAddr("203.0.113.113"), netip.MustParseAddr("10.1.0.10"), 0, 5001), Timeout: 300, Has: flow.ExpectHasTimeout}
			x.Mask = flow.Tuple{Src: [16]byte{255, 255, 255, 255}, Dst: [16]byte{255, 255, 255, 255}, Dport: 65535, Proto: 6, Family: flow.IPv4}
			return AppendNativeExpect(b, MsgExpect, &x)
		}),
		"report": frame(func(b []byte) []byte {
			return AppendSized(b, MsgReport, AppendReport(nil, &Report{To: 0x8877665544332211, From: 0xfffffffe, Upto: 9, Missing: []Range{{0xffffffff, 1}, {5, 5}}}))
		}),
		"beat": frame(func(b []byte) []byte {
			return AppendSized(b, MsgBeat, AppendBeat(nil, &Beat{Advert: Advert{Low: 1, High: 2, Release: "0.2.0"}, MaxEpoch: 4, Follows: 0x8877665544332211,
				InSync: true, Proven: 7, Entries: 203114}))
		}),
		"digest": frame(func(b []byte) []byte {
			var d proof.Digest
			h := proof.KeyHash(&k)
			d.Add(h, proof.StateHash(h, &six.Reply, six.Status, 0, 0))
			b = AppendSized(b, MsgDigest, AppendDigest(nil, 1, d.Groups()))
			sums := d.Group(int(proof.BucketOf(h)) / proof.GroupSize)
			return AppendSized(b, MsgBuckets, AppendBuckets(nil, uint8(proof.BucketOf(h)/proof.GroupSize), &sums))
		}),
		"asks": frame(func(b []byte) []byte {
			b = AppendSized(b, MsgAskBuckets, AppendAskBuckets(nil, 0x8877665544332211, 1<<63|1))
			var set proof.Set
			set.Add(1)
			set.Add(4095)
			return AppendSized(b, MsgAskCopy, AppendAskCopy(nil, 0x8877665544332211, &set))
		}),
		"copy": frame(func(b []byte) []byte {
			all := proof.All()
			b = AppendSized(b, MsgCopyStart, AppendCopyMark(nil, 3, &all))
			return AppendSized(b, MsgCopyEnd, AppendCopyMark(nil, 3, &all))
		}),
		"question": frame(func(b []byte) []byte {
			return AppendSized(b, MsgQuestion, AppendQuestion(nil, &Question{To: 0x8877665544332211, ID: 9,
				Query: flow.Query{Src: netip.MustParseAddr("10.1.0.10"), Dst: netip.MustParseAddr("203.0.113.113"), Proto: 6, Dport: 80}}))
		}),
		"answer": frame(func(b []byte) []byte {
			x := AppendEntry(nil, &Entry{Place: PlaceExternal, Flow: f})
			x = AppendEntry(x, &Entry{Place: PlaceFiltered, Why: "router", Flow: f})
			return AppendSized(b, MsgAnswer, AppendAnswer(nil, &Answer{To: 0x8877665544332211, ID: 9, Of: 1, Entries: x}))
		}),
		"empty": frame(func(b []byte) []byte { return b }),
	}
}

// TestNativeVectors: the bytes of testdata/native.txt are what is sent, today and
// in every later release.
func TestNativeVectors(t *testing.T) {
	const file = "testdata/native.txt"
	if *writeVectors {
		var out strings.Builder
		for _, name := range slices.Sorted(maps.Keys(frames())) {
			fmt.Fprintf(&out, "%s %s\n", name, hex.EncodeToString(frames()[name]))
		}
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := frames()
	for line := range strings.Lines(string(text)) {
		name, b, _ := strings.Cut(strings.TrimSpace(line), " ")
		if hex.EncodeToString(want[name]) != b {
			t.Errorf("%s: %x, the file says %s", name, want[name], b)
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("not in the file: %v", want)
	}
}

// FuzzNative: whatever arrives, nothing panics and reading comes to an end; a
// flow that was read is written and read again as the same.
func FuzzNative(f *testing.F) {
	for _, v := range frames() {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, d []byte) {
		msgs, _ := Split(d, nil)
		for i := range msgs {
			_, _ = ParseRoutes(msgs[i].Body)
			fr, ok := ParseFrame(&msgs[i])
			if !ok {
				continue
			}
			var m Native
			for b := fr.Body; len(b) > 0; {
				rest, err := NextNative(b, &m)
				if err != nil || m.Type == 0 {
					break
				}
				if len(rest) >= len(b) {
					t.Fatal("no progress")
				}
				b = rest
				if m.Type == MsgFlow {
					var again Native
					if _, err := NextNative(AppendNativeFlow(nil, m.Handle, &m.Flow), &again); err != nil || again.Flow != m.Flow && m.Flow.Zone != 0 {
						t.Fatalf("%+v\nbecame\n%+v, %v", m.Flow, again.Flow, err)
					}
				}
			}
		}
	})
}

func TestNativeAllocatesNothing(t *testing.T) {
	f := tcp()
	p := Framer{Max: 1472}
	head := Frame{}
	var m Native
	if n := testing.AllocsPerRun(100, func() {
		p.Reset()
		p.Begin(&head)
		p.Keep(AppendNativeFlow(p.Buf(), 1, &f))
		p.Keep(AppendUpdate(p.Buf(), 1, 2, &f))
		p.Close()
		msgs := [1]Message{{Type: Control, Flags: FlagAlive, Body: p.Datagrams()[0][8:]}}
		fr, _ := ParseFrame(&msgs[0])
		for b := fr.Body; ; {
			if b, _ = NextNative(b, &m); m.Type == 0 {
				return
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
