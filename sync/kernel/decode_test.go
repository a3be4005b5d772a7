package kernel

import (
	"bytes"
	"context"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"
)

// variety is a flow of every kind the decoder has to tell apart.
func variety() []flow.Flow {
	marked := established(client, server, 1002, 80)
	marked.Mark, marked.Has = 7, marked.Has|flow.HasMark
	marked.TCP.WScaleOrig, marked.TCP.WScaleReply = 7, 9
	marked.Has |= flow.HasTCPWScaleOrig | flow.HasTCPWScaleReply
	zoned := established(client, server, 1003, 80)
	zoned.Zone, zoned.Has = 5, zoned.Has|flow.HasZone
	sctp := established(client, server, 1006, 80)
	sctp.Orig.Proto, sctp.Reply.Proto = flow.ProtoSCTP, flow.ProtoSCTP
	sctp.Has = sctp.Has&^flow.HasTCPState | flow.HasSCTP
	sctp.SCTP = flow.SCTP{State: 4, VtagOrig: 0x01020304, VtagReply: 0x05060708}
	gre := established(client, server, 0x42, 0)
	gre.Orig.Proto, gre.Reply.Proto = flow.ProtoGRE, flow.ProtoGRE
	gre.Has &^= flow.HasTCPState
	icmp6 := flow.Flow{Orig: flow.MakeICMP(flow.ProtoICMPv6, six1, six2, 128, 0, 78), Timeout: 30,
		Has: flow.HasStatus | flow.HasTimeout, Status: flow.StatusSeenReply}
	return []flow.Flow{established(client, server, 1001, 80), marked, zoned, sctp, gre, icmp6,
		translated(client, server, nat, 1004, 80, 50004), translated(six1, six2, sixNAT, 1005, 80, 50005)}
}

// TestOracle reads the same table with our decoder and with ti-mo/conntrack.
func TestOracle(t *testing.T) {
	inNetns(t, func() {
		c := open(t)
		if done := upsert(t, c, variety()...); len(done.Failed) != 0 {
			t.Fatalf("%+v", done)
		}
		other, err := conntrack.Dial(nil)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		theirs, err := other.Dump(nil)
		if err != nil {
			t.Fatal(err)
		}
		ours := dump(t, c)
		if len(ours) != len(theirs) || len(ours) != len(variety()) {
			t.Fatalf("%d entries, theirs %d", len(ours), len(theirs))
		}
		for i := range theirs {
			compareWith(t, ours, &theirs[i])
		}
	})
}

func fromTheirs(p *conntrack.Tuple) flow.Tuple {
	if p.Proto.ICMPv4 || p.Proto.ICMPv6 {
		return flow.MakeICMP(p.Proto.Protocol, p.IP.SourceAddress, p.IP.DestinationAddress, p.Proto.ICMPType, p.Proto.ICMPCode, p.Proto.ICMPID)
	}
	return flow.MakeTuple(p.Proto.Protocol, p.IP.SourceAddress, p.IP.DestinationAddress, p.Proto.SourcePort, p.Proto.DestinationPort)
}

func compareWith(t *testing.T, ours map[flow.Key]flow.Flow, x *conntrack.Flow) {
	f, ok := ours[flow.Key{Tuple: fromTheirs(&x.TupleOrig), Zone: x.Zone}]
	if !ok {
		t.Errorf("not among ours: %+v", x.TupleOrig)
		return
	}
	if f.Reply != fromTheirs(&x.TupleReply) || f.Status != uint32(x.Status) || f.Mark != x.Mark || f.ID != x.ID {
		t.Errorf("ours %+v\ntheirs %+v", f, x)
	}
	if p := x.ProtoInfo.TCP; p != nil {
		if f.TCP.State != p.State || f.TCP.WScaleOrig != p.OriginalWindowScale || f.TCP.FlagsReply != uint8(p.ReplyFlags>>8) {
			t.Errorf("ours %+v\ntheirs %+v", f.TCP, p)
		}
	}
	if p := x.ProtoInfo.SCTP; p != nil {
		if f.SCTP.State != p.State || f.SCTP.VtagOrig != p.VTagOriginal || f.SCTP.VtagReply != p.VTagReply {
			t.Errorf("ours %+v\ntheirs %+v", f.SCTP, p)
		}
	}
}

// TestExpectOracle is TestOracle for expectations.
func TestExpectOracle(t *testing.T) {
	inNetns(t, func() {
		c := open(t)
		upsert(t, c, masters()...)
		if done := upsertExpects(t, c, expectations()...); len(done.Failed) != 0 {
			t.Fatalf("%+v", done)
		}
		other, err := conntrack.Dial(nil)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		theirs, err := other.DumpExpect()
		if err != nil {
			t.Fatal(err)
		}
		ours := dumpExpects(t, c)
		if len(ours) != len(theirs) || len(ours) != len(expectations()) {
			t.Fatalf("%d entries, theirs %d", len(ours), len(theirs))
		}
		for i := range theirs {
			compareExpect(t, ours, &theirs[i])
		}
	})
}

func compareExpect(t *testing.T, ours map[flow.Key]flow.Expect, their *conntrack.Expect) {
	x, ok := ours[flow.Key{Tuple: fromTheirs(&their.Tuple), Zone: their.Zone}]
	if !ok {
		t.Errorf("not among ours: %+v", their.Tuple)
		return
	}
	var nat flow.Tuple
	if their.NAT.Tuple.IP.SourceAddress.IsValid() {
		nat = fromTheirs(&their.NAT.Tuple)
	}
	if x.Master != fromTheirs(&their.TupleMaster) || x.Mask != fromTheirs(&their.Mask) || x.NAT != nat ||
		x.Flags != their.Flags || x.Class != their.Class || (x.NATDir == 1) != their.NAT.Direction ||
		x.Helper.String() != their.HelpName || string(bytes.TrimRight(x.Function[:], "\x00")) != their.Function {
		t.Errorf("ours %+v\ntheirs %+v", x, their)
	}
}

// TestSingleGetReturns: newer releases of the netlink library wait for ever for
// the end of such an answer; the version is pinned for that reason.
func TestSingleGetReturns(t *testing.T) {
	inNetns(t, func() {
		c := open(t)
		f := established(client, server, 1001, 80)
		upsert(t, c, f)
		other, err := conntrack.Dial(nil)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		got, err := other.Get(conntrack.NewFlow(unix.IPPROTO_TCP, 0, client, server, 1001, 80, 0, 0))
		if err != nil || got.TupleOrig.Proto.SourcePort != 1001 {
			t.Fatalf("%+v, %v", got, err)
		}
	})
}

// encoded are messages of our own encoder, whose attributes are the kernel's.
func encoded() (msgs [][]byte) {
	for _, f := range variety() {
		f.Has |= flow.HasSeqAdj | flow.HasSynproxy | flow.HasLabels | flow.HasHelper
		f.Helper, f.Synproxy.ISN, f.Labels[3] = flow.MakeHelper("ftp"), 1, 9
		var e encoder
		e.create(1, &f, true)
		msgs = append(msgs, e.buf[nlHeaderLen:])
	}
	return msgs
}

// strewn puts attributes of types that say nothing, and of types nobody knows, before
// each of b, in nests too.
func strewn(b []byte) (out []byte) {
	for len(b) >= 4 {
		n, typ := int(ne.Uint16(b)), ne.Uint16(b[2:])
		v := b[4:n]
		b = b[min((n+3)&^3, len(b)):]
		if typ&nested != 0 {
			v = strewn(v)
		}
		out = attribute(out, 0, []byte{1, 2, 3})
		out = attribute(out, maskNL-1, []byte{4, 5, 6, 7})
		out = attribute(out, typ, v)
	}
	return out
}

func attribute(out []byte, typ uint16, v []byte) []byte {
	out = ne.AppendUint16(out, uint16(4+len(v)))
	out = append(ne.AppendUint16(out, typ), v...)
	return append(out, make([]byte, -len(v)&3)...)
}

// TestUnknownAttributes: they change nothing, wherever they stand.
func TestUnknownAttributes(t *testing.T) {
	for _, m := range encoded() {
		var want, got flow.Flow
		if err := new(decoder).flow(m[0], m[nfHeaderLen:], &want); err != nil {
			t.Fatal(err)
		}
		more := strewn(m[nfHeaderLen:])
		if err := new(decoder).flow(m[0], more, &got); err != nil || got != want {
			t.Errorf("%v: %d bytes made %d read as\n%+v, want\n%+v", err, len(m), len(more), got, want)
		}
	}
}

// FuzzDecode: whatever stands in a message, decoding ends and panics at nothing.
func FuzzDecode(f *testing.F) {
	for _, m := range encoded() {
		f.Add(m)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < nfHeaderLen {
			return
		}
		var fl flow.Flow
		_ = new(decoder).flow(b[0], b[nfHeaderLen:], &fl)
		for rest, ok := b, true; ok; {
			_, rest, ok = nextMessage(rest)
		}
	})
}

// FuzzDecodeExpect is FuzzDecode for expectations.
func FuzzDecodeExpect(f *testing.F) {
	for _, x := range expectations() {
		var e encoder
		e.createExpect(1, &x)
		f.Add(e.buf[nlHeaderLen:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < nfHeaderLen {
			return
		}
		var x flow.Expect
		_ = new(decoder).expect(b[0], b[nfHeaderLen:], &x)
	})
}

func TestDecodeAllocatesNothing(t *testing.T) {
	d, msgs := new(decoder), encoded()
	var f flow.Flow
	n := testing.AllocsPerRun(100, func() {
		for _, m := range msgs {
			if err := d.flow(m[0], m[nfHeaderLen:], &f); err != nil {
				t.Fatal(err)
			}
		}
	})
	if n != 0 {
		t.Fatalf("%v allocations for %d messages", n, len(msgs))
	}
}

// TestEventsOfFlowsAllocateNothing also after an expectation in their place of
// the batch, of which nothing may remain.
func TestEventsOfFlowsAllocateNothing(t *testing.T) {
	var e encoder
	e.createExpect(1, &expectations()[0])
	expect, _, _ := nextMessage(e.buf)
	f := variety()[0]
	e = encoder{}
	e.create(1, &f, true)
	l := &listener{d: new(decoder), batch: make([]flow.Event, 0, 1)}
	l.add(&expect)
	if ev := l.batch[0]; ev.Type != flow.EventNew || ev.Expect == nil || ev.Expect.Key() != expectations()[0].Key() {
		t.Fatalf("%+v", ev)
	}
	n := testing.AllocsPerRun(100, func() {
		l.batch = l.batch[:0]
		m, _, _ := nextMessage(e.buf)
		l.add(&m)
	})
	if ev := l.batch[0]; n != 0 || ev.Expect != nil || ev.Flow.Orig != f.Orig {
		t.Fatalf("%v allocations for %+v", n, ev)
	}
}

func BenchmarkDecode(b *testing.B) {
	d, m := new(decoder), encoded()[0]
	var f flow.Flow
	b.ReportAllocs()
	for b.Loop() {
		_ = d.flow(m[0], m[nfHeaderLen:], &f)
	}
}

func BenchmarkEncode(b *testing.B) {
	var e encoder
	f := variety()[6]
	b.ReportAllocs()
	for b.Loop() {
		e.buf = e.buf[:0]
		e.create(1, &f, true)
	}
}

// BenchmarkApply needs root: 1000 creates and 1000 deletes.
func BenchmarkApply(b *testing.B) {
	inNetns(b, func() {
		c, err := Open(nil)
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		batch := make([]flow.Change, 1000)
		for i := range batch {
			batch[i].Flow = established(client, server, uint16(i+1), 80)
		}
		for b.Loop() {
			for _, op := range []flow.Op{flow.Upsert, flow.Delete} {
				for i := range batch {
					batch[i].Op = op
				}
				if _, err := c.Apply(context.Background(), batch); err != nil {
					b.Error(err)
					return
				}
			}
		}
	})
}
