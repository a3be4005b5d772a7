package flow

import (
	"net/netip"
	"testing"
)

func TestQuery(t *testing.T) {
	a := netip.MustParseAddr
	f := Flow{Orig: MakeTuple(6, a("10.1.0.10"), a("203.0.113.10"), 40000, 80), Has: HasReply}
	f.Reply = f.Orig.Inverse()
	f.Reply.SetDst(a("203.0.113.254"))
	f.Reply.Dport = 1024
	for q, want := range map[Query]bool{
		{Src: a("10.1.0.10"), Dst: a("203.0.113.10")}:                                    true,
		{Src: a("10.1.0.10"), Dst: a("203.0.113.10"), Proto: 6, Sport: 40000, Dport: 80}: true,
		{Src: a("203.0.113.10"), Dst: a("10.1.0.10"), Sport: 80}:                         true,
		{Src: a("203.0.113.254"), Dst: a("203.0.113.10"), Sport: 1024}:                   true, // as it leaves
		{Src: a("203.0.113.10"), Dst: a("203.0.113.254"), Dport: 1024}:                   true, // as it is answered
		{Src: a("10.1.0.10"), Dst: a("203.0.113.10"), Proto: 17}:                         false,
		{Src: a("10.1.0.10"), Dst: a("203.0.113.10"), Dport: 81}:                         false,
		{Src: a("10.1.0.10"), Dst: a("203.0.113.254")}:                                   false,
		{Src: a("fd00::1"), Dst: a("203.0.113.10")}:                                      false,
	} {
		if q.Match(&f) != want {
			t.Errorf("%+v: %v", q, !want)
		}
	}
}
