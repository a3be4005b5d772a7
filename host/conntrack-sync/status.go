package main

import (
	"errors"
	"strings"

	"github.com/conntrack-sync/conntrack-sync/host/show"
	"github.com/conntrack-sync/conntrack-sync/shim"
	"github.com/spf13/cobra"
)

func (o *options) statusCommand() *cobra.Command {
	var detail, check bool
	c := &cobra.Command{Use: "status", Short: "Configuration, role and readiness", Args: noArgs}
	c.Flags().BoolVar(&detail, "detail", false, "say everything, beginning with whether this node would carry the traffic now")
	c.Flags().BoolVar(&check, "check", false, "exit with status 1 and a line each when something is wrong; for monitoring")
	c.RunE = func(c *cobra.Command, _ []string) error {
		s, err := shim.Dial(o.runDir).Status(c.Context())
		if err != nil {
			return err
		}
		switch {
		case o.json:
			err = show.JSON(o.stdout, s)
		case detail:
			err = show.Detail(o.stdout, s)
		default:
			err = show.Status(o.stdout, s)
		}
		if err == nil && check && len(s.Alarms) > 0 {
			return errors.New(strings.Join(s.Alarms, "\n"))
		}
		return err
	}
	return c
}

func (o *options) commitReportCommand() *cobra.Command {
	return &cobra.Command{Use: "commit", Short: "The last commit, and the entries the kernel refused", Args: noArgs, RunE: func(c *cobra.Command, _ []string) error {
		r, err := shim.Dial(o.runDir).CommitReport(c.Context())
		if err != nil {
			return err
		}
		if o.json {
			return show.JSON(o.stdout, r)
		}
		return show.CommitReport(o.stdout, r)
	}}
}

func (o *options) diffCommand() *cobra.Command {
	return &cobra.Command{Use: "diff", Short: "Whether views were proven equal, and what repairs found", Args: noArgs, RunE: func(c *cobra.Command, _ []string) error {
		d, err := shim.Dial(o.runDir).Diff(c.Context())
		if err != nil {
			return err
		}
		if o.json {
			return show.JSON(o.stdout, d)
		}
		return show.Diff(o.stdout, d)
	}}
}

func (o *options) transitionsCommand() *cobra.Command {
	return &cobra.Command{Use: "transitions", Short: "The last changes of role, a time line each", Args: noArgs, RunE: func(c *cobra.Command, _ []string) error {
		list, err := shim.Dial(o.runDir).Transitions(c.Context())
		if err != nil {
			return err
		}
		if o.json {
			return show.JSON(o.stdout, list)
		}
		return show.Transitions(o.stdout, list)
	}}
}
