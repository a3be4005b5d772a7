// Command routinghost is a routing host at its smallest: gobgp's server.BgpServer
// and conntrack-sync in one process, one table of neighbours and nothing else. It is
// an example to build from, and what the integration tests run beside keepalived;
// a host of one's own has its configuration where this one has options.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/conntrack-sync/conntrack-sync/host"
	"github.com/conntrack-sync/conntrack-sync/host/bgp"
	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"
)

// neighbors are ADDRESS=AS, each for the family of its address.
type neighbors []*api.Peer

func (n *neighbors) String() string { return "" }

func (n *neighbors) Set(s string) error {
	addr, as, _ := strings.Cut(s, "=")
	ip, err := netip.ParseAddr(addr)
	number, err2 := strconv.ParseUint(as, 10, 32)
	if err != nil || err2 != nil || number == 0 {
		return errors.New("a neighbour is ADDRESS=AS, as in 203.0.113.10=65000")
	}
	family := &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}
	if ip.Is6() {
		family.Afi = api.Family_AFI_IP6
	}
	*n = append(*n, &api.Peer{
		Conf: &api.PeerConf{NeighborAddress: addr, PeerAsn: uint32(number)},
		// No graceful restart: see docs/ROUTES.md.
		Timers: &api.Timers{Config: &api.TimersConfig{HoldTime: 9, KeepaliveInterval: 3,
			ConnectRetry: 1, IdleHoldTimeAfterReset: 1}},
		AfiSafis: []*api.AfiSafi{{Config: &api.AfiSafiConfig{Family: family, Enabled: true}}},
	})
	return nil
}

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var peers neighbors
	as := flag.Uint("as", 0, "own AS")
	id := flag.String("id", "", "router ID")
	port := flag.Int("port", 179, "port to listen at, -1 for none")
	flag.Var(&peers, "neighbor", "ADDRESS=AS, may be given several times")
	var opt host.Options
	flag.StringVar(&opt.ConfDir, "conf-dir", "/etc/conntrack-sync/conf.d", "directory of *.conf, watched")
	flag.StringVar(&opt.StateDir, "state-dir", "/run/conntrack-sync/state", "directory of keepalived's state files, watched")
	flag.StringVar(&opt.RunDir, "run-dir", "/run/conntrack-sync", "where the operator's commands look for this daemon")
	flag.StringVar(&opt.Plugin, "plugin", "/usr/libexec/conntrack-sync/conntrack-sync-plugin", "engine binary")
	flag.StringVar(&opt.KeepalivedConf, "keepalived-conf", "/etc/keepalived/keepalived.conf", "read for virtual addresses and groups if it exists")
	flag.StringVar(&opt.VRRPFIFO, "vrrp-fifo", "", "fifo that keepalived writes (vrrp_notify_fifo)")
	flag.Parse()
	if addr, err := netip.ParseAddr(*id); *as == 0 || err != nil || !addr.Is4() {
		return errors.New("give the own AS with -as and the router ID, an IPv4 address, with -id")
	}

	srv := server.NewBgpServer()
	go srv.Serve()
	defer srv.Stop()
	err := srv.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{Asn: uint32(*as), RouterId: *id, ListenPort: int32(*port)}})
	if err != nil {
		return fmt.Errorf("start BGP: %w", err)
	}
	for _, p := range peers {
		if err := srv.AddPeer(ctx, &api.AddPeerRequest{Peer: p}); err != nil {
			return fmt.Errorf("neighbour %s: %w", p.Conf.NeighborAddress, err)
		}
	}

	opt.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	opt.Speaker = bgp.Embedded(srv)
	// Loaded before the server stops, closed before it too: a standby that leaves
	// says so to its neighbours first.
	h := host.Load(ctx, opt)
	defer h.Close()
	go func() {
		for e := range h.Events(ctx) {
			opt.Log.Debug("conntrack-sync", "event", e.Kind)
		}
	}()
	return h.Wait()
}
