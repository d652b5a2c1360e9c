package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/agent"
	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/codec"
	"github.com/understudy-dr/understudy/internal/daemon"
	"github.com/understudy-dr/understudy/internal/wire"
	"github.com/understudy-dr/understudy/receiver"
)

// statusReport is what status prints: the agent of this host, the receiver that was named, or both.
type statusReport struct {
	Agent    *agent.Status         `json:"agent,omitempty"`
	Receiver []receiver.DiskReport `json:"receiver,omitempty"`
}

func statusCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what is protected, how old its newest point is, and what stands in the way",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var report statusReport
			if o.receiver != "" {
				if err := o.query(cmd.Context(), &wire.Query{Kind: wire.QueryStatus}, &report.Receiver); err != nil {
					return err
				}
			}
			var status agent.Status
			err := daemon.NewClient(o.agent).Call(cmd.Context(), "/status", nil, nil, &status)
			switch {
			case err == nil:
				report.Agent = &status
			case o.receiver == "" || cmd.Flags().Changed("agent"):
				return err
			}
			return o.print(cmd, report, func() { report.text(cmd.OutOrStdout()) })
		},
	}
	remoteFlags(cmd, o)
	agentFlag(cmd, o)
	return cmd
}

func (r statusReport) text(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	defer t.Flush()
	if a := r.Agent; a != nil {
		where := "not linked: " + a.Link.Error
		if a.Link.Connected {
			where = fmt.Sprintf("linked to %s over %s since %s", a.Link.Peer, a.Link.Carrier, a.Link.Since.Format(time.RFC3339))
		}
		fmt.Fprintf(t, "agent on %s, %s\n", a.Host, where)
		fmt.Fprintln(t, "DEVICE\tSTATE\tPOINT\tLAG\tPENDING\tCHANGED\tSENT\tID")
		for _, d := range a.Disks {
			point, lag := "none", "-"
			if d.LastPoint != nil {
				point, lag = d.LastPoint.Seq.String(), seconds(d.Lag)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%v\t%v\t%v\t%v\n", d.Device, d.State, point, lag, d.Pending, d.Changed, d.Sent, d.ID)
			for _, line := range progressLines(d) {
				fmt.Fprintf(t, "  %s\n", line)
			}
		}
	}
	if r.Receiver != nil {
		fmt.Fprintln(t, "COPY\tPOINTS\tNEWEST\tLAG\tJOURNAL\tVOLUME\tSOURCE\tID")
		for _, d := range r.Receiver {
			newest, lag := "none", "-"
			if d.Newest != nil {
				newest, lag = d.Newest.Seq.String(), seconds(d.Lag)
			}
			source := d.Source
			if source == "" {
				source = "not linked"
			}
			fmt.Fprintf(t, "%s:%s\t%d\t%s\t%s\t%v\t%v\t%s\t%v\n", d.Host, d.Name, d.Points, newest, lag, d.Journal, d.Allocated, source, d.ID)
			if d.Damage != "" {
				fmt.Fprintf(t, "  damaged: %s\n", d.Damage)
			}
		}
	}
}

// progressLines say what is under way for a disk, what was verified, and what stands in the way.
func progressLines(d agent.DiskStatus) []string {
	var lines []string
	left := func(s float64) string {
		if s == 0 {
			return ""
		}
		return ", about " + seconds(s) + " left"
	}
	if d.State == agent.StateSyncing {
		lines = append(lines, fmt.Sprintf("sent %v of %v%s", d.Done, d.Total, left(d.Left)))
	}
	if s := d.Scan; s != nil {
		lines = append(lines, fmt.Sprintf("compared %v of %v%s; %v differed", s.Done, s.Total, left(s.Left), s.Differing))
	}
	if v := d.Verify; v.Round > 0 {
		full := "no whole round yet"
		if !v.LastFull.IsZero() {
			full = "last whole round ended " + v.LastFull.Format(time.RFC3339)
		}
		line := fmt.Sprintf("verification: round %d at %v of %v, %s", v.Round, v.Done, v.Total, full)
		if v.Mismatches > 0 {
			line += fmt.Sprintf("; MISMATCHES: %d blocks so far, last at %s", v.Mismatches, v.Mismatched.Format(time.RFC3339))
		}
		lines = append(lines, line)
	}
	switch {
	case d.Error != "":
		lines = append(lines, d.Error)
	case d.Pace != nil && d.Pace.Advice != "":
		lines = append(lines, d.Pace.Advice)
	}
	return lines
}

func seconds(s float64) string { return (time.Duration(s*10) * time.Second / 10).String() }

func pointsCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "points DISK",
		Short: "List the recovery points of a disk (its id, HOST:DEVICE, or DEVICE)",
		Args:  exactly(1, "DISK"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var points []receiver.PointReport
			if err := o.query(cmd.Context(), &wire.Query{Kind: wire.QueryPoints, Disk: args[0]}, &points); err != nil {
				return err
			}
			return o.print(cmd, points, func() {
				t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
				defer t.Flush()
				fmt.Fprintln(t, "POINT\tTIME\tCLASS\tPROVEN\tCHANGED\tSENT\tSTORED\tPINNED")
				for _, p := range points {
					fmt.Fprintf(t, "%v\t%s\t%v\t%v\t%v\t%v\t%s\t%v\n",
						p.Seq, p.Time.Format(time.RFC3339Nano), p.Class, yesNo(p.Proven), p.Covered, p.Payload, where(p), yesNo(p.Pinned))
				}
			})
		},
	}
	remoteFlags(cmd, o)
	return cmd
}

// where a point is: what its delta takes in the journal, and how many were merged into it, or that the volume stands at it.
func where(p receiver.PointReport) string {
	switch {
	case p.Stored == 0:
		return "volume"
	case p.First < p.Seq:
		return fmt.Sprintf("%v from %v on", p.Stored, p.First)
	}
	return p.Stored.String()
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// query asks the receiver and decodes its document.
func (o *options) query(ctx context.Context, q *wire.Query, into any) error {
	s, stream, err := o.dial(ctx)
	if err != nil {
		return err
	}
	defer s.Close(nil)
	if err := stream.Send(q); err != nil {
		return exitCode(err)
	}
	if err := stream.Flush(); err != nil {
		return exitCode(err)
	}
	reply, err := expect[*wire.Reply](stream)
	if err != nil {
		return exitCode(err)
	}
	return json.Unmarshal(reply.Document, into)
}

func restoreCommand(o *options) *cobra.Command {
	var overwrite bool
	cmd := &cobra.Command{
		Use:   "restore DISK[@POINT] FILE|DEVICE",
		Short: "Write a disk as of a recovery point into a file or onto a device",
		Long: "Write a disk as of a recovery point into a file or onto a device.\n\n" +
			"POINT is latest (default), #412, or an RFC 3339 time: the newest consistent point at or before it.",
		Args: exactly(2, "DISK[@POINT] FILE|DEVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			disk, point, _ := strings.Cut(args[0], "@")
			s, stream, err := o.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer s.Close(nil)
			cd, err := codec.New()
			if err != nil {
				return err
			}
			bar := daemon.NewProgress(cmd.ErrOrStderr(), "restoring")
			r := restorer{stream: stream, codec: cd, target: &restoreTarget{path: args[1], overwrite: overwrite}}
			report, err := r.run(cmd.Context(), disk, point, func(done, total block.Size) { bar.Set(int64(done), int64(total)) })
			bar.Finish(err)
			if err != nil {
				return exitCode(err)
			}
			if !report.Proven {
				fmt.Fprintf(cmd.ErrOrStderr(), "understudy: warning: %v is not proven: a write may have been missed before it, and the comparison after that had not ended; "+
					"understudy points lists those that are\n", report.Seq)
			}
			return o.print(cmd, report, func() {
				fmt.Fprintf(cmd.OutOrStdout(), "restored disk %v as of %v (%s, %v) to %s: %v, %v of it data, digest checked, in %s\n",
					report.Disk, report.Seq, report.Time.Format(time.RFC3339Nano), report.Class, report.Target, report.Size, report.Data, seconds(report.Seconds))
			})
		},
	}
	cmd.Flags().BoolVar(&overwrite, "overwrite", false, "replace a file that exists, or a device that holds data")
	remoteFlags(cmd, o)
	return cmd
}

func verifyCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify DISK",
		Short: "Compare the whole replica of a disk with the live disk, now (on the protected host)",
		Args:  exactly(1, "DISK"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var report agent.VerifyReport
			bar := daemon.NewProgress(cmd.ErrOrStderr(), "verifying")
			err := daemon.NewClient(o.agent).Call(cmd.Context(), "/verify", map[string][]string{"disk": {args[0]}}, bar.Set, &report)
			bar.Finish(err)
			if err != nil {
				return err
			}
			err = o.print(cmd, report, func() {
				fmt.Fprintf(cmd.OutOrStdout(), "compared %v of %s with its copy at %v: %v differ, %v changed since and are due to be sent\n",
					report.Size, report.Device, report.Seq, report.Different, report.Changed)
				for _, r := range report.Ranges {
					fmt.Fprintf(cmd.OutOrStdout(), "  differs: %v\n", r)
				}
			})
			if err == nil && !report.Equal() {
				err = daemon.Exitf(daemon.CodeDifference, "%v of %s differ from the copy; they are sent again with the next point", report.Different, report.Device)
			}
			return err
		},
	}
	agentFlag(cmd, o)
	return cmd
}

// atLeast is cobra.MinimumNArgs with a message that says what is missing.
func atLeast(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < n {
			return daemon.Exitf(daemon.CodeUsage, "%s takes %s; it was given %d", cmd.CommandPath(), what, len(args))
		}
		return nil
	}
}

// exactly is cobra.ExactArgs with a message that says what is missing.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return daemon.Exitf(daemon.CodeUsage, "%s takes %s; it was given %d of %d", cmd.CommandPath(), what, len(args), n)
		}
		return nil
	}
}
