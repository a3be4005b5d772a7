package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/conntrack-sync/conntrack-sync/conf"
	api "github.com/osrg/gobgp/v3/api"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// gracefulShutdown is the community of RFC 8326.
const gracefulShutdown = 65535 << 16

// dress is what is ours of a path's attributes. The others are whoever's they
// were.
type dress struct {
	none        bool // no path at all
	med         uint32
	prepend     int // how often the own AS stands in front
	draining    bool
	communities []conf.Community // of the configuration
}

// dressFor says how a prefix is announced at a level.
func dressFor(c *conf.BGP, w want) dress {
	d := dress{draining: w.draining, communities: c.Communities}
	switch w.level {
	case Master:
		d.med = c.MasterMED - min(w.generation, c.MasterMED)
	case Standby:
		d.none, d.med, d.prepend = c.StandbyWithdraw, c.StandbyMED, int(c.StandbyPrepend)
	default:
		d.none, d.med, d.prepend = c.UnreadyMED == 0, c.UnreadyMED, int(c.StandbyPrepend)
	}
	if d.none {
		return dress{none: true}
	}
	return d
}

// String is a dress for operators.
func (d dress) String() string {
	if d.none {
		return "withdrawn"
	}
	s := fmt.Sprintf("med %d", d.med)
	if d.prepend > 0 {
		s += fmt.Sprintf(", own AS prepended %d times", d.prepend)
	}
	for _, c := range d.communities {
		s += ", " + c.String()
	}
	if d.draining {
		s += ", GRACEFUL_SHUTDOWN"
	}
	return s
}

// put returns a path's attributes with the dress on: what others have set is
// kept.
func (d dress) put(base []*anypb.Any, asn uint32) ([]*anypb.Any, error) {
	var out []*anypb.Any
	asPath, ordinary, large := &api.AsPathAttribute{}, &api.CommunitiesAttribute{}, &api.LargeCommunitiesAttribute{}
	for _, a := range base {
		var err error
		switch {
		case a.MessageIs(&api.MultiExitDiscAttribute{}):
		case a.MessageIs(asPath):
			err = a.UnmarshalTo(asPath)
		case a.MessageIs(ordinary):
			err = a.UnmarshalTo(ordinary)
		case a.MessageIs(large):
			err = a.UnmarshalTo(large)
		default:
			out = append(out, a)
		}
		if err != nil {
			return nil, err
		}
	}
	d.community(ordinary, large)
	if d.prepend > 0 {
		own := &api.AsSegment{Type: api.AsSegment_AS_SEQUENCE, Numbers: slices.Repeat([]uint32{asn}, d.prepend)}
		asPath.Segments = append([]*api.AsSegment{own}, asPath.Segments...)
	}
	ours := []proto.Message{&api.MultiExitDiscAttribute{Med: d.med}}
	if len(asPath.Segments) > 0 {
		ours = append(ours, asPath)
	}
	if len(ordinary.Communities) > 0 {
		ours = append(ours, ordinary)
	}
	if len(large.Communities) > 0 {
		ours = append(ours, large)
	}
	for _, m := range ours {
		a, err := anypb.New(m)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

// community adds the communities of the dress.
func (d dress) community(ordinary *api.CommunitiesAttribute, large *api.LargeCommunitiesAttribute) {
	if d.draining {
		ordinary.Communities = append(ordinary.Communities, gracefulShutdown)
	}
	for _, c := range d.communities {
		if c.Large {
			large.Communities = append(large.Communities, &api.LargeCommunity{GlobalAdmin: c.A, LocalData1: c.B, LocalData2: c.C})
		} else {
			ordinary.Communities = append(ordinary.Communities, c.A<<16|c.B)
		}
	}
}

// strip takes off what this program may have put on a path in an earlier run: the
// own AS in front, the configured communities, GRACEFUL_SHUTDOWN. What is left
// is the base that a dress is put on.
func strip(attrs []*anypb.Any, asn uint32, communities []conf.Community) ([]*anypb.Any, error) {
	var out []*anypb.Any
	add := func(m proto.Message) error {
		a, err := anypb.New(m)
		out = append(out, a)
		return err
	}
	for _, a := range attrs {
		m, err := a.UnmarshalNew()
		if err != nil {
			out = append(out, a) // of a later release: kept as it is
			continue
		}
		switch m := m.(type) {
		case *api.AsPathAttribute:
			for len(m.Segments) > 0 && allOwn(m.Segments[0], asn) {
				m.Segments = m.Segments[1:]
			}
			if err = nil; len(m.Segments) > 0 {
				err = add(m)
			}
		case *api.CommunitiesAttribute:
			m.Communities = slices.DeleteFunc(m.Communities, func(v uint32) bool {
				return v == gracefulShutdown || slices.Contains(communities, conf.Community{A: v >> 16, B: v & 0xffff})
			})
			if err = nil; len(m.Communities) > 0 {
				err = add(m)
			}
		case *api.LargeCommunitiesAttribute:
			m.Communities = slices.DeleteFunc(m.Communities, func(v *api.LargeCommunity) bool {
				return slices.Contains(communities, conf.Community{Large: true, A: v.GlobalAdmin, B: v.LocalData1, C: v.LocalData2})
			})
			if err = nil; len(m.Communities) > 0 {
				err = add(m)
			}
		default:
			out = append(out, a)
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func allOwn(s *api.AsSegment, asn uint32) bool {
	return s.Type == api.AsSegment_AS_SEQUENCE && !slices.ContainsFunc(s.Numbers, func(n uint32) bool { return n != asn })
}

// worn is what a path's attributes say of what is ours: the MED, and whether there
// is one.
func worn(attrs []*anypb.Any) (med uint32, ok bool) {
	var m api.MultiExitDiscAttribute
	for _, a := range attrs {
		if a.MessageIs(&m) && a.UnmarshalTo(&m) == nil {
			return m.Med, true
		}
	}
	return 0, false
}

// same reports whether two lists hold the same attributes, in whatever order.
func sameAttributes(a, b []*anypb.Any) bool {
	return slices.Equal(sortedTexts(a), sortedTexts(b))
}

// sortedTexts leaves out the NLRI that a speaker puts into MP_REACH_NLRI: it is
// the prefix itself.
func sortedTexts(attrs []*anypb.Any) (out []string) {
	for _, a := range attrs {
		m, err := a.UnmarshalNew()
		if err != nil {
			out = append(out, a.TypeUrl+string(a.Value))
			continue
		}
		switch m := m.(type) {
		case *api.MpReachNLRIAttribute:
			out = append(out, "next hop "+strings.Join(m.NextHops, " "))
			continue
		case *api.NextHopAttribute:
			out = append(out, "next hop "+m.NextHop)
			continue
		case *api.CommunitiesAttribute:
			slices.Sort(m.Communities)
			m.Communities = slices.Compact(m.Communities)
		}
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			b = a.Value
		}
		out = append(out, a.TypeUrl+string(b))
	}
	slices.Sort(out)
	return out
}

// originate is the base of a prefix that the speaker does not hold: it comes from
// here, and is reached through whoever announces it.
func originate(p netip.Prefix) ([]*anypb.Any, error) {
	self := "0.0.0.0"
	if p.Addr().Is6() {
		self = "::"
	}
	origin, err := anypb.New(&api.OriginAttribute{Origin: 0})
	if err != nil {
		return nil, err
	}
	hop, err := anypb.New(&api.NextHopAttribute{NextHop: self})
	return []*anypb.Any{origin, hop}, err
}

func familyOf(p netip.Prefix) *api.Family {
	if p.Addr().Is6() {
		return &api.Family{Afi: api.Family_AFI_IP6, Safi: api.Family_SAFI_UNICAST}
	}
	return &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}
}

// pathOf makes a path of attributes.
func pathOf(p netip.Prefix, attrs []*anypb.Any) (*api.Path, error) {
	nlri, err := anypb.New(&api.IPAddressPrefix{Prefix: p.Addr().String(), PrefixLen: uint32(p.Bits())})
	return &api.Path{Family: familyOf(p), Nlri: nlri, Pattrs: attrs}, err
}
