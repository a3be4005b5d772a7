package shim

import (
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
)

// last waits for the receipts to satisfy ok and returns the last of them.
func (r *rig) last(t *testing.T, what string, ok func(list []stats.Transition) bool) stats.Transition {
	t.Helper()
	var list []stats.Transition
	eventually(t, what, func() bool {
		var err error
		list, err = Dial(r.dir + "/run").Transitions(t.Context())
		return err == nil && len(list) > 0 && ok(list)
	})
	return list[len(list)-1]
}

func TestReceipts(t *testing.T) {
	r := newRig(t)
	e := r.engine(t)
	r.answers(t)
	e.say(inSync(false))
	r.role(t, vrrpwatch.Master)
	x := r.last(t, "the sequence's end", func(l []stats.Transition) bool { return l[0].Outcome == "done" })
	var steps []string
	for _, s := range x.Steps {
		steps = append(steps, s.Name)
	}
	want := []string{"tell the role", "commit the external cache", "flush both caches", "refill the internal cache from the kernel", "send everything to the peers"}
	if !slices.Equal(steps, want) || x.State != "MASTER" || x.Source != "test" || x.Group != "SG" {
		t.Errorf("%+v", x)
	}
	if x.FirstEntryMS != nil || x.EqualMS != nil || x.Commit == nil || x.BulkMS == nil || x.DoneMS == nil || *x.BulkMS > *x.DoneMS {
		t.Errorf("%+v", x)
	}
	e.say(inSync(true))
	x = r.last(t, "the proof", func(l []stats.Transition) bool { return l[0].EqualMS != nil })
	if *x.EqualMS < *x.DoneMS {
		t.Errorf("equal after %v ms, done after %v", *x.EqualMS, *x.DoneMS)
	}
	eventually(t, "the file", func() bool {
		var list []stats.Transition
		b, err := os.ReadFile(r.dir + "/run/" + receiptsFile)
		return err == nil && json.Unmarshal(b, &list) == nil && len(list) == 1 && list[0].EqualMS != nil
	})
}

func TestReceiptOfASupersededRole(t *testing.T) {
	r := newRig(t)
	e := r.engine(t)
	r.answers(t)
	e.mu.Lock()
	e.hold = make(chan struct{})
	e.mu.Unlock()
	r.role(t, vrrpwatch.Master)
	settles(t, e, "configure:SG role:MASTER commit")
	r.role(t, vrrpwatch.Backup)
	r.last(t, "both receipts", func(l []stats.Transition) bool {
		return len(l) == 2 && l[0].Outcome == "superseded by BACKUP" && l[1].Outcome == "done"
	})
	for range receiptsKept + 5 {
		r.role(t, vrrpwatch.Fault)
	}
	if l := r.Transitions(); len(l) != receiptsKept {
		t.Errorf("%d are kept", len(l))
	}
}

// TestReceiptsOutliveTheDaemon, and one whose sequence it did not finish says so.
func TestReceiptsOutliveTheDaemon(t *testing.T) {
	r := newRig(t, func(r *rig, _ *Options) {
		r.write(t, "run/"+receiptsFile, `[{"group":"SG","state":"MASTER","source":"fifo","at":"2026-01-01T00:00:00.000Z","outcome":"running","steps":[]}]`)
	})
	r.engine(t)
	r.last(t, "the former receipt", func(l []stats.Transition) bool { return len(l) == 1 && l[0].Outcome == "the daemon ended" })
}

// TestReceiptOfAGuardMadeAnew: its counters began at zero meanwhile.
func TestReceiptOfAGuardMadeAnew(t *testing.T) {
	if n := grown(3, 10); n != 3 {
		t.Errorf("%d", n)
	}
	if n := grown(10, 3); n != 7 {
		t.Errorf("%d", n)
	}
}
