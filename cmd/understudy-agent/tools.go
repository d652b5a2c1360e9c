package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/agent"
	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/agent/capture/ebpf"
	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/daemon"
)

// guardCommand is the process that thaws when the agent can't; the agent starts it.
func guardCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "guard",
		Short:  "Thaw what the agent froze when it dies (started by the agent itself)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return agent.RunGuard(os.Stdin)
		},
	}
}

// probeCommand says whether this host can be protected.
func probeCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "probe",
		Short: "Say whether this host's disks can be tracked, and if not, why",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			why := ebpf.Probe()
			if asJSON {
				found := struct {
					Trackable bool   `json:"trackable"`
					Reason    string `json:"reason,omitempty"`
				}{Trackable: why == nil}
				if why != nil {
					found.Reason = why.Error()
				}
				return errors.Join(why, printJSON(cmd, found))
			}
			if why == nil {
				fmt.Fprintln(cmd.OutOrStdout(), "this host's disks can be tracked")
			}
			return why
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// forgetCommand ends tracking for good.
func forgetCommand() *cobra.Command {
	var state, file string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "forget",
		Short: "End the tracking that goes on in the kernel after the agent has stopped; its next start compares the disks anew",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := stateOf(cmd, file, &state); err != nil {
				return err
			}
			forgotten, err := forget(state)
			if asJSON {
				return errors.Join(err, printJSON(cmd, struct {
					Forgotten []block.DiskID `json:"forgotten"`
				}{forgotten}))
			}
			for _, id := range forgotten {
				fmt.Fprintln(cmd.OutOrStdout(), "no longer tracked:", id)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&state, "state-dir", "/var/lib/understudy/agent", "where disk ids are kept")
	cmd.Flags().StringVar(&file, "config", "", "configuration file of the agent, for its state_dir")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// stateOf takes the state folder from the configuration file, if one was named and no folder was.
func stateOf(cmd *cobra.Command, file string, state *string) error {
	if file == "" || cmd.Flags().Changed("state-dir") {
		return nil
	}
	var c config
	if err := daemon.LoadConfig(file, &c); err != nil {
		return err
	}
	if c.StateDir != "" {
		*state = c.StateDir
	}
	return nil
}

// forget ends the tracking of the disks that the state folder knows, and says which were tracked. Others' disks are left alone.
func forget(state string) ([]block.DiskID, error) {
	known, err := agent.KnownDisks(state)
	if err != nil {
		return nil, err
	}
	pinned, err := ebpf.Pinned("")
	if err != nil {
		return nil, err
	}
	forgotten := []block.DiskID{}
	for _, id := range known {
		if !slices.Contains(pinned, id) {
			continue
		}
		if err := ebpf.RemovePins("", id); err != nil {
			err = fmt.Errorf("forget disk %v: %w", id, err)
			if errors.Is(err, capture.ErrInUse) {
				err = daemon.Exit(daemon.CodeInUse, err)
			}
			return forgotten, err
		}
		forgotten = append(forgotten, id)
	}
	return forgotten, nil
}

func printJSON(cmd *cobra.Command, v any) error {
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
