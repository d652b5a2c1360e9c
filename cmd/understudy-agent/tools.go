package main

import (
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/agent"
	"github.com/understudy-dr/understudy/agent/capture/ebpf"
)

// guardCommand is the process that thaws when the agent can't; the agent starts it.
func guardCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "guard",
		Short:  "Thaw what the agent froze when it dies (started by the agent itself)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return agent.RunGuard(os.Stdin, os.Stdout)
		},
	}
}

// probeCommand says whether this host can be protected.
func probeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "probe",
		Short: "Say whether this host's disks can be tracked, and if not, why",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := ebpf.Probe(); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "this host's disks can be tracked")
			return nil
		},
	}
}

// forgetCommand ends tracking for good.
func forgetCommand() *cobra.Command {
	var state string
	cmd := &cobra.Command{
		Use:   "forget",
		Short: "End the tracking that goes on in the kernel after the agent has stopped; its next start compares the disks anew",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			known, err := agent.KnownDisks(state)
			if err != nil {
				return err
			}
			pinned, err := ebpf.Pinned("")
			if err != nil {
				return err
			}
			for _, id := range known {
				if !slices.Contains(pinned, id) {
					continue
				}
				if err := ebpf.RemovePins("", id); err != nil {
					return fmt.Errorf("forget disk %v: %w", id, err)
				}
				fmt.Fprintln(cmd.OutOrStdout(), "no longer tracked:", id)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&state, "state-dir", "/var/lib/understudy/agent", "where disk ids are kept")
	return cmd
}
