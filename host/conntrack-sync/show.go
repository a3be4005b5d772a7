package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/conntrack-sync/conntrack-sync/host/show"
	"github.com/conntrack-sync/conntrack-sync/shim"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/kernel"
	"github.com/spf13/cobra"
)

func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: noArgs, RunE: needVerb}
	c.AddCommand(subs...)
	return c
}

func showCommand(o *options) *cobra.Command {
	tables := group("table", "The kernel's connection tracking table",
		o.jsonFlag(o.tableCommand("ipv4", flow.IPv4)), o.jsonFlag(o.tableCommand("ipv6", flow.IPv6)))
	cache := group("cache", "The caches",
		o.jsonFlag(o.cacheCommand("internal", "This node's flows")),
		o.jsonFlag(o.cacheCommand("external", "The peer's flows")))
	return group("show", "Show state",
		group("conntrack", "The kernel", tables),
		group("conntrack-sync", "The synchronisation", cache,
			o.jsonFlag(o.statisticsCommand()), o.jsonFlag(o.statusCommand())))
}

func (o *options) statisticsCommand() *cobra.Command {
	return &cobra.Command{Use: "statistics", Short: "Counters", Args: noArgs, RunE: func(c *cobra.Command, _ []string) error {
		s, err := shim.Dial(o.runDir).Statistics(c.Context())
		if err != nil {
			return err
		}
		if o.json {
			return show.JSON(o.stdout, s)
		}
		return show.Statistics(o.stdout, s)
	}}
}

func (o *options) cacheCommand(name, short string) *cobra.Command {
	return &cobra.Command{Use: name, Short: short, Args: noArgs, RunE: func(c *cobra.Command, _ []string) error {
		client := shim.Dial(o.runDir)
		if o.json {
			a := show.NewArray(o.stdout)
			if err := client.Flows(c.Context(), name, func(f flow.Flow) error { return a.Add(f) }); err != nil {
				return err
			}
			return a.Close()
		}
		var all []flow.Flow
		err := client.Flows(c.Context(), name, func(f flow.Flow) error {
			all = append(all, f)
			return nil
		})
		if err != nil {
			return err
		}
		return show.Cache(o.stdout, all)
	}}
}

// tableCommand reads the kernel itself: it works without a running daemon.
func (o *options) tableCommand(name string, family flow.Family) *cobra.Command {
	return &cobra.Command{Use: name, Short: "Flows over " + name, Args: noArgs, RunE: func(c *cobra.Command, _ []string) error {
		k, err := kernel.Open(nil)
		if err != nil {
			return fmt.Errorf("conntrack cannot be read: %w", err)
		}
		defer k.Close()
		var add func(*flow.Flow) error
		var end func() error
		if o.json {
			a := show.NewArray(o.stdout)
			add, end = func(f *flow.Flow) error { return a.Add(f) }, a.Close
		} else {
			t := show.NewConntrackTable(o.stdout, family)
			add, end = func(f *flow.Flow) error { t.Add(f); return nil }, t.Close
		}
		n := 0
		err = k.Dump(c.Context(), func(flows []flow.Flow) error {
			for i := range flows {
				if flows[i].Orig.Family != family {
					continue
				}
				n++
				if err := add(&flows[i]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := end(); err != nil {
			return err
		}
		if n == 0 && !o.json && !tracked() {
			fmt.Fprintf(o.stderr, "\n%s\n\n", show.NotEnabled)
		}
		return nil
	}}
}

// tracked reports whether the namespace has any entry at all.
func tracked() bool {
	b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
	return err == nil && strings.TrimSpace(string(b)) != "0"
}
