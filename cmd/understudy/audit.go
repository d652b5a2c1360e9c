package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/internal/daemon"
	"github.com/understudy-dr/understudy/internal/wire"
	"github.com/understudy-dr/understudy/receiver"
)

func auditCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit DISK",
		Short: "Read every byte that is stored of a disk, and check it",
		Long: "Read every byte that is stored of a disk, and check it: the journal against its checksums and the chain of digests. The\n" +
			"volume has no checksums: what can't be read of it is named, and a BLAKE3 digest of it is printed, which is that of a raw\n" +
			"image of the disk as of the same point. Points come in meanwhile; folding waits.",
		Args: exactly(1, "DISK"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var report receiver.AuditReport
			if err := o.command(cmd, "auditing", &wire.Command{Kind: wire.CommandAudit, Disk: args[0]}, &report); err != nil {
				return err
			}
			if err := o.print(cmd, report, func() { printAudit(cmd.OutOrStdout(), &report) }); err != nil || report.Clean() {
				return err
			}
			return daemon.Exitf(daemon.CodeDamaged, "%s:%s: %s in the journal, %s of the volume", report.Host, report.Name,
				plural(len(report.Damage), "damaged place"), plural(len(report.Volume.Unreadable), "unreadable range"))
		},
	}
	remoteFlags(cmd, o)
	return cmd
}

func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func printAudit(w io.Writer, r *receiver.AuditReport) {
	fmt.Fprintf(w, "disk %v, %s:%s\n", r.Disk, r.Host, r.Name)
	fmt.Fprintf(w, "journal: %d deltas, %v, up to %v with digest %v\n", r.Deltas, r.Bytes, r.Tip.Seq, r.Tip.Digest)
	for _, d := range r.Damage {
		fmt.Fprintf(w, "  damaged: %s at offset %d: %s\n", d.File, int64(d.Offset), d.Reason)
	}
	v := &r.Volume
	fmt.Fprintf(w, "volume: %v as of %v", v.Size, v.Seq)
	if v.Digest != nil {
		fmt.Fprintf(w, ", digest %v", v.Digest)
	}
	fmt.Fprintln(w)
	for _, u := range v.Unreadable {
		fmt.Fprintf(w, "  can't be read: %v (%s)\n", u, v.Error)
	}
}
