package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/wire"
	"github.com/understudy-dr/understudy/receiver"
)

func promoteCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "promote DISK",
		Short: "Make the copy the disk that counts: its old source is refused from now on",
		Long: "Make the copy the disk that counts: its old source is refused from now on.\n\n" +
			"Promote before the copy goes into service: whatever the old server still does, the recovery points that are there stay as they\n" +
			"are, also when it comes back. It raises the disk's generation, and can't be undone; a server that is to be the source again\n" +
			"says so itself (understudy-agent rejoin).",
		Args: exactly(1, "DISK"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var report receiver.PromoteReport
			if err := o.command(cmd, "promoting", &wire.Command{Kind: wire.CommandPromote, Disk: args[0]}, &report); err != nil {
				return err
			}
			return o.print(cmd, report, func() {
				newest := "it has no recovery point"
				if p := report.Newest; p != nil {
					newest = fmt.Sprintf("its newest point is %v (%s, %v)", p.Seq, p.Time.Format(time.RFC3339Nano), p.Class)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s is at generation %d: its old source is refused from now on; %s\n", report.Name, report.Generation, newest)
			})
		},
	}
	remoteFlags(cmd, o)
	return cmd
}

func acceptCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "accept DISK",
		Short: "Take a disk from the machine of its host that opens it next: the hardware was replaced, or a clone was told apart",
		Args:  exactly(1, "DISK"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var report struct {
				Disk block.DiskID `json:"disk"`
				Name string       `json:"name"`
			}
			if err := o.command(cmd, "accepting", &wire.Command{Kind: wire.CommandAccept, Disk: args[0]}, &report); err != nil {
				return err
			}
			return o.print(cmd, report, func() {
				fmt.Fprintf(cmd.OutOrStdout(), "%s is taken from the machine of its host that opens it next\n", report.Name)
			})
		},
	}
	remoteFlags(cmd, o)
	return cmd
}
