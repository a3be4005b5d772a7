package wire

import "github.com/zeebo/xxh3"

// RouteWord is what a node says of the routes of one sync group.
type RouteWord struct {
	Group      uint32 // GroupHash of its name
	Settled    bool   // MASTER, its commit is over, its routes are announced
	Raised     bool   // a path of its with MASTER attributes stands
	Generation uint32 // the highest that is known to stand
}

const (
	routeSettled = 1
	routeRaised  = 2

	routeWordLen = 4 + 1 + 4
)

// GroupHash names a sync group on the link: the low half of its name's XXH3-64.
func GroupHash(name string) uint32 { return uint32(xxh3.HashString(name)) }

// AppendRouteWord writes one entry of the body of a MsgRoutes.
func AppendRouteWord(b []byte, w RouteWord) []byte {
	flags := byte(0)
	if w.Settled {
		flags |= routeSettled
	}
	if w.Raised {
		flags |= routeRaised
	}
	return be.AppendUint32(append(be.AppendUint32(b, w.Group), flags), w.Generation)
}

// ParseRoutes reads the body of a MsgRoutes; a length that is no multiple of an
// entry's is refused.
func ParseRoutes(body []byte) (words []RouteWord, ok bool) {
	if len(body)%routeWordLen != 0 {
		return nil, false
	}
	for r := (reader{b: body}); len(r.b) > 0; {
		w := RouteWord{Group: r.u32()}
		flags := r.u8()
		w.Settled, w.Raised = flags&routeSettled != 0, flags&routeRaised != 0
		w.Generation = r.u32()
		words = append(words, w)
	}
	return words, true
}
