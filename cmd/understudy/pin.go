package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/internal/daemon"
	"github.com/understudy-dr/understudy/internal/wire"
	"github.com/understudy-dr/understudy/receiver"
)

func pinCommand(o *options) *cobra.Command {
	return pinning(o, wire.CommandPin, "pin DISK@POINT", "Keep a recovery point until it is unpinned, whatever the receiver's policy says",
		"\n\nThe volume does not go past a pinned point: what comes after it stays in the journal, and takes room there.", "pinned")
}

func unpinCommand(o *options) *cobra.Command {
	return pinning(o, wire.CommandUnpin, "unpin DISK@POINT", "Leave a recovery point to the receiver's policy again", "", "unpinned")
}

// pinning is the command of one kind.
func pinning(o *options, kind wire.CommandKind, use, short, more, done string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Long:  short + "." + more + "\n\nPOINT is latest, #412, or an RFC 3339 time: the newest consistent point at or before it.",
		Args:  exactly(1, "DISK@POINT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			disk, point, ok := strings.Cut(args[0], "@")
			if !ok || point == "" {
				return daemon.Exitf(daemon.CodeUsage, "%s names no point: say %s@latest, %s@#412 or %s@2026-01-31T12:00:00Z", args[0], disk, disk, disk)
			}
			var report receiver.PointReport
			if err := o.command(cmd, done, &wire.Command{Kind: kind, Disk: disk, Point: point}, &report); err != nil {
				return err
			}
			return o.print(cmd, report, func() {
				fmt.Fprintf(cmd.OutOrStdout(), "%s %v of %s (%s, %v)\n", done, report.Seq, disk, report.Time.Format(time.RFC3339Nano), report.Class)
			})
		},
	}
	remoteFlags(cmd, o)
	return cmd
}
