// Command conntrack-sync-plugin is the engine process. It is launched by a
// host (see package shim) and does nothing when started by hand.
package main

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/conntrack-sync/conntrack-sync/plugin/contract"
	"github.com/conntrack-sync/conntrack-sync/sync/engine"
	"github.com/conntrack-sync/conntrack-sync/sync/gather"
	"github.com/conntrack-sync/conntrack-sync/sync/groups"
	"github.com/conntrack-sync/conntrack-sync/sync/guard"
	"github.com/conntrack-sync/conntrack-sync/sync/kernel"
	"github.com/conntrack-sync/conntrack-sync/sync/udp"
)

var version = "unknown" // set by the linker

// The edges fit what the engine declares.
var (
	_ engine.Kernel   = (*kernel.Conn)(nil)
	_ engine.Link     = (*udp.Bundle)(nil)
	_ engine.Guard    = (*guard.Guard)(nil)
	_ contract.Engine = (*groups.Groups)(nil)
)

// collectAt is the garbage collector's target: a heap a quarter larger than what is
// live. The tables hold no pointers and a flow leaves no garbage, so a cycle is short
// and rare, while the usual target would let a router keep twice its tables.
const collectAt = 25

func main() {
	debug.SetGCPercent(collectAt)
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: hclogForm}))
	e := groups.New(engine.Options{
		OpenKernel:     func() (engine.Kernel, error) { return kernel.Open(log) },
		OpenLink:       func(c engine.LinkConfig) (engine.Link, error) { return openLink(c, log) },
		OpenGuard:      openGuard,
		InterfaceAddrs: interfaceAddrs,
		Release:        version,
		Log:            log,
		Every:          gather.Every,
	}, contract.GroupOf)
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	go func() {
		<-term
		exit(e)
	}()
	log.Debug("engine started", "version", version)
	contract.Serve(e, func() { exit(e) })
	exit(e)
}

// exit stops the engine in order, but not for longer than a host waits.
func exit(e *groups.Groups) {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		_ = e.Stop(context.Background())
	}()
	select {
	case <-stopped:
	case <-time.After(time.Second):
	}
	os.Exit(0)
}

// hclogForm names the members as the host's logger expects them.
func hclogForm(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.TimeKey:
		return slog.String("@timestamp", a.Value.Time().Format("2006-01-02T15:04:05.000000Z07:00"))
	case slog.LevelKey:
		return slog.String("@level", strings.ToLower(a.Value.String()))
	case slog.MessageKey:
		a.Key = "@message"
	}
	return a
}

// counters are those of each interface ever used: a link that is opened anew
// goes on counting.
var counters = map[string]*udp.Counters{}

func openLink(c engine.LinkConfig, log *slog.Logger) (engine.Link, error) {
	cfgs := make([]udp.Config, len(c.Interfaces))
	for i, in := range c.Interfaces {
		cfgs[i] = udp.Config{Interface: in.Name, Peer: in.Peer, Listen: c.Listen, Port: in.Port, BufferBytes: c.BufferBytes}
		if counters[in.Name] == nil {
			counters[in.Name] = &udp.Counters{}
		}
		cfgs[i].Counters = counters[in.Name]
		if !in.Peer.IsValid() {
			cfgs[i].Group = c.Group
		}
	}
	link, err := udp.OpenBundle(cfgs, log)
	if err != nil {
		return nil, err // not a typed nil in the interface
	}
	return link, nil
}

func openGuard() (engine.Guard, error) {
	g, err := guard.Open()
	if err != nil {
		return nil, err // not a typed nil in the interface
	}
	return g, nil
}

func interfaceAddrs(name string) (addrs []netip.Addr) {
	dev, err := net.InterfaceByName(name)
	if err != nil {
		return nil
	}
	nets, err := dev.Addrs()
	if err != nil {
		return nil
	}
	for _, n := range nets {
		if p, err := netip.ParsePrefix(n.String()); err == nil {
			addrs = append(addrs, p.Addr().Unmap())
		}
	}
	return addrs
}
