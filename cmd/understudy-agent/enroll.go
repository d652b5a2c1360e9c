package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/internal/daemon"
	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/internal/wire"
)

// enrollment is what enroll is told.
type enrollment struct {
	token    string
	receiver string
	host     string
	pki      string
	carrier  link.Carrier
	force    bool
	json     bool
}

// enrollReport is what enroll prints.
type enrollReport struct {
	Host     string    `json:"host"`
	PKI      string    `json:"pki"`
	Receiver string    `json:"receiver"`
	Serial   string    `json:"serial"`
	Until    time.Time `json:"until"`
}

// enrollCommand gives this host its certificate.
func enrollCommand() *cobra.Command {
	e := enrollment{carrier: link.QUIC}
	cmd := &cobra.Command{
		Use:   "enroll --token TOKEN",
		Short: "Get this host its certificate, by a token that understudy enroll-token made",
		Long: "Get this host its certificate, by a token that understudy enroll-token made.\n\n" +
			"The host's key is made here and never leaves the host. The receiver is known by the CA that the token names. A token is good for\n" +
			"one host, one use and a short time. TOKEN - reads it from standard input, so that it stands in no list of processes. From then on\n" +
			"a running agent renews the certificate by itself.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			report, err := e.run(cmd)
			if err != nil {
				return err
			}
			if e.json {
				return printJSON(cmd, report)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "enrolled as %s with %s: the certificate in %s is good until %s, and a running agent renews it\n",
				report.Host, report.Receiver, report.PKI, report.Until.Format(time.RFC3339))
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&e.token, "token", "", "the token; - reads it from standard input")
	f.StringVar(&e.receiver, "receiver", "", "the receiver's HOST:PORT (default: the one in the token)")
	f.StringVar(&e.host, "host", "", "name of this host, which the token is for (default: the kernel's)")
	f.StringVar(&e.pki, "pki", "/etc/understudy/pki", "folder for ca.crt, host.crt and host.key")
	f.Var(&e.carrier, "carrier", "carrier of the link")
	f.BoolVar(&e.force, "force", false, "enroll anew where there is a certificate already; a running agent takes the new one up")
	f.BoolVar(&e.json, "json", false, "print JSON")
	return cmd
}

// run enrolls, and leaves the folder as it was if it fails.
func (e enrollment) run(cmd *cobra.Command) (*enrollReport, error) {
	token, err := e.read(cmd)
	if err != nil {
		return nil, err
	}
	if err := e.mayStore(); err != nil {
		return nil, err
	}
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	request, err := pki.Request(key)
	if err != nil {
		return nil, err
	}
	got, err := link.Enroll(cmd.Context(), e.carrier, e.receiver, token, &wire.Enroll{Host: e.host, Request: request})
	if err != nil {
		return nil, enrollCode(err)
	}
	if err := pki.Store(e.pki, key, got.Certificate, got.CAs); err != nil {
		return nil, fmt.Errorf("%w; the token is spent: make another with understudy enroll-token --host %s", err, e.host)
	}
	report := &enrollReport{Host: e.host, PKI: e.pki, Receiver: e.receiver, Serial: pki.Serial(got.Certificate), Until: got.Certificate.NotAfter.UTC()}
	return report, e.record(token, got.Certificate)
}

// read takes the token apart, and fills in what was not said.
func (e *enrollment) read(cmd *cobra.Command) (pki.Token, error) {
	text := e.token
	if text == "-" {
		raw := make([]byte, 4096)
		n, err := cmd.InOrStdin().Read(raw)
		if n == 0 && err != nil {
			return pki.Token{}, daemon.Exitf(daemon.CodeUsage, "read the token from standard input: %w", err)
		}
		text = string(raw[:n])
	}
	if text == "" {
		return pki.Token{}, daemon.Exitf(daemon.CodeUsage, "no token: have one made with understudy enroll-token --host NAME, and say --token TOKEN")
	}
	token, err := pki.ParseToken(text)
	if err != nil {
		return token, daemon.Exit(daemon.CodeUsage, err)
	}
	if e.receiver == "" {
		e.receiver = token.Receiver
	}
	if e.receiver == "" {
		return token, daemon.Exitf(daemon.CodeUsage, "the token names no receiver: say --receiver HOST:PORT")
	}
	if e.host == "" {
		if e.host, err = os.Hostname(); err != nil {
			return token, fmt.Errorf("read host name: %w; say --host NAME", err)
		}
	}
	return token, nil
}

// mayStore refuses before the token is spent what could not be stored after.
func (e enrollment) mayStore() error {
	there, err := pki.Enrolled(e.pki)
	if err != nil {
		return err
	}
	if there && !e.force {
		until := ""
		if c, err := link.LoadCredentials(e.pki); err == nil {
			until = fmt.Sprintf(" (%s, good until %s, renewed by a running agent)", c.Name, c.Certificate().NotAfter.UTC().Format(time.RFC3339))
		}
		return daemon.Exitf(daemon.CodeUsage, "there is a certificate in %s already%s: --force enrolls anew", e.pki, until)
	}
	if err := os.MkdirAll(e.pki, 0o700); err != nil {
		return fmt.Errorf("make folder for the certificate: %w", err)
	}
	probe, err := os.CreateTemp(e.pki, ".enroll-")
	if err != nil {
		return fmt.Errorf("the certificate could not be stored: %w", err)
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// record writes the line of the host's own ledger.
func (e enrollment) record(token pki.Token, cert *x509.Certificate) error {
	return pki.Record(e.pki, pki.Entry{
		Event: "enrolled", Name: e.host, Roles: pki.RolesOf(cert), Serial: pki.Serial(cert), Until: cert.NotAfter, Token: token.Name(), Addr: e.receiver,
	})
}

// enrollCode gives what went wrong its exit code.
func enrollCode(err error) error {
	switch {
	case errors.As(err, new(*wire.Error)):
		return daemon.Exit(daemon.CodeRefused, err)
	case errors.Is(err, context.Canceled):
		return err
	}
	return daemon.Exit(daemon.CodeUnreachable, err)
}
