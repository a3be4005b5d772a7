package contract

import (
	"context"
	"errors"
	"fmt"
	"strings"

	pb "github.com/conntrack-sync/conntrack-sync/plugin/enginepb"
	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
)

// Name is the engine's name among a plugin process's services.
const Name = "engine"

// Version is the version of the contract. A host and an engine of different
// versions refuse each other at launch.
const Version = 1

// Handshake makes sure that host and process mean each other.
var Handshake = goplugin.HandshakeConfig{
	ProtocolVersion:  Version,
	MagicCookieKey:   "CONNTRACK_SYNC_PLUGIN",
	MagicCookieValue: "3780",
}

// adapter is the Engine as go-plugin knows it.
type adapter struct {
	goplugin.NetRPCUnsupportedPlugin
	engine   Engine // in the plugin process
	detached func()
}

var _ goplugin.GRPCPlugin = (*adapter)(nil)

func (a *adapter) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	pb.RegisterEngineServer(s, &server{engine: a.engine, detached: a.detached})
	return nil
}

func (a *adapter) GRPCClient(_ context.Context, _ *goplugin.GRPCBroker, cc *grpc.ClientConn) (any, error) {
	return newClient(cc), nil
}

// Plugins is the set of services, for a host with a nil engine.
func Plugins(engine Engine, detached func()) goplugin.PluginSet {
	return goplugin.PluginSet{Name: &adapter{engine: engine, detached: detached}}
}

// window is how much of a stream may be on its way, in bytes. Where it is not given
// gRPC measures what the connection can take, with a round trip of its own for each
// answer.
const window = 1 << 20

// DialOptions are what a host gives go-plugin for the connection.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window)}
}

// Serve runs the plugin process until the host is done with it. detached is
// called when the host disappears without a word. Nothing may be written to
// stdout before.
func Serve(engine Engine, detached func()) {
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig: Handshake,
		Plugins:         Plugins(engine, detached),
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(opts, grpc.InitialWindowSize(window), grpc.InitialConnWindowSize(window))...)
		},
		Logger: hclog.NewNullLogger(),
	})
}

// Connect launches a plugin process, returns its Engine and stays attached to
// it until ctx ends: that end is what tells the process that its host is gone.
// gone is closed when the process has ended, however that came about.
func Connect(ctx context.Context, p *goplugin.Client) (e Engine, gone <-chan struct{}, err error) {
	rpc, err := p.Client()
	if err != nil {
		return nil, nil, fmt.Errorf("launch the engine: %w", launchError(err))
	}
	raw, err := rpc.Dispense(Name)
	if err != nil {
		return nil, nil, fmt.Errorf("reach the engine: %w", err)
	}
	c := raw.(*client)
	if gone, err = c.attach(ctx); err != nil {
		return nil, nil, fmt.Errorf("attach to the engine: %w", err)
	}
	return c, gone, nil
}

// launchError is what go-plugin says in paragraphs, in one line.
func launchError(err error) error {
	first, _, more := strings.Cut(strings.TrimSpace(err.Error()), "\n")
	switch {
	case strings.HasPrefix(first, "Unrecognized remote plugin message"):
		return errors.New("the program is no engine or ended at once; install both programs of one release, or name the engine with --plugin")
	case strings.Contains(first, "ncompatible"):
		return fmt.Errorf("%s; install both programs of one release", first)
	case more:
		return errors.New(first)
	}
	return err
}
