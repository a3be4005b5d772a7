package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/conntrack-sync/conntrack-sync/host"
	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
	"github.com/spf13/cobra"
)

const (
	defaultConfDir    = "/etc/conntrack-sync/conf.d"
	defaultStateDir   = defaultRunDir + "/state"
	defaultKeepalived = "/etc/keepalived/keepalived.conf"
	pluginName        = "conntrack-sync-plugin"
	libexec           = "/usr/libexec/conntrack-sync"
)

func runCommand(o *options) *cobra.Command {
	var h host.Options
	var syslogPath string
	c := &cobra.Command{Use: "run", Short: "Run in the foreground until SIGTERM", Args: noArgs}
	f := c.Flags()
	f.StringVar(&h.ConfDir, "conf-dir", defaultConfDir, "directory of *.conf, watched")
	f.StringVar(&h.StateDir, "state-dir", defaultStateDir, "directory of keepalived's state files, watched")
	f.StringVar(&h.StateOwner, "state-owner", "root", "user who may write state files")
	f.StringVar(&h.Plugin, "plugin", "", "engine binary (default: next to this one, else in "+libexec+")")
	f.StringVar(&h.KeepalivedConf, "keepalived-conf", defaultKeepalived, "read for virtual addresses and groups if it exists")
	f.StringVar(&h.VRRPFIFO, "vrrp-fifo", "", "fifo that keepalived writes (vrrp_notify_fifo)")
	f.StringVar(&syslogPath, "syslog", defaultSyslog, "socket of syslog, used unless disable-syslog is configured")
	c.RunE = func(c *cobra.Command, _ []string) error {
		h.RunDir, h.Release = o.runDir, version
		if h.Plugin == "" {
			h.Plugin = o.findPlugin()
		}
		if err := usable(h.Plugin); err != nil {
			return fmt.Errorf("engine binary: %w; name it with --plugin", err)
		}
		l := newLogger(o.stderr, syslogPath)
		h.Log, h.Syslog = slog.New(newHandler(l)), l.syslog
		notify := notifySocket()
		ctx, cancel := context.WithCancel(c.Context())
		defer cancel()
		go func() {
			if awaitControl(ctx, o.runDir, h.VRRPFIFO) {
				o.warn(sayReady(notify))
			}
		}()
		return host.Load(ctx, h).Wait()
	}
	return c
}

// findPlugin looks next to this binary, then in the libexec of the same prefix,
// then in the usual one.
func (o *options) findPlugin() string {
	if self, err := o.executable(); err == nil {
		for _, dir := range []string{"", "../libexec/conntrack-sync"} {
			if p := filepath.Join(filepath.Dir(self), dir, pluginName); exists(p) {
				return p
			}
		}
	}
	return filepath.Join(libexec, pluginName)
}

// usable reports why a file cannot be run as the engine.
func usable(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0:
		return fmt.Errorf("%s is not an executable file", path)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func notifyCommand(o *options) *cobra.Command {
	var stateDir string
	c := &cobra.Command{
		Use:   "notify [--state-dir DIR] GROUP|INSTANCE NAME STATE PRIO",
		Short: "Record a role; for keepalived's notify",
		Args:  exactly(4, "GROUP or INSTANCE, a name, a state and a priority"),
	}
	c.Flags().SetInterspersed(false)
	c.Flags().StringVar(&stateDir, "state-dir", defaultStateDir, "directory of the state files")
	c.RunE = func(_ *cobra.Command, args []string) error {
		kind := strings.ToUpper(args[0])
		if kind != "GROUP" && kind != "INSTANCE" {
			return usageError{fmt.Errorf("%q is neither GROUP nor INSTANCE", args[0])}
		}
		rec, err := vrrpwatch.ParseState([]byte(args[2]))
		if errors.Is(err, vrrpwatch.ErrNotARole) {
			fmt.Fprintf(o.stderr, "conntrack-sync: state %s of %s is not recorded, only MASTER, BACKUP, FAULT and STOP are\n", args[2], args[1])
			return nil
		}
		if err != nil {
			return usageError{fmt.Errorf("state %q: %w", args[2], err)}
		}
		if rec.Priority, err = strconv.Atoi(args[3]); err != nil {
			return usageError{fmt.Errorf("priority %q is no number", args[3])}
		}
		rec.Kind, rec.Name, rec.Stamp, rec.Order = kind, args[1], o.now(), vrrpwatch.Started()
		err = vrrpwatch.Write(stateDir, rec)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w; conntrack-sync run creates the directory when it starts, --state-dir names another", err)
		}
		return err
	}
	return c
}
