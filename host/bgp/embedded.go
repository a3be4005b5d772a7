package bgp

import (
	"context"

	api "github.com/osrg/gobgp/v3/api"
)

// Server is what is used of a *server.BgpServer of github.com/osrg/gobgp/v3.
type Server interface {
	calls
	WatchEvent(ctx context.Context, r *api.WatchEventRequest, fn func(*api.WatchEventResponse)) error
}

// Embedded is a speaker inside this program.
func Embedded(s Server) Speaker { return embedded{speaker{s}, s} }

type embedded struct {
	speaker
	server Server
}

func (embedded) Name() string { return "embedded speaker" }

// Watch looks at the sessions anew after each event: an event comes from inside
// the server, which must not be called from there.
func (e embedded) Watch(ctx context.Context, fn func([]Session)) error {
	changed := make(chan struct{}, 1)
	err := e.server.WatchEvent(ctx, onlyPeers(), func(*api.WatchEventResponse) {
		select {
		case changed <- struct{}{}:
		default: // it will be looked at anyway
		}
	})
	if err != nil {
		return err
	}
	for {
		all, err := e.sessions(ctx)
		if err != nil {
			return err
		}
		fn(all)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}
