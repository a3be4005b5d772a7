package bgp

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// Remote is a gobgpd that is reached by its API. Close ends the connection.
func Remote(addr netip.AddrPort) (*RemoteSpeaker, error) {
	cc, err := grpc.NewClient("passthrough:///"+addr.String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: reconnectMin, Multiplier: 2, MaxDelay: reconnectMax},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		return nil, err
	}
	c := client{api.NewGobgpApiClient(cc)}
	return &RemoteSpeaker{speaker: speaker{c}, client: c, conn: cc, addr: addr}, nil
}

const (
	reconnectMin = 50 * time.Millisecond
	reconnectMax = 500 * time.Millisecond
)

// RemoteSpeaker is a gobgpd in another process.
type RemoteSpeaker struct {
	speaker
	client client
	conn   *grpc.ClientConn
	addr   netip.AddrPort
}

// Name is what operators read.
func (r *RemoteSpeaker) Name() string { return "gobgpd at " + r.addr.String() }

// Close ends the connection.
func (r *RemoteSpeaker) Close() error { return r.conn.Close() }

// Watch looks at the sessions anew after each event.
func (r *RemoteSpeaker) Watch(ctx context.Context, fn func([]Session)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := r.client.rpc.WatchEvent(ctx, onlyPeers())
	if err != nil {
		return plain(err)
	}
	for {
		all, err := r.sessions(ctx)
		if err != nil {
			return err
		}
		fn(all)
		if _, err := events.Recv(); err != nil {
			return plain(err)
		}
	}
}

// client gives the API of a gobgpd the shape of an embedded server.
type client struct{ rpc api.GobgpApiClient }

// plain is the text of an error without gRPC's frame.
func plain(err error) error {
	if s, ok := status.FromError(err); ok && err != nil {
		return errors.New(s.Message())
	}
	return err
}

func (c client) GetBgp(ctx context.Context, r *api.GetBgpRequest) (*api.GetBgpResponse, error) {
	a, err := c.rpc.GetBgp(ctx, r)
	return a, plain(err)
}

func (c client) AddPath(ctx context.Context, r *api.AddPathRequest) (*api.AddPathResponse, error) {
	a, err := c.rpc.AddPath(ctx, r)
	return a, plain(err)
}

func (c client) DeletePath(ctx context.Context, r *api.DeletePathRequest) error {
	_, err := c.rpc.DeletePath(ctx, r)
	return plain(err)
}

func (c client) ListPath(ctx context.Context, r *api.ListPathRequest, fn func(*api.Destination)) error {
	stream, err := c.rpc.ListPath(ctx, r)
	if err != nil {
		return plain(err)
	}
	return drain(stream.Recv, func(m *api.ListPathResponse) { fn(m.Destination) })
}

func (c client) ListPeer(ctx context.Context, r *api.ListPeerRequest, fn func(*api.Peer)) error {
	stream, err := c.rpc.ListPeer(ctx, r)
	if err != nil {
		return plain(err)
	}
	return drain(stream.Recv, func(m *api.ListPeerResponse) { fn(m.Peer) })
}

// drain reads a stream to its end.
func drain[T any](recv func() (T, error), fn func(T)) error {
	for {
		m, err := recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return plain(err)
		}
		fn(m)
	}
}
