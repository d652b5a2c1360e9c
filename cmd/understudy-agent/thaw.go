package main

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/agent"
	"github.com/understudy-dr/understudy/internal/daemon"
)

// recordPath is where the agent with that control socket keeps its record of what is frozen: beside it, in memory.
func recordPath(control string) string { return control + ".frozen" }

// thawCommand thaws what an agent has left frozen that was killed together with its guard.
func thawCommand() *cobra.Command {
	var control, file string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "thaw",
		Short: "Thaw what an agent has left frozen that was killed together with its guard",
		Long: "Thaw what an agent has left frozen that was killed together with its guard.\n\n" +
			"The service manager runs this whenever the agent has ended. What the agent froze is known from a record in memory; what somebody\n" +
			"else froze stays frozen. While the agent runs it is refused: its guard thaws.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file != "" && !cmd.Flags().Changed("control") {
				c := config{Control: control}
				// A file that is not there, or can't be read by now, must keep nothing frozen.
				if err := daemon.LoadConfig(file, &c); err == nil {
					control = c.Control
				}
			}
			thawed, err := agent.ThawLeft(recordPath(control))
			if errors.Is(err, agent.ErrAgentAlive) {
				err = daemon.Exit(daemon.CodeInUse, err)
			}
			if asJSON {
				if thawed == nil {
					thawed = []string{}
				}
				return errors.Join(err, printJSON(cmd, struct {
					Thawed []string `json:"thawed"`
				}{thawed}))
			}
			for _, path := range thawed {
				fmt.Fprintln(cmd.OutOrStdout(), "thawed:", path)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&control, "control", defaultSocket, "control socket of the agent")
	cmd.Flags().StringVar(&file, "config", "", "configuration file of the agent, for its control socket")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// thawLeft does the same at the agent's start, where no service manager did it. The caller holds the control socket.
func thawLeft(control string, log *slog.Logger) {
	thawed, err := agent.ThawLeft(recordPath(control))
	if len(thawed) > 0 {
		log.Warn("an agent before this one, and its guard, were killed while they held file systems frozen: thawed", "paths", thawed)
	}
	if err != nil {
		log.Error("can't tell what an agent before this one has left frozen, if anything", "err", err)
	}
}
