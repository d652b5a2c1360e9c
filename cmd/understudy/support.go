package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/internal/daemon"
	"github.com/understudy-dr/understudy/internal/durable"
	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/internal/support"
)

// supportReport is what support-bundle prints.
type supportReport struct {
	File    string          `json:"file,omitempty"` // "" for a list
	Size    int             `json:"bytes,omitempty"`
	Entries []support.Entry `json:"entries"`
}

func supportCommand(o *options) *cobra.Command {
	var out, file string
	var since time.Duration
	var list bool
	cmd := &cobra.Command{
		Use:   "support-bundle [-o FILE.tar.gz]",
		Short: "Pack what an engineer needs to see of this machine into one file, without secrets",
		Long: "Pack what an engineer needs to see of this machine into one file, without secrets.\n\n" +
			"In it: what understudy doctor finds, status, configuration, certificates, logs, and what the kernel says of disks and mounts; with\n" +
			"--receiver what that receiver says too. Never in it: private keys, tokens, data of disks. Values of configuration keys that may hold\n" +
			"a secret, and what looks like one anywhere, are redacted. MANIFEST in it lists what is in, and why. --list shows that list and\n" +
			"packs nothing. Run it as root, and read it before you send it.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			found, err := configured(file)
			if err != nil {
				return err
			}
			c := collector{options: o, file: file, found: found, since: since, operator: o.receiver != "" || cmd.Flags().Changed("pki")}
			c.readConfigs(cmd.Flags().Changed("agent"))
			if list {
				return o.listBundle(cmd, c.items())
			}
			return o.bundle(cmd, &c, out)
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "the file (default: understudy-support-HOST-TIME.tar.gz here)")
	cmd.Flags().StringVar(&file, "config", "", "configuration file of an agent or a receiver (default: those in /etc/understudy)")
	cmd.Flags().DurationVar(&since, "since", 24*time.Hour, "how far back logs go")
	cmd.Flags().BoolVar(&list, "list", false, "list what would go in, and pack nothing")
	remoteFlags(cmd, o)
	agentFlag(cmd, o)
	return cmd
}

func (o *options) listBundle(cmd *cobra.Command, items []support.Item) error {
	report := supportReport{Entries: []support.Entry{}}
	for _, i := range items {
		report.Entries = append(report.Entries, support.Entry{Name: i.Name, Why: i.Why})
	}
	return o.print(cmd, report, func() {
		t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
		defer t.Flush()
		for _, e := range report.Entries {
			fmt.Fprintf(t, "%s\t%s\n", e.Name, e.Why)
		}
	})
}

// bundle packs, and puts the file in place when it is whole.
func (o *options) bundle(cmd *cobra.Command, c *collector, out string) error {
	host, err := os.Hostname()
	if err != nil {
		host = "host"
	}
	name := fmt.Sprintf("understudy-support-%s-%s", host, time.Now().UTC().Format("20060102T150405Z"))
	if out == "" {
		out = name + ".tar.gz"
	}
	if _, err := os.Lstat(out); !errors.Is(err, fs.ErrNotExist) {
		return daemon.Exitf(daemon.CodeUsage, "%s is there already: name another file with -o", out)
	}
	secrets, err := c.secrets()
	if err != nil {
		return fmt.Errorf("a key that can't be read can't be kept out: %w; run it as root", err)
	}
	var content bytes.Buffer
	entries, err := support.Pack(cmd.Context(), &content, name, c.items(), support.NewRedactor(secrets...))
	if err == nil {
		err = durable.Replace(out, content.Bytes(), 0o600)
	}
	if err != nil {
		return err
	}
	report := supportReport{File: out, Size: content.Len(), Entries: entries}
	return o.print(cmd, report, func() {
		for _, e := range entries {
			if e.Left != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "left out of %s: %s\n", e.Name, e.Left)
			}
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s: %d bytes; MANIFEST in it lists what it holds: read it before you send it\n", out, content.Len())
	})
}

// secrets are this machine's private keys, for what quotes one.
func (c *collector) secrets() ([][]byte, error) {
	var all [][]byte
	for _, dir := range c.folders() {
		for _, file := range []string{pki.HostKeyFile, pki.CAKeyFile} {
			raw, err := os.ReadFile(filepath.Join(dir, file))
			switch {
			case err == nil:
				all = append(all, raw)
			case !errors.Is(err, fs.ErrNotExist):
				return nil, err
			}
		}
	}
	return all, nil
}
