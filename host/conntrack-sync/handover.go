package main

import (
	"fmt"
	"time"

	"github.com/conntrack-sync/conntrack-sync/shim"
	"github.com/spf13/cobra"
)

func handOverCommand(o *options) *cobra.Command {
	var h shim.HandOver
	c := &cobra.Command{
		Use:   "hand-over [GROUP]",
		Short: "Give the MASTER role to a peer that is in sync, and stay less wanted",
		Long: "Waits until a peer is in sync, makes this node less wanted through the file that keepalived\n" +
			"tracks, and waits until keepalived has made it BACKUP. The node stays less wanted until\n" +
			"--cancel, or until the peer is not MASTER any more.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError{fmt.Errorf("want at most the name of a sync group")}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&h.Cancel, "cancel", false, "be as wanted as before")
	c.Flags().BoolVar(&h.Force, "force", false, "through FAULT, a short break; the only way with nopreempt")
	c.Flags().DurationVar(&h.Wait, "wait", 30*time.Second, "for each part: until the peer is in sync, and until the role is given away")
	c.RunE = func(c *cobra.Command, args []string) error {
		if h.Cancel && h.Force {
			return usageError{fmt.Errorf("--cancel and --force exclude each other")}
		}
		if len(args) == 1 {
			h.Group = args[0]
		}
		return shim.Dial(o.runDir).HandOver(c.Context(), h)
	}
	return c
}
