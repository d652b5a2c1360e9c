// Command understudy is the operator's: certificates, status, recovery points, restore, verification, and a look into files.
package main

import (
	"context"
	"encoding/json"
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
		fmt.Fprintln(os.Stderr, "understudy:", err)
	}
	os.Exit(int(daemon.ExitCode(err)))
}

// options are the flags that all commands share.
type options struct {
	json     bool
	receiver string
	pki      string
	carrier  string
	agent    string
}

func command() *cobra.Command {
	var o options
	root := &cobra.Command{
		Use:           "understudy",
		Short:         "Operate verified copies of running servers",
		Long:          "Operate verified copies of running servers.\n\nExit codes:\n" + daemon.CodeTable(),
		Version:       daemon.Version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		RunE:          daemon.UnknownCommand,
	}
	root.SetFlagErrorFunc(daemon.FlagError)
	root.PersistentFlags().BoolVar(&o.json, "json", false, "print JSON")
	root.AddCommand(pkiCommand(&o), statusCommand(&o), pointsCommand(&o), restoreCommand(&o), verifyCommand(&o), auditCommand(&o),
		pinCommand(&o), unpinCommand(&o), promoteCommand(&o), acceptCommand(&o), dumpCommand(&o), enrollTokenCommand(&o), doctorCommand(&o), supportCommand(&o))
	daemon.AddManual(root)
	return root
}

// remoteFlags are those of commands that ask a receiver.
func remoteFlags(cmd *cobra.Command, o *options) {
	cmd.Flags().StringVar(&o.receiver, "receiver", "", "the receiver's HOST:PORT")
	cmd.Flags().StringVar(&o.pki, "pki", "/etc/understudy/pki", "folder with ca.crt, host.crt and host.key of an operator")
	cmd.Flags().StringVar(&o.carrier, "carrier", "tcp", "carrier of the link: quic or tcp")
}

// agentFlag is that of commands that ask the agent on this host.
func agentFlag(cmd *cobra.Command, o *options) {
	cmd.Flags().StringVar(&o.agent, "agent", "/run/understudy/agent.sock", "the agent's control socket")
}

// print shows v as JSON, or by text.
func (o *options) print(cmd *cobra.Command, v any, text func()) error {
	if !o.json {
		text()
		return nil
	}
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
