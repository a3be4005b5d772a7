package contract

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// groupKey names the sync group a call is about, among what travels beside it: an
// engine that knows one group only need not look. The suffix allows any bytes.
const groupKey = "sync-group-bin"

// Of is the part of an engine that is about one sync group. Of the engine itself
// commands are about all groups, and documents about all of them together.
func Of(e Engine, group string) Engine {
	if c, ok := e.(*client); ok {
		return c.of(group)
	}
	return e
}

// GroupOf is the group a call is about, in the engine's process; "" for all.
func GroupOf(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get(groupKey); len(v) > 0 {
		return v[0]
	}
	return ""
}

// tagged is a connection whose calls are about one group.
type tagged struct {
	grpc.ClientConnInterface
	group string
}

func (t tagged) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return t.ClientConnInterface.Invoke(metadata.AppendToOutgoingContext(ctx, groupKey, t.group), method, args, reply, opts...)
}

func (t tagged) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return t.ClientConnInterface.NewStream(metadata.AppendToOutgoingContext(ctx, groupKey, t.group), desc, method, opts...)
}
