package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/internal/daemon"
	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/internal/wire"
)

// pkiCommand makes, takes back and trusts certificates.
func pkiCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "pki", Short: "Make a site's certificate authority and certificates, take them back, change who is trusted", Args: cobra.ArbitraryArgs, RunE: daemon.UnknownCommand}
	cmd.AddCommand(pkiInitCommand(o), pkiIssueCommand(o), pkiRevokeCommand(o), pkiTrustCommand(o))
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
	var replace bool
	cmd := &cobra.Command{
		Use:   "issue --dir DIR --name NAME --role ROLE --out DIR",
		Short: "Issue a certificate for a host (source, target) or a person (viewer, operator, admin)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := wire.ParseRole(role)
			if err != nil {
				return daemon.Exit(daemon.CodeUsage, err)
			}
			if name == "" || out == "" {
				return daemon.Exitf(daemon.CodeUsage, "say for whom and where to: --name NAME --out DIR")
			}
			issue := pki.Issue
			if replace {
				issue = pki.Reissue
			}
			if err := issue(dir, name, r, ttl, out); err != nil {
				return err
			}
			return o.print(cmd, map[string]string{"dir": out, "name": name, "role": role}, func() {
				fmt.Fprintf(cmd.OutOrStdout(), "issued a certificate for %s (%s) in %s\n", name, role, out)
			})
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "pki", "folder of the certificate authority")
	cmd.Flags().StringVar(&name, "name", "", "name of the host or operator")
	cmd.Flags().StringVar(&role, "role", "source", "source (agent), target (receiver); viewer, operator or admin (people)")
	cmd.Flags().StringVar(&out, "out", "", "folder for ca.crt, host.crt and host.key")
	cmd.Flags().BoolVar(&replace, "replace", false, "put it in place of the one in the folder; a daemon that runs with the folder takes it up")
	cmd.Flags().DurationVar(&ttl, "ttl", 365*24*time.Hour, "how long it is valid")
	return cmd
}

func pkiRevokeCommand(o *options) *cobra.Command {
	var dir string
	var what wire.Revoke
	cmd := &cobra.Command{
		Use:   "revoke --name NAME | --serial SERIAL",
		Short: "Take certificates back: all that were issued for a name so far, or one",
		Long: "Take certificates back: all that were issued for a name so far, or one by its serial number.\n\n" +
			"Either a receiver that runs with the site's CA does it, for which it takes an administrator's certificate (--receiver, --pki), or\n" +
			"whoever has the folder of the CA (--dir). A receiver that runs with that CA ends the sessions of whom it concerns within seconds;\n" +
			"to any other, and to agents, bring ca.crl from the CA's folder into their own.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := what.Check(); err != nil {
				return daemon.Exitf(daemon.CodeUsage, "what is to be revoked? say --name NAME or --serial SERIAL")
			}
			done, err := revoke(cmd, o, dir, &what)
			if err != nil {
				return exitCode(err)
			}
			return o.print(cmd, done, func() {
				fmt.Fprintf(cmd.OutOrStdout(), "revoked: %s\n", strings.Join(done.Serials, " "))
				if done.Unreadable > 0 {
					fmt.Fprintf(cmd.ErrOrStderr(), "%d lines of the CA's ledger can't be read: a certificate in one of them goes on being good until it is revoked by --serial\n", done.Unreadable)
				}
			})
		},
	}
	cmd.Flags().StringVar(&what.Name, "name", "", "name of the host or person")
	cmd.Flags().StringVar(&what.Serial, "serial", "", "serial number, in hexadecimal")
	cmd.Flags().StringVar(&dir, "dir", "", "folder of the CA, to do it without a receiver")
	remoteFlags(cmd, o)
	return cmd
}

func revoke(cmd *cobra.Command, o *options, dir string, what *wire.Revoke) (done pki.Revocation, err error) {
	if dir == "" {
		return done, o.command(cmd, "revoking", what, &done)
	}
	authority, err := pki.OpenAuthority(dir)
	if err != nil {
		return done, err
	}
	return authority.Revoke(what, whoami(), "")
}

func pkiTrustCommand(o *options) *cobra.Command {
	var dir, add, drop string
	cmd := &cobra.Command{
		Use:   "trust --pki DIR (--add FILE | --drop FILE)",
		Short: "Have a host trust one more CA, or one less: while a site's CA is replaced, both are trusted",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			change, file := pki.Trust, add
			if drop != "" {
				change, file = pki.Distrust, drop
			}
			if (add == "") == (drop == "") {
				return daemon.Exitf(daemon.CodeUsage, "say --add FILE or --drop FILE, with the ca.crt of the CA")
			}
			cas, err := change(dir, file)
			if err != nil {
				return err
			}
			names := []string{}
			for _, ca := range cas {
				names = append(names, fmt.Sprintf("%s (serial %s)", ca.Subject.CommonName, pki.Serial(ca)))
			}
			return o.print(cmd, map[string]any{"dir": dir, "trusted": names}, func() {
				fmt.Fprintf(cmd.OutOrStdout(), "%s trusts: %s\n", dir, strings.Join(names, ", "))
			})
		},
	}
	cmd.Flags().StringVar(&dir, "pki", "/etc/understudy/pki", "folder of the host")
	cmd.Flags().StringVar(&add, "add", "", "ca.crt of a CA to trust as well")
	cmd.Flags().StringVar(&drop, "drop", "", "ca.crt of a CA to trust no more")
	return cmd
}
