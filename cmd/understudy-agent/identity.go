package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/agent"
	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/daemon"
)

// rejoinCommand ends the fence of a disk.
func rejoinCommand() *cobra.Command {
	var control string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "rejoin DISK",
		Short: "Replicate a fenced disk again: what was written on the promoted side is given up",
		Long: "Replicate a fenced disk again: what was written on the promoted side is given up.\n\n" +
			"A disk is fenced when its copy was promoted at the target (understudy promote). The agent, which must be running, takes the\n" +
			"target's generation over, compares the disk with its copy, and makes the copy that of this disk again. Recovery points from\n" +
			"before the promotion stay as long as the target keeps them.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var status agent.DiskStatus
			err := daemon.NewClient(control).Call(cmd.Context(), "/rejoin", map[string][]string{"disk": {args[0]}}, nil, &status)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd, status)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s rejoins: it is compared with its copy now, see understudy status\n", status.Device)
			return err
		},
	}
	cmd.Flags().StringVar(&control, "control", defaultSocket, "control socket of the agent")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// identityReport is what identity prints.
type identityReport struct {
	Machine block.Digest   `json:"machine"`
	Known   bool           `json:"machine_known"` // the firmware tells this machine from a clone of it
	Disks   []block.DiskID `json:"disks"`
}

// identityCommand shows what this host is to a target, and makes it another one.
func identityCommand() *cobra.Command {
	var state string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "identity",
		Short: "Show what this host is to a target: its machine and the ids of its disks",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			known, err := agent.KnownDisks(state)
			if err != nil {
				return err
			}
			r := identityReport{Machine: agent.MachineID("/sys", "/proc"), Disks: known}
			r.Known = r.Machine != block.Digest{}
			if asJSON {
				return printJSON(cmd, r)
			}
			machine := r.Machine.String()
			if !r.Known {
				machine = "unknown: the firmware gives no id, so a clone is told by its boots alone"
			}
			fmt.Fprintln(cmd.OutOrStdout(), "machine:", machine)
			for _, id := range r.Disks {
				fmt.Fprintln(cmd.OutOrStdout(), "disk:", id)
			}
			return nil
		},
	}
	cmd.PersistentFlags().StringVar(&state, "state-dir", "/var/lib/understudy/agent", "where disk ids are kept")
	cmd.PersistentFlags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.AddCommand(identityNewCommand(&state, &asJSON))
	return cmd
}

func identityNewCommand(state *string, asJSON *bool) *cobra.Command {
	return &cobra.Command{
		Use:   "new",
		Short: "Give the disks of this host new ids: on a clone of a protected server, with its agent stopped",
		Long: "Give the disks of this host new ids: on a clone of a protected server, with its agent stopped.\n\n" +
			"A clone brings the original's disk ids along, and is refused by the target. With new ids it is a host of its own; give it a\n" +
			"certificate of its own name as well (understudy pki issue). The copies of the original are not touched.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			forgotten, err := forget(*state) // refused while an agent has them
			if err != nil {
				return err
			}
			if err := agent.ForgetDisks(*state); err != nil {
				return err
			}
			if *asJSON {
				return printJSON(cmd, struct {
					Forgotten []block.DiskID `json:"forgotten"`
				}{forgotten})
			}
			fmt.Fprintln(cmd.OutOrStdout(), "the next start of the agent protects the disks of this host under new ids; give it a certificate of its own name too")
			return nil
		},
	}
}
