// Command understudy-agent runs on a protected host: it tracks the writes to its disks and keeps their copy at a receiver up
// to date.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/internal/daemon"
)

func main() {
	ctx, stop := daemon.Context(context.Background())
	err := command().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "understudy-agent:", err)
	}
	os.Exit(int(daemon.ExitCode(err)))
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "understudy-agent",
		Short:         "Keep a verified copy of this host's disks at another site",
		Long:          "Keep a verified copy of this host's disks at another site.\n\nExit codes:\n" + daemon.CodeTable(),
		Version:       daemon.Version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		RunE:          daemon.UnknownCommand,
	}
	root.SetFlagErrorFunc(daemon.FlagError)
	root.AddCommand(runCommand(), enrollCommand(), probeCommand(), forgetCommand(), rejoinCommand(), identityCommand(), guardCommand(), thawCommand(), doctorCommand())
	daemon.AddManual(root)
	return root
}
