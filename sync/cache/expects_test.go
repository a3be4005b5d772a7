package cache

import (
	"net/netip"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

func expectation(port uint16) flow.Expect {
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	return flow.Expect{Master: flow.MakeTuple(6, a, b, 4000, 21), Tuple: flow.MakeTuple(6, a, b, 0, port),
		Timeout: 300, Has: flow.ExpectHasTimeout}
}

func TestExpects(t *testing.T) {
	s := NewExpects()
	x, y := expectation(2), expectation(1)
	if !s.Put(&x, 10) || !s.Put(&y, 11) {
		t.Error("new ones are a change")
	}
	x.Timeout = 200
	if s.Put(&x, 12) {
		t.Error("another timeout is none")
	}
	x.Class, x.Has = 1, x.Has|flow.ExpectHasClass
	if !s.Put(&x, 12) {
		t.Error("another class is one")
	}
	all := s.All()
	if len(all) != 2 || all[0].Tuple.Dport != 1 || all[1].Since != 10 || all[1].Class != 1 {
		t.Errorf("%+v", all)
	}
	s.NewGeneration()
	s.Put(&y, 13)
	if old := s.Old(); len(old) != 1 || old[0] != x.Key() {
		t.Errorf("old: %v", old)
	}
	if !s.Bury(x.Key(), 20) || s.Bury(x.Key(), 20) {
		t.Error("buried once")
	}
	if got, live := s.Find(x.Key()); live || got == nil || got.Class != 1 {
		t.Errorf("what was buried is still known: %v %v", got, live)
	}
	s.Forget(20)
	if got, _ := s.Find(x.Key()); got == nil {
		t.Error("forgotten too early")
	}
	s.Forget(21)
	if got, _ := s.Find(x.Key()); got != nil {
		t.Error("not forgotten")
	}
	if c := s.Stats(); c.Active != 1 || c.Created != 2 || c.Updated != 3 || c.Destroyed != 1 {
		t.Errorf("%+v", c)
	}
}
