package flow

import "net/netip"

// Query names flows by what an operator knows of them. Zero values match all.
type Query struct {
	Src   netip.Addr `json:"src"`
	Dst   netip.Addr `json:"dst"`
	Proto uint8      `json:"protonum,omitempty"`
	Sport uint16     `json:"sport,omitempty"`
	Dport uint16     `json:"dport,omitempty"`
}

// Match reports whether packets of the flow go from Src to Dst, in either
// direction, before or after their translation.
func (q *Query) Match(f *Flow) bool {
	if q.Proto != 0 && q.Proto != f.Orig.Proto {
		return false
	}
	for _, t := range [...]*Tuple{&f.Orig, &f.Reply} {
		if q.matches(t.SrcAddr(), t.DstAddr(), t.Sport, t.Dport) || q.matches(t.DstAddr(), t.SrcAddr(), t.Dport, t.Sport) {
			return true
		}
		if f.Has&HasReply == 0 {
			break
		}
	}
	return false
}

func (q *Query) matches(src, dst netip.Addr, sport, dport uint16) bool {
	return q.Src == src && q.Dst == dst && (q.Sport == 0 || q.Sport == sport) && (q.Dport == 0 || q.Dport == dport)
}
