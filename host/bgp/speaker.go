package bgp

import (
	"context"
	"net/netip"

	api "github.com/osrg/gobgp/v3/api"
	"google.golang.org/protobuf/types/known/anypb"
)

// Speaker is the BGP speaker whose paths follow the roles: Embedded or Remote.
type Speaker interface {
	// Name is what operators read, such as "gobgpd at 127.0.0.1:50051".
	Name() string
	// AS is the speaker's own number, 0 while it has none.
	AS(ctx context.Context) (uint32, error)
	// Path returns the attributes of the path the speaker itself originates; held
	// is false when there is none.
	Path(ctx context.Context, p netip.Prefix) (attrs []*anypb.Any, held bool, err error)
	// Add announces a prefix, in the place of what was announced of it.
	Add(ctx context.Context, p netip.Prefix, attrs []*anypb.Any) error
	// Delete takes the speaker's own path away.
	Delete(ctx context.Context, p netip.Prefix) error
	// Watch hands over the sessions, then again after each change, until ctx ends
	// or the speaker is gone.
	Watch(ctx context.Context, fn func([]Session)) error
}

// Session is one of the speaker's sessions.
type Session struct {
	Neighbor string
	AS       uint32
	State    string // RFC 4271's words
	Up       bool
	Disabled bool // an operator shut it down
	IPv4     bool // it is configured for IPv4 unicast; neither: for all there is
	IPv6     bool
}

// carries reports whether routes like p go over the session.
func (s Session) carries(p netip.Prefix) bool {
	if p.Addr().Is6() {
		return s.IPv6 || !s.IPv4
	}
	return s.IPv4 || !s.IPv6
}

// calls is what both kinds of speaker are made of.
type calls interface {
	GetBgp(ctx context.Context, r *api.GetBgpRequest) (*api.GetBgpResponse, error)
	AddPath(ctx context.Context, r *api.AddPathRequest) (*api.AddPathResponse, error)
	DeletePath(ctx context.Context, r *api.DeletePathRequest) error
	ListPath(ctx context.Context, r *api.ListPathRequest, fn func(*api.Destination)) error
	ListPeer(ctx context.Context, r *api.ListPeerRequest, fn func(*api.Peer)) error
}

// speaker is a Speaker but for Name and Watch.
type speaker struct{ calls }

func (s speaker) AS(ctx context.Context) (uint32, error) {
	r, err := s.GetBgp(ctx, &api.GetBgpRequest{})
	if err != nil {
		return 0, err
	}
	return r.GetGlobal().GetAsn(), nil
}

func (s speaker) Path(ctx context.Context, p netip.Prefix) (attrs []*anypb.Any, held bool, err error) {
	err = s.ListPath(ctx, &api.ListPathRequest{TableType: api.TableType_GLOBAL, Family: familyOf(p),
		Prefixes: []*api.TableLookupPrefix{{Prefix: p.String()}}}, func(d *api.Destination) {
		for _, path := range d.Paths {
			// "<nil>" is how a path without a neighbour is told.
			if d.Prefix == p.String() && !path.IsWithdraw && (path.NeighborIp == "" || path.NeighborIp == "<nil>") {
				attrs, held = path.Pattrs, true
			}
		}
	})
	return attrs, held, err
}

func (s speaker) Add(ctx context.Context, p netip.Prefix, attrs []*anypb.Any) error {
	path, err := pathOf(p, attrs)
	if err != nil {
		return err
	}
	_, err = s.AddPath(ctx, &api.AddPathRequest{TableType: api.TableType_GLOBAL, Path: path})
	return err
}

func (s speaker) Delete(ctx context.Context, p netip.Prefix) error {
	attrs, err := originate(p)
	if err != nil {
		return err
	}
	path, err := pathOf(p, attrs)
	if err != nil {
		return err
	}
	return s.DeletePath(ctx, &api.DeletePathRequest{TableType: api.TableType_GLOBAL, Family: familyOf(p), Path: path})
}

func (s speaker) sessions(ctx context.Context) (all []Session, err error) {
	err = s.ListPeer(ctx, &api.ListPeerRequest{}, func(p *api.Peer) {
		st := p.GetState()
		if st == nil {
			return
		}
		s := Session{Neighbor: st.NeighborAddress, AS: st.PeerAsn, State: st.SessionState.String(),
			Up: st.SessionState == api.PeerState_ESTABLISHED, Disabled: st.AdminState != api.PeerState_UP}
		for _, f := range p.AfiSafis {
			if c := f.GetConfig().GetFamily(); c.GetSafi() == api.Family_SAFI_UNICAST {
				s.IPv4 = s.IPv4 || c.GetAfi() == api.Family_AFI_IP
				s.IPv6 = s.IPv6 || c.GetAfi() == api.Family_AFI_IP6
			}
		}
		all = append(all, s)
	})
	return all, err
}

// onlyPeers asks for changes of sessions.
func onlyPeers() *api.WatchEventRequest {
	return &api.WatchEventRequest{Peer: &api.WatchEventRequest_Peer{}}
}
