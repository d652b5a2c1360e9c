package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/internal/daemon"
	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/internal/wire"
)

// pkiCommand makes the certificates of a trial: a site's CA, and one certificate for each end.
func pkiCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "pki", Short: "Make a site's certificate authority and certificates", Args: cobra.ArbitraryArgs, RunE: daemon.UnknownCommand}
	cmd.AddCommand(pkiInitCommand(o), pkiIssueCommand(o))
	return cmd
}

func pkiInitCommand(o *options) *cobra.Command {
	var dir, site string
	var force bool
	cmd := &cobra.Command{
		Use:   "init --dir DIR --site NAME",
		Short: "Make a certificate authority",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := pki.Init(dir, site, force); err != nil {
				return err
			}
			return o.print(cmd, map[string]string{"dir": dir, "site": site}, func() {
				fmt.Fprintf(cmd.OutOrStdout(), "made the certificate authority of %s in %s; keep its ca.key safe, whoever has it can be any host\n", site, dir)
			})
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "pki", "folder for ca.crt and ca.key")
	cmd.Flags().StringVar(&site, "site", "understudy", "name of the site")
	cmd.Flags().BoolVar(&force, "force", false, "replace an authority that is there; its certificates become worthless")
	return cmd
}

func pkiIssueCommand(o *options) *cobra.Command {
	var dir, name, role, out string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "issue --dir DIR --name NAME --role source|target|operator --out DIR",
		Short: "Issue a certificate for a host or an operator",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := wire.ParseRole(role)
			if err != nil {
				return daemon.Exit(daemon.CodeUsage, err)
			}
			if name == "" || out == "" {
				return daemon.Exitf(daemon.CodeUsage, "say for whom and where to: --name NAME --out DIR")
			}
			if err := pki.Issue(dir, name, r, ttl, out); err != nil {
				return err
			}
			return o.print(cmd, map[string]string{"dir": out, "name": name, "role": role}, func() {
				fmt.Fprintf(cmd.OutOrStdout(), "issued a certificate for %s (%s) in %s\n", name, role, out)
			})
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "pki", "folder of the certificate authority")
	cmd.Flags().StringVar(&name, "name", "", "name of the host or operator")
	cmd.Flags().StringVar(&role, "role", "source", "source (agent), target (receiver) or operator")
	cmd.Flags().StringVar(&out, "out", "", "folder for ca.crt, host.crt and host.key")
	cmd.Flags().DurationVar(&ttl, "ttl", 365*24*time.Hour, "how long it is valid")
	return cmd
}
