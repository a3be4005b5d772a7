package host_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/host"
	"github.com/conntrack-sync/conntrack-sync/plugin/contract/contracttest"
	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
)

func TestMain(m *testing.M) {
	contracttest.Main()
	os.Exit(m.Run())
}

const config = `set service conntrack-sync failover-mechanism vrrp sync-group 'syncgrp'
set service conntrack-sync interface 'lo'
set service conntrack-sync interface 'lo' peer '127.0.0.2'
`

// options are those of a host in a directory of its own; a real one takes
// /etc/conntrack-sync/conf.d, /run/conntrack-sync and so on.
func options() (opt host.Options, remove func()) {
	dir, err := os.MkdirTemp("", "conntrack-sync-host-")
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
	if opt.Plugin, err = os.Executable(); err != nil { // an engine for tests, see TestMain
		panic(err)
	}
	return opt, func() { _ = os.RemoveAll(dir) }
}

// become does what keepalived's notify does.
func become(opt host.Options, role vrrpwatch.State) {
	err := vrrpwatch.Write(opt.StateDir, vrrpwatch.Record{Kind: "GROUP", Name: "syncgrp", State: role, Stamp: time.Now()})
	if err != nil {
		panic(err)
	}
}

// A routing host loads conntrack-sync, and hears of what it acts upon.
func ExampleLoad() {
	opt, remove := options()
	defer remove()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	h := host.Load(ctx, opt)
	defer h.Close()

	for e := range h.Events(ctx) {
		switch {
		case e.Kind == host.Engine && e.Engine.PID != 0:
			become(opt, vrrpwatch.Master)
		case e.Kind == host.Role && e.State.Committed:
			fmt.Println(e.Group, "is", e.State.Role, "and its flows are in the kernel")
		case e.Kind == host.Commit:
			fmt.Println("committed", e.Commit.Entries, "of", e.Commit.Total)
			return
		}
	}
	// Output:
	// syncgrp is MASTER and its flows are in the kernel
	// committed 10 of 10
}

// What is true now can be asked for at any time.
func ExampleHandle_Readiness() {
	opt, remove := options()
	defer remove()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	h := host.Load(ctx, opt)
	defer h.Close()

	for e := range h.Events(ctx) {
		if e.Kind == host.Engine && e.Engine.PID != 0 {
			become(opt, vrrpwatch.Backup)
		}
		if e.Kind == host.Role && e.State.Role == vrrpwatch.Backup {
			break
		}
	}
	r, err := h.Readiness(ctx)
	fmt.Println(h.Roles()[0].Role, r.Ready, r.Reasons[0], err)
	// Output: BACKUP true a peer is heard and its table was copied <nil>
}
