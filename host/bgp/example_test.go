package bgp_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/host"
	"github.com/conntrack-sync/conntrack-sync/host/bgp"
	"github.com/conntrack-sync/conntrack-sync/plugin/contract/contracttest"
	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/log"
	"github.com/osrg/gobgp/v3/pkg/server"
)

func TestMain(m *testing.M) {
	contracttest.Main()
	os.Exit(m.Run())
}

const config = `set service conntrack-sync failover-mechanism vrrp sync-group 'syncgrp'
set service conntrack-sync interface 'lo'
set service conntrack-sync interface 'lo' peer '127.0.0.2'
set service conntrack-sync bgp prefix 198.51.100.0/24
`

// A routing host with a BGP server of its own: its routes follow the roles.
func ExampleEmbedded() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	// The host's BGP server, with its neighbours.
	srv := server.NewBgpServer(server.LoggerOption(log.NewDefaultLogger()))
	go srv.Serve()
	defer srv.Stop()
	err := srv.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{Asn: 65001, RouterId: "192.0.2.1", ListenPort: -1}})
	if err != nil {
		fmt.Println(err)
		return
	}

	// conntrack-sync, in a directory of its own and with an engine for tests.
	dir, opt := options()
	defer os.RemoveAll(dir)
	opt.Speaker = bgp.Embedded(srv)
	h := host.Load(ctx, opt)
	defer h.Close()

	for e := range h.Events(ctx) {
		if e.Kind == host.Engine && e.Engine.PID != 0 {
			break
		}
	}
	// What keepalived's notify does.
	master := vrrpwatch.Record{Kind: "GROUP", Name: "syncgrp", State: vrrpwatch.Master, Stamp: time.Now()}
	if err := vrrpwatch.Write(opt.StateDir, master); err != nil {
		fmt.Println(err)
		return
	}

	prefix := netip.MustParsePrefix("198.51.100.0/24")
	for held := false; !held && ctx.Err() == nil; time.Sleep(time.Millisecond) {
		_, held, _ = opt.Speaker.Path(ctx, prefix)
	}
	for h.Routes().Routes[0].Level != "master" && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	r := h.Routes().Routes[0]
	fmt.Println(r.Prefix, r.Text, "because:", r.Why)
	// Output: 198.51.100.0/24 med 99 because: MASTER and committed
}

// options are a host's in a directory of its own.
func options() (dir string, opt host.Options) {
	dir, err := os.MkdirTemp("", "conntrack-sync-bgp-")
	if err != nil {
		panic(err)
	}
	opt.ConfDir, opt.RunDir, opt.StateDir = filepath.Join(dir, "conf.d"), filepath.Join(dir, "run"), filepath.Join(dir, "run", "state")
	if err := os.Mkdir(opt.ConfDir, 0o755); err != nil {
		panic(err)
	}
	if err := os.WriteFile(filepath.Join(opt.ConfDir, "sync.conf"), []byte(config), 0o644); err != nil {
		panic(err)
	}
	if opt.Plugin, err = os.Executable(); err != nil {
		panic(err)
	}
	return dir, opt
}
