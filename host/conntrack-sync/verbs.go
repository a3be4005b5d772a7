package main

import (
	"github.com/conntrack-sync/conntrack-sync/host/show"
	"github.com/conntrack-sync/conntrack-sync/shim"
	"github.com/spf13/cobra"
)

// verbCommands change something: in the caches, at the peers, in the kernel.
func verbCommands(o *options) []*cobra.Command {
	flush := &cobra.Command{Use: "flush [internal|external]", Short: "Empty both caches, or one"}
	flush.Args, flush.ValidArgs = oneOf("internal", "external")
	flush.RunE = func(c *cobra.Command, args []string) error {
		verb := "flush"
		if len(args) == 1 {
			verb += "?table=" + args[0]
		}
		return shim.Dial(o.runDir).Do(c.Context(), verb)
	}
	commit := o.jsonFlag(&cobra.Command{Use: "commit", Short: "Write the external cache into the kernel", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			done, err := shim.Dial(o.runDir).Commit(c.Context())
			if err != nil {
				return err
			}
			if o.json {
				return show.JSON(o.stdout, done)
			}
			return nil
		}})
	do := func(use, short, verb string) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: noArgs, RunE: func(c *cobra.Command, _ []string) error {
			return shim.Dial(o.runDir).Do(c.Context(), verb)
		}}
	}
	restart := group("restart", "Restart a service",
		do("conntrack-sync", "Replace the engine, ask the peers for their tables and send ours", "restart"))
	reset := group("reset", "Reset a service", group("conntrack-sync", "The synchronisation",
		do("external-cache", "Empty the external cache and ask the peers for their tables", "reset?cache=external"),
		do("internal-cache", "Read the internal cache from the kernel anew and send it", "reset?cache=internal")))
	cmds := []*cobra.Command{flush, commit, restart, reset}
	for verb, short := range map[string]string{
		"resync":         "Compare the internal cache with the kernel and mend it",
		"bulk":           "Send the internal cache to the peers",
		"request-resync": "Ask the peers for their tables",
		"shorten-timers": "Start the timed purge",
	} {
		cmds = append(cmds, do(verb, short, verb))
	}
	return cmds
}
