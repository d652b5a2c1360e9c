package main

import (
	"fmt"
	"os/user"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/internal/daemon"
	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/internal/wire"
	"github.com/understudy-dr/understudy/receiver"
)

// enrollTokenCommand makes a token for a host, by way of a receiver that has the CA, or in the CA's folder.
func enrollTokenCommand(o *options) *cobra.Command {
	var host, dir string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "enroll-token --host NAME",
		Short: "Make a token with which a host gets its certificate: good for one host, once, for a short time",
		Long: "Make a token with which a host gets its certificate: good for one host, once, for a short time.\n\n" +
			"Either a receiver that runs with the site's CA makes it, for which it takes an administrator's certificate:\n" +
			"  understudy enroll-token --host web1 --receiver vault:443 --pki DIR\n" +
			"or whoever has the folder of the CA that such a receiver runs with:\n" +
			"  understudy enroll-token --host web1 --dir CA --receiver vault:443\n" +
			"The token names the receiver where that was said. On the host: understudy-agent enroll --token TOKEN",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if host == "" {
				return daemon.Exitf(daemon.CodeUsage, "for which host? say --host NAME")
			}
			if ttl <= 0 || ttl > wire.MaxTokenTTL {
				return daemon.Exitf(daemon.CodeUsage, "--ttl %v: a token is good for up to %v", ttl, wire.MaxTokenTTL)
			}
			report, err := makeToken(cmd, o, dir, host, ttl)
			if err != nil {
				return err
			}
			return o.print(cmd, report, func() {
				fmt.Fprintln(cmd.OutOrStdout(), report.Token)
				fmt.Fprintf(cmd.ErrOrStderr(), "for %s, once, until %s; on the host: understudy-agent enroll --token TOKEN\n", report.Host, report.Expires.Local().Format(time.RFC3339))
			})
		},
	}
	cmd.Flags().StringVar(&host, "host", "", "name of the host")
	cmd.Flags().DurationVar(&ttl, "ttl", time.Hour, "for how long the token is good")
	cmd.Flags().StringVar(&dir, "dir", "", "folder of the CA, to make the token without a receiver")
	remoteFlags(cmd, o)
	return cmd
}

func makeToken(cmd *cobra.Command, o *options, dir, host string, ttl time.Duration) (receiver.TokenReport, error) {
	var report receiver.TokenReport
	if dir == "" {
		err := o.command(cmd, "making a token", &wire.Invite{Host: host, TTL: ttl, Receiver: o.receiver}, &report)
		return report, err
	}
	authority, err := pki.OpenAuthority(dir)
	if err != nil {
		return report, err
	}
	token, expires, err := authority.Invite(host, ttl, whoami(), o.receiver)
	return receiver.TokenReport{Token: token.Text(), Host: host, Expires: expires}, err
}

// whoami is for the ledger of what was done on this machine.
func whoami() string {
	if u, err := user.Current(); err == nil {
		return "user " + u.Username
	}
	return "somebody at the CA's folder"
}
