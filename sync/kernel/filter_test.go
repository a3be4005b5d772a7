package kernel

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

// TestKernelFilter: events about other protocols do not come out of the kernel,
// neither births nor ends, over both families; without a filter all do.
func TestKernelFilter(t *testing.T) {
	inNetns(t, func() {
		listener, other := open(t), open(t)
		seen := make(chan flow.Event, 100)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() {
			_ = listener.Events(ctx, func(batch []flow.Event, _ error) {
				for _, ev := range batch {
					seen <- ev
				}
			})
		}()
		protocols := []uint8{flow.ProtoTCP, flow.ProtoUDP, flow.ProtoSCTP, flow.ProtoICMP, flow.ProtoGRE, 253}
		round := func() (got []uint8) {
			var batch []flow.Change
			for _, p := range protocols {
				f := flow.Flow{Orig: flow.MakeTuple(p, client, server, 0, 0), Has: flow.HasTimeout | flow.HasStatus, Timeout: 60}
				switch p {
				case flow.ProtoICMP:
					f.Orig.Sport, f.Orig.Dport = 7, 8<<8
				case 253:
				default:
					f.Orig.Sport, f.Orig.Dport = 1000, 80
				}
				f.Reply = f.Orig.Inverse()
				batch = append(batch, flow.Change{Flow: f})
			}
			six := flow.Flow{Orig: flow.MakeTuple(flow.ProtoUDP, six1, six2, 5, 6), Has: flow.HasTimeout | flow.HasStatus, Timeout: 60}
			six.Reply = six.Orig.Inverse()
			batch = append(batch, flow.Change{Flow: six})
			for _, op := range []flow.Op{flow.Upsert, flow.Delete} {
				for i := range batch {
					batch[i].Op = op
				}
				if done, err := other.Apply(ctx, batch); err != nil || len(done.Failed) > 0 {
					t.Errorf("%+v, %v", done, err)
				}
			}
			for {
				select {
				case ev := <-seen:
					got = append(got, ev.Flow.Orig.Proto)
					if ev.Type == flow.EventDestroy && ev.Flow.Orig.Family == flow.IPv6 {
						slices.Sort(got)
						return slices.Compact(got)
					}
				case <-time.After(10 * time.Second):
					t.Error("the last event does not arrive")
					return got
				}
			}
		}
		if err := listener.SetFilter([]uint8{flow.ProtoUDP, flow.ProtoSCTP, 253}); err != nil {
			t.Fatal(err)
		}
		if got := round(); !slices.Equal(got, []uint8{flow.ProtoUDP, flow.ProtoSCTP, 253}) {
			t.Errorf("with a filter: %v", got)
		}
		if err := listener.SetFilter(nil); err != nil {
			t.Fatal(err)
		}
		slices.Sort(protocols)
		if got := round(); !slices.Equal(got, protocols) {
			t.Errorf("without: %v", got)
		}
	})
}
