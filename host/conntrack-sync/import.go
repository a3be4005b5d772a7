package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/conf/conntrackdconf"
	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
	"github.com/spf13/cobra"
)

func importCommand(o *options) *cobra.Command {
	var group, keepalived string
	c := &cobra.Command{
		Use:   "import CONNTRACKD.CONF",
		Short: "Print the set lines that do what a conntrackd.conf does",
		Args:  exactly(1, "one file"),
	}
	c.Flags().StringVar(&group, "sync-group", "", "group whose roles are followed (default: the only one in keepalived's configuration)")
	c.Flags().StringVar(&keepalived, "keepalived-conf", defaultKeepalived, "keepalived's configuration")
	c.RunE = func(_ *cobra.Command, args []string) error {
		text, err := os.ReadFile(args[0])
		if err != nil {
			return fmt.Errorf("%w; name conntrackd's configuration, usually %s", err, conntrackdConf)
		}
		if group == "" {
			group = onlyGroup(keepalived)
		}
		r := conntrackdconf.Read(args[0], text)
		for _, n := range r.Notes {
			fmt.Fprintf(o.stderr, "warning: %s\n", n)
		}
		known := group != ""
		if !known {
			group = "GROUP"
		}
		r.SyncGroup(group)
		cfg, problems := r.Check(nil)
		if len(problems) > 0 {
			return oneEach(problems)
		}
		if !known {
			cfg.SyncGroup = ""
			fmt.Fprintf(o.stderr, "warning: failover-mechanism is missing, a conntrackd.conf does not name it: give --sync-group\n")
		}
		_, err = fmt.Fprintln(o.stdout, strings.Join(cfg.SetLines(), "\n"))
		return err
	}
	return c
}

// onlyGroup is the one sync group of keepalived's configuration, "" if there is
// none or several.
func onlyGroup(keepalived string) string {
	k, _, err := vrrpwatch.ReadKeepalived(keepalived)
	if err != nil || len(k.Groups) != 1 {
		return ""
	}
	return k.Groups[0].Name
}

func oneEach(problems []conf.Problem) error {
	lines := make([]string, len(problems))
	for i, p := range problems {
		lines[i] = p.String()
	}
	return errors.New(strings.Join(lines, "\n"))
}
