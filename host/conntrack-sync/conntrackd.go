package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/conntrack-sync/conntrack-sync/conf/conntrackdconf"
	"github.com/spf13/cobra"
)

// The front for scripts that were written for conntrackd: its options, its
// output, its exit status, 0 or 1. It is taken when the binary is called
// conntrackd, too.

const (
	conntrackdName = "conntrackd"
	conntrackdConf = "/etc/conntrackd/conntrackd.conf"
)

func conntrackdCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:                "conntrackd [options]",
		Short:              "Do what conntrackd does with these options",
		DisableFlagParsing: true, // -C and its like are not ours
		RunE:               func(c *cobra.Command, args []string) error { return o.conntrackd(c.Context(), args) },
	}
}

// cdArgs is a command line of conntrackd's.
type cdArgs struct {
	option byte   // c, f, F, i, e, k, s, R, n, B, t, d, v, h; 0: run in the foreground
	what   string // the word behind it, spelled out
	xml    bool
	config string
	given  bool // config was
	// Ours beyond conntrackd's.
	runDir, keepalived, plugin string
	ready                      bool // says on descriptor 3 when the daemon serves
}

// cdWords are the words an option takes; the first that begins with what was
// typed is meant.
var cdWords = map[byte][]string{
	'c': {"ct", "expect"}, 'F': {"ct", "expect"}, 'i': {"ct", "expect"}, 'e': {"ct", "expect"}, 'R': {"ct", "expect"},
	'f': {"internal", "external"},
	's': {"network", "cache", "runtime", "link", "rsqueue", "process", "queue", "ct", "expect"},
}

//lint:ignore ST1005 conntrackd's words
var errCDUsage = errors.New("Invalid parameters\n" + cdUsage)

const cdUsage = `usage: conntrackd [-C FILE] OPTION

  -d                         run as a daemon (without an option: in the foreground)
  -k                         end the daemon
  -s [WORD]                  statistics: network cache runtime link rsqueue process queue ct expect
  -i, -e [ct|expect] [-x]    internal, external cache [as XML]
  -c [ct|expect]             commit the external cache to the kernel
  -f [internal|external]     flush the caches
  -F [ct|expect]             end the replicated flows of the kernel
  -R [ct|expect]             compare the internal cache with the kernel
  -B                         send the internal cache to the peers
  -n                         ask the peers for their tables
  -t                         start the timed purge
  -v, -h                     version, this text

conntrack-sync --help has more.`

func parseCD(args []string) (a cdArgs, err error) {
	a = cdArgs{config: conntrackdConf, keepalived: defaultKeepalived}
	next := func() (w string) {
		if len(args) > 0 {
			w, args = args[0], args[1:]
		}
		return w
	}
	for len(args) > 0 {
		w := next()
		switch w {
		case "-C":
			if a.config, a.given = next(), true; a.config == "" {
				//lint:ignore ST1005 conntrackd's words
				return a, errors.New("Missing config filename")
			}
			continue
		case "-x":
			a.xml = true
			continue
		case "--run-dir":
			a.runDir = next()
			continue
		case "--keepalived-conf":
			a.keepalived = next()
			continue
		case "--plugin":
			a.plugin = next()
			continue
		case "--ready":
			a.ready = true
			continue
		case "--help":
			w = "-h"
		}
		if len(w) != 2 || w[0] != '-' || !strings.Contains("cfFieksRnBtdvh", w[1:]) {
			//lint:ignore ST1005 conntrackd's words
			return a, fmt.Errorf("Unknown option: %s\n%s", w, cdUsage)
		}
		if a.option != 0 {
			return a, errCDUsage
		}
		a.option = w[1]
		if words := cdWords[a.option]; words != nil && len(args) > 0 && !strings.HasPrefix(args[0], "-") {
			if a.what, err = cdWord(a.option, next(), words); err != nil {
				return a, err
			}
		}
	}
	if a.xml && a.option != 'i' && a.option != 'e' {
		return a, errCDUsage
	}
	return a, nil
}

func cdWord(option byte, typed string, words []string) (string, error) {
	for _, w := range words {
		if typed != "" && strings.HasPrefix(w, typed) {
			return w, nil
		}
	}
	return "", fmt.Errorf("unknown parameter `%s' for option `-%c'", typed, option)
}

func (o *options) conntrackd(ctx context.Context, args []string) error {
	a, err := parseCD(args)
	if err != nil {
		return err
	}
	switch a.option {
	case 'h':
		_, err = fmt.Fprintln(o.stdout, cdUsage)
		return err
	case 'v':
		_, err = fmt.Fprintf(o.stdout, "Connection tracking userspace daemon: conntrack-sync %s, with conntrackd's options and protocol\n", version)
		return err
	}
	text, err := os.ReadFile(a.config)
	if err != nil && (a.given || !errors.Is(err, fs.ErrNotExist) || a.option == 0 || a.option == 'd') {
		return fmt.Errorf("can't open config file `%s': %w; name a file with -C, conntrackd's is usually %s", a.config, err, conntrackdConf)
	}
	file := conntrackdconf.Read(a.config, text)
	if a.runDir == "" {
		a.runDir = runDirOf(file.Socket)
	}
	o.runDir = a.runDir
	switch a.option {
	case 0:
		return o.cdServe(ctx, &a, file)
	case 'd':
		return o.cdBackground(&a, file)
	}
	return o.cdRequest(ctx, &a, file.LockFile)
}

// runDirOf is the run directory that goes with a UNIX Path of conntrackd's:
// beside that socket, so that daemons kept apart by their sockets stay apart.
// With the usual /var/run/conntrackd.ctl it is the usual one.
func runDirOf(socket string) string {
	if !filepath.IsAbs(socket) {
		return defaultRunDir
	}
	dir := filepath.Dir(socket)
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	return filepath.Join(dir, filepath.Base(defaultRunDir))
}
