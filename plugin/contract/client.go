package contract

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	pb "github.com/conntrack-sync/conntrack-sync/plugin/enginepb"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// client is an Engine in another process.
type client struct {
	conn grpc.ClientConnInterface
	rpc  pb.EngineClient
}

func newClient(conn grpc.ClientConnInterface) *client {
	return &client{conn: conn, rpc: pb.NewEngineClient(conn)}
}

func (c *client) of(group string) *client { return newClient(tagged{c.conn, group}) }

var _ Engine = (*client)(nil)

// ErrGone says that the engine's process does not answer any more.
var ErrGone = errors.New("the engine process is gone")

// unwrap gives an error the text it had in the engine.
func unwrap(err error) error {
	s, ok := status.FromError(err)
	if !ok || err == nil {
		return err
	}
	switch s.Code() {
	case codes.Canceled:
		return context.Canceled
	case codes.DeadlineExceeded:
		return context.DeadlineExceeded
	case codes.Unimplemented:
		return fmt.Errorf("the engine is of an older release and does not know this; install both programs of one release and restart: %s", s.Message())
	case codes.Unavailable:
		return fmt.Errorf("%w: %s", ErrGone, s.Message())
	}
	return errors.New(s.Message())
}

func read[T any](d *pb.Document, err error) (v T, _ error) {
	if err != nil {
		return v, unwrap(err)
	}
	return v, json.Unmarshal(d.Json, &v)
}

func done(_ *pb.Empty, err error) error { return unwrap(err) }

func (c *client) Configure(ctx context.Context, s Settings) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return done(c.rpc.Configure(ctx, &pb.Document{Json: b}))
}

func (c *client) SetRole(ctx context.Context, group, role string) error {
	return done(c.rpc.SetRole(ctx, &pb.Role{Group: group, Role: role}))
}

func (c *client) Announce(ctx context.Context, words []stats.RouteWord) error {
	b, err := json.Marshal(words)
	if err != nil {
		return err
	}
	return done(c.rpc.Announce(ctx, &pb.Document{Json: b}))
}

func (c *client) Commit(ctx context.Context) (stats.Commit, error) {
	return read[stats.Commit](c.rpc.Commit(ctx, empty))
}

func (c *client) Flush(ctx context.Context, t Table) error {
	return done(c.rpc.Flush(ctx, &pb.Which{Table: uint32(t)}))
}

func (c *client) Resync(ctx context.Context) error { return done(c.rpc.Resync(ctx, empty)) }
func (c *client) Bulk(ctx context.Context) error   { return done(c.rpc.Bulk(ctx, empty)) }
func (c *client) RequestResync(ctx context.Context) error {
	return done(c.rpc.RequestResync(ctx, empty))
}
func (c *client) ShortenTimers(ctx context.Context) error {
	return done(c.rpc.ShortenTimers(ctx, empty))
}
func (c *client) Ping(ctx context.Context) error { return done(c.rpc.Ping(ctx, empty)) }
func (c *client) Stop(ctx context.Context) error { return done(c.rpc.Stop(ctx, empty)) }

func (c *client) Statistics(ctx context.Context) (stats.Statistics, error) {
	return read[stats.Statistics](c.rpc.Statistics(ctx, empty))
}

func (c *client) Diff(ctx context.Context) (stats.Diff, error) {
	return read[stats.Diff](c.rpc.Diff(ctx, empty))
}

func (c *client) CommitReport(ctx context.Context) (stats.CommitReport, error) {
	return read[stats.CommitReport](c.rpc.CommitReport(ctx, empty))
}

func (c *client) Where(ctx context.Context, q flow.Query) (w stats.Where, err error) {
	b, err := json.Marshal(q)
	if err != nil {
		return w, err
	}
	return read[stats.Where](c.rpc.Where(ctx, &pb.Document{Json: b}))
}

func (c *client) Status(ctx context.Context) (stats.Engine, error) {
	return read[stats.Engine](c.rpc.Status(ctx, empty))
}

func (c *client) Flows(ctx context.Context, t Table, fn func([]flow.Flow) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.rpc.Flows(ctx, &pb.Which{Table: uint32(t)})
	if err != nil {
		return unwrap(err)
	}
	var batch []flow.Flow
	for {
		b, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return unwrap(err)
		}
		batch = batch[:0]
		for _, p := range b.Flows {
			batch = append(batch, flow.Flow{})
			unpackFlow(p, &batch[len(batch)-1])
		}
		if err := fn(batch); err != nil {
			return err
		}
	}
}

func (c *client) Expects(ctx context.Context, t Table) (all []flow.Expect, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.rpc.Expects(ctx, &pb.Which{Table: uint32(t)})
	if err != nil {
		return nil, unwrap(err)
	}
	for {
		d, err := stream.Recv()
		if err == io.EOF {
			return all, nil
		}
		some, err := read[[]flow.Expect](d, err)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
}

// attach holds the stream whose end tells the engine that its host is gone;
// gone is closed when the process ends or ctx does.
func (c *client) attach(ctx context.Context) (gone <-chan struct{}, err error) {
	stream, err := c.rpc.Attach(ctx, empty)
	if err != nil {
		return nil, unwrap(err)
	}
	if _, err := stream.Recv(); err != nil {
		return nil, unwrap(err)
	}
	ch := make(chan struct{})
	go func() {
		defer close(ch)
		_, _ = stream.Recv()
	}()
	return ch, nil
}
