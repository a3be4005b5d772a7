package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/conntrack-sync/conntrack-sync/host/show"
	"github.com/conntrack-sync/conntrack-sync/shim"
	"github.com/spf13/cobra"
)

func (o *options) routesCommand() *cobra.Command {
	return &cobra.Command{Use: "routes", Short: "What is announced, why and since when", Args: noArgs, RunE: func(c *cobra.Command, _ []string) error {
		r, err := shim.Dial(o.runDir).Routes(c.Context())
		if err != nil {
			return err
		}
		if o.json {
			return show.JSON(o.stdout, r)
		}
		return show.Routes(o.stdout, r)
	}}
}

// checkWindows warns of window tracking where the two directions of a connection
// may run over different routers for a moment.
func (o *options) checkWindows() {
	const name = "net.netfilter.nf_conntrack_tcp_be_liberal"
	b, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	if err == nil && strings.TrimSpace(string(b)) == "0" {
		fmt.Fprintf(o.stderr, "warning: routes follow roles and %s is 0: downloads may stall for seconds during a take-over, set it to 1\n", name)
	}
}
