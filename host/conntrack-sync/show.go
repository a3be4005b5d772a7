package main

import (
	"context"
	"fmt"
	"os"
	"slices"
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
			o.jsonFlag(o.statisticsCommand()), o.jsonFlag(o.statusCommand()), o.jsonFlag(o.diffCommand()), o.jsonFlag(o.commitReportCommand()), o.jsonFlag(o.transitionsCommand()), o.jsonFlag(o.flowCommand()),
			o.jsonFlag(o.routesCommand())))
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

// formatFlag offers the layouts of VyOS's generations.
func (o *options) formatFlag(c *cobra.Command, usual show.Format) *cobra.Command {
	var format string // of this command alone: the default differs
	c.Flags().StringVar(&format, "format", string(usual), "layout: "+strings.Join(show.Formats, " or "))
	_ = c.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(show.Formats, cobra.ShellCompDirectiveNoFileComp))
	run := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if !slices.Contains(show.Formats, format) {
			return usageError{fmt.Errorf("format %q is none of: %s", format, strings.Join(show.Formats, " "))}
		}
		o.format = show.Format(format)
		return run(c, args)
	}
	return c
}

// oneOf allows at most one word, and which.
func oneOf(words ...string) (cobra.PositionalArgs, []string) {
	return func(c *cobra.Command, args []string) error {
		if len(args) > 1 || len(args) == 1 && !slices.Contains(words, args[0]) {
			return usageError{fmt.Errorf("%sunknown word %q, want nothing or one of: %s", after(c), args[len(args)-1], strings.Join(words, " "))}
		}
		return nil
	}, words
}

func (o *options) cacheCommand(name, short string) *cobra.Command {
	c := &cobra.Command{Use: name + " [main|expect]", Short: short}
	c.Args, c.ValidArgs = oneOf("main", "expect")
	c.RunE = func(c *cobra.Command, args []string) error {
		client := shim.Dial(o.runDir)
		if len(args) == 1 && args[0] == "expect" {
			return list(o, func(yield func(flow.Expect) error) error { return client.Expects(c.Context(), name, yield) },
				func(x *flow.Expect) show.Row { return show.ExpectRow(x) })
		}
		return list(o, func(yield func(flow.Flow) error) error { return client.Flows(c.Context(), name, yield) },
			func(f *flow.Flow) show.Row { return show.FlowRow(f) })
	}
	return o.formatFlag(c, show.VyOS)
}

// list prints entries as JSON or as text.
func list[T any](o *options, entries func(yield func(T) error) error, row func(*T) show.Row) error {
	if o.json {
		a := show.NewArray(o.stdout)
		if err := entries(func(e T) error { return a.Add(e) }); err != nil {
			return err
		}
		return a.Close()
	}
	return show.Cache(o.stdout, func(yield func(show.Row) error) error {
		return entries(func(e T) error { return yield(row(&e)) })
	}, o.format)
}

// tableCommand reads the kernel itself: it works without a running daemon.
func (o *options) tableCommand(name string, family flow.Family) *cobra.Command {
	return o.formatFlag(&cobra.Command{Use: name, Short: "Flows over " + name, Args: noArgs, RunE: func(c *cobra.Command, _ []string) error {
		n := 0
		flows := func(yield func(*flow.Flow) error) error {
			return ofFamily(c.Context(), family, func(f *flow.Flow) error {
				n++
				return yield(f)
			})
		}
		if err := o.printTable(family, flows); err != nil {
			return err
		}
		if n == 0 && !o.json && !tracked() {
			fmt.Fprintf(o.stderr, "\n%s\n\n", show.NotEnabled)
		}
		return nil
	}}, show.Vyatta)
}

func ofFamily(ctx context.Context, family flow.Family, yield func(*flow.Flow) error) error {
	stopped := false
	err := kernel.Dump(ctx, func(flows []flow.Flow) error {
		for i := range flows {
			if flows[i].Orig.Family != family {
				continue
			}
			if err := yield(&flows[i]); err != nil {
				stopped = true
				return err
			}
		}
		return nil
	})
	if err != nil && !stopped {
		return fmt.Errorf("conntrack cannot be read: %w", err)
	}
	return err
}

func (o *options) printTable(family flow.Family, flows func(yield func(*flow.Flow) error) error) error {
	switch {
	case o.json:
		a := show.NewArray(o.stdout)
		if err := flows(func(f *flow.Flow) error { return a.Add(f) }); err != nil {
			return err
		}
		return a.Close()
	case o.format == show.VyOS:
		return show.VyOSTable(o.stdout, flows)
	}
	t := show.NewConntrackTable(o.stdout, family)
	if err := flows(func(f *flow.Flow) error { t.Add(f); return nil }); err != nil {
		return err
	}
	return t.Close()
}

// tracked reports whether the namespace has any entry at all.
func tracked() bool {
	b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
	return err == nil && strings.TrimSpace(string(b)) != "0"
}
