package contract

import (
	"context"
	"encoding/json"
	"slices"

	pb "github.com/conntrack-sync/conntrack-sync/plugin/enginepb"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// server makes gRPC calls of an Engine's methods.
type server struct {
	pb.UnimplementedEngineServer
	engine   Engine
	detached func() // called when the host is gone
}

var empty = &pb.Empty{}

// plain keeps an error's text as it is; gRPC would wrap it on the other side.
func plain(err error) error {
	if err == nil {
		return nil
	}
	if err == context.Canceled || err == context.DeadlineExceeded {
		return status.FromContextError(err).Err()
	}
	return status.Error(codes.Aborted, err.Error())
}

func document(v any, err error) (*pb.Document, error) {
	if err != nil {
		return nil, plain(err)
	}
	b, err := json.Marshal(v)
	return &pb.Document{Json: b}, plain(err)
}

func (s *server) Configure(ctx context.Context, d *pb.Document) (*pb.Empty, error) {
	var settings Settings
	if err := json.Unmarshal(d.Json, &settings); err != nil {
		return nil, plain(err)
	}
	return empty, plain(s.engine.Configure(ctx, settings))
}

func (s *server) SetRole(ctx context.Context, r *pb.Role) (*pb.Empty, error) {
	return empty, plain(s.engine.SetRole(ctx, r.Group, r.Role))
}

func (s *server) Announce(ctx context.Context, d *pb.Document) (*pb.Empty, error) {
	var words []stats.RouteWord
	if err := json.Unmarshal(d.Json, &words); err != nil {
		return nil, plain(err)
	}
	return empty, plain(s.engine.Announce(ctx, words))
}

func (s *server) Commit(ctx context.Context, _ *pb.Empty) (*pb.Document, error) {
	return document(s.engine.Commit(ctx))
}

func (s *server) Flush(ctx context.Context, w *pb.Which) (*pb.Empty, error) {
	return empty, plain(s.engine.Flush(ctx, Table(w.Table)))
}

func (s *server) Resync(ctx context.Context, _ *pb.Empty) (*pb.Empty, error) {
	return empty, plain(s.engine.Resync(ctx))
}

func (s *server) Bulk(ctx context.Context, _ *pb.Empty) (*pb.Empty, error) {
	return empty, plain(s.engine.Bulk(ctx))
}

func (s *server) RequestResync(ctx context.Context, _ *pb.Empty) (*pb.Empty, error) {
	return empty, plain(s.engine.RequestResync(ctx))
}

func (s *server) ShortenTimers(ctx context.Context, _ *pb.Empty) (*pb.Empty, error) {
	return empty, plain(s.engine.ShortenTimers(ctx))
}

func (s *server) Flows(w *pb.Which, stream grpc.ServerStreamingServer[pb.FlowBatch]) error {
	return plain(s.engine.Flows(stream.Context(), Table(w.Table), func(flows []flow.Flow) error {
		b := &pb.FlowBatch{Flows: make([]*pb.Flow, len(flows))}
		for i := range flows {
			b.Flows[i] = packFlow(&flows[i])
		}
		return stream.Send(b)
	}))
}

// expectChunk is how many expectations travel in one document.
const expectChunk = 500

func (s *server) Expects(w *pb.Which, stream grpc.ServerStreamingServer[pb.Document]) error {
	all, err := s.engine.Expects(stream.Context(), Table(w.Table))
	if err != nil {
		return plain(err)
	}
	for chunk := range slices.Chunk(all, expectChunk) {
		d, err := document(chunk, nil)
		if err != nil {
			return err
		}
		if err := stream.Send(d); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) Statistics(ctx context.Context, _ *pb.Empty) (*pb.Document, error) {
	return document(s.engine.Statistics(ctx))
}

func (s *server) Status(ctx context.Context, _ *pb.Empty) (*pb.Document, error) {
	return document(s.engine.Status(ctx))
}

func (s *server) Diff(ctx context.Context, _ *pb.Empty) (*pb.Document, error) {
	return document(s.engine.Diff(ctx))
}

func (s *server) CommitReport(ctx context.Context, _ *pb.Empty) (*pb.Document, error) {
	return document(s.engine.CommitReport(ctx))
}

func (s *server) Where(ctx context.Context, d *pb.Document) (*pb.Document, error) {
	var q flow.Query
	if err := json.Unmarshal(d.Json, &q); err != nil {
		return nil, plain(err)
	}
	return document(s.engine.Where(ctx, q))
}

func (s *server) Ping(ctx context.Context, _ *pb.Empty) (*pb.Empty, error) {
	return empty, plain(s.engine.Ping(ctx))
}

func (s *server) Stop(ctx context.Context, _ *pb.Empty) (*pb.Empty, error) {
	return empty, plain(s.engine.Stop(ctx))
}

// Attach tells the host that it is heard, and notices when it is gone.
func (s *server) Attach(_ *pb.Empty, stream grpc.ServerStreamingServer[pb.Empty]) error {
	if err := stream.Send(empty); err != nil {
		return err
	}
	<-stream.Context().Done()
	if s.detached != nil {
		s.detached()
	}
	return nil
}
