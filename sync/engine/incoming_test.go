package engine

import (
	"net/netip"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/native"
	"github.com/conntrack-sync/conntrack-sync/sync/proof"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// TestCopyOfAnother: the start of a copy by a node that is not followed changes
// nothing of the copy that is being received, nor does one that is cut off.
func TestCopyOfAnother(t *testing.T) {
	e, now := New(Options{}), time.Now()
	f := flow.Flow{Orig: flow.MakeTuple(flow.ProtoUDP, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), 1, 2)}
	r, _, err := e.external.Put(&f, now.Unix())
	if err != nil {
		t.Fatal(err)
	}
	var other proof.Set // all buckets but the flow's
	for i := range uint16(proof.Buckets) {
		if i != e.external.Bucket(r) {
			other.Add(i)
		}
	}
	all, followed, stranger := proof.All(), &native.Peer{ID: 1}, &native.Peer{ID: 2}
	mark := func(p *native.Peer, typ wire.MsgType, id uint32, set *proof.Set, cut int, from bool) {
		b := wire.AppendCopyMark(nil, id, set)
		e.onProof(now, p, &wire.Native{Type: typ, Body: b[:len(b)-cut]}, from)
	}
	mark(followed, wire.MsgCopyStart, 7, &other, 0, true)
	mark(followed, wire.MsgCopyStart, 9, &all, 1, true)
	mark(stranger, wire.MsgCopyStart, 8, &all, 0, false)
	mark(followed, wire.MsgCopyEnd, 7, &other, 0, true)
	if e.external.Len() != 1 {
		t.Error("a flow that was not in the copy was removed at its end")
	}
}
