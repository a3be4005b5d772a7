package engine_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/udp/udptest"
)

// TestSilentAdjustment: a helper changes a segment's length, which the kernel
// tells nobody; the standby has it all the same.
func TestSilentAdjustment(t *testing.T) {
	status := func(a *node, f flow.Flow) {
		a.table.PutSilently(f)
		bare := f
		bare.Has &^= flow.HasSeqAdj
		a.table.Say(flow.Event{Type: flow.EventUpdate, Flow: bare})
	}
	for name, says := range map[string]func(a *node, f flow.Flow){
		"an expectation": func(a *node, f flow.Flow) {
			a.table.PutSilently(f)
			a.table.PutExpect(flow.Expect{Master: f.Orig, Tuple: f.Orig.Inverse(), Mask: f.Orig})
		},
		"the status": status,
		"the status, and the kernel does not answer at first": func(a *node, f flow.Flow) {
			a.table.FailGet(errors.New("no answer"))
			status(a, f)
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t, udptest.Faults{})
			f := flowNo(1)
			a.table.Put(f)
			eventually(t, "the flow", mirrors(t, a, b))
			f, _ = a.table.Flow(f.Key())
			f.Status |= flow.StatusSeqAdjust
			f.SeqAdjOrig = flow.SeqAdj{Pos: 1000, OffsetAfter: 3}
			f.Has |= flow.HasSeqAdj | flow.HasStatus
			says(a, f)
			eventually(t, "the adjustment on the standby", func() error {
				var got flow.SeqAdj
				err := b.Flows(t.Context(), flow.External, func(flows []flow.Flow) error {
					for i := range flows {
						got = flows[i].SeqAdjOrig
					}
					return nil
				})
				if err != nil || got != f.SeqAdjOrig {
					return fmt.Errorf("%+v, %w", got, err)
				}
				return nil
			})
		})
	}
}
