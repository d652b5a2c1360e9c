package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/internal/daemon"
	"github.com/understudy-dr/understudy/internal/doctor"
	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/wire"
	"github.com/understudy-dr/understudy/receiver"
)

// daemons are the commands that know how to examine themselves, with the file that configures them.
var daemons = map[string]string{
	"understudy-agent":    "/etc/understudy/agent.toml",
	"understudy-receiver": "/etc/understudy/receiver.toml",
}

// doctorReport is what doctor prints.
type doctorReport struct {
	Parts   []doctor.Part `json:"parts"`
	OK      int           `json:"ok"`
	Warned  int           `json:"warnings"`
	Failed  int           `json:"failed"`
	NotMade int           `json:"not_made"`
}

func newDoctorReport(parts []doctor.Part) doctorReport {
	n := func(s doctor.Status) int { return doctor.Count(parts, s) }
	return doctorReport{Parts: parts, OK: n(doctor.OK), Warned: n(doctor.Warn), Failed: n(doctor.Fail), NotMade: n(doctor.Unknown)}
}

func doctorCommand(o *options) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find what is wrong on this machine, and say what to do",
		Long: "Find what is wrong on this machine, and say what to do.\n\n" +
			"Without flags it examines what is configured here: an agent (/etc/understudy/agent.toml), a receiver\n" +
			"(/etc/understudy/receiver.toml); each daemon's own command does that. --config FILE examines the daemon of that file: an agent\n" +
			"if it names disks or a receiver. With --receiver or --pki the way from here to that receiver, and its copies, are examined as an\n" +
			"operator. Exit code 0: all is well, or there are warnings only; 1: a check failed.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			parts, err := o.diagnose(cmd.Context(), file, o.receiver != "" || cmd.Flags().Changed("pki"))
			if err != nil {
				return err
			}
			err = o.print(cmd, newDoctorReport(parts), func() { doctor.Print(cmd.OutOrStdout(), parts) })
			return errors.Join(err, doctor.Failed(parts))
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration file of an agent or a receiver (default: those in /etc/understudy)")
	remoteFlags(cmd, o)
	return cmd
}

// diagnose has every daemon that is configured here examine itself, and the operator's way to a receiver if that is asked for.
func (o *options) diagnose(ctx context.Context, file string, operator bool) ([]doctor.Part, error) {
	found, err := configured(file)
	if err != nil {
		return nil, err
	}
	parts := []doctor.Part{}
	for _, name := range []string{"understudy-agent", "understudy-receiver"} {
		if path, ok := found[name]; ok {
			parts = append(parts, ask(ctx, name, path))
		}
	}
	if operator {
		parts = append(parts, doctor.Run(ctx, "operator", o.examine()))
	}
	if len(parts) == 0 {
		return nil, daemon.Exitf(daemon.CodeUsage, "nothing to examine: no agent and no receiver is configured in /etc/understudy; name a file with --config, or a receiver with --receiver HOST:PORT --pki DIR")
	}
	return parts, nil
}

// configured are the daemons that have a configuration here, with its file.
func configured(file string) (map[string]string, error) {
	if file == "" {
		found := map[string]string{}
		for name, path := range daemons {
			if _, err := os.Stat(path); err == nil {
				found[name] = path
			}
		}
		return found, nil
	}
	name := "understudy-receiver"
	keys, err := readKeys(file)
	if err != nil {
		return nil, err
	}
	if keys["disks"] != nil || keys["receiver"] != nil {
		name = "understudy-agent"
	}
	return map[string]string{name: file}, nil
}

// readKeys reads a configuration of whichever daemon. What is right in it is for that daemon to say.
func readKeys(path string) (keys map[string]any, err error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, daemon.Exitf(daemon.CodeNotFound, "no configuration file %s", path)
	}
	if err == nil {
		err = toml.Unmarshal(raw, &keys)
	}
	if err != nil {
		return nil, daemon.Exitf(daemon.CodeUsage, "read configuration %s: %w", path, err)
	}
	return keys, nil
}

// beside is the path of another of our commands: beside this one, or in PATH.
func beside(name string) (string, error) {
	if self, err := os.Executable(); err == nil {
		path := filepath.Join(filepath.Dir(self), name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return exec.LookPath(name)
}

// ask has a daemon's command examine itself. An answer that does not come is a result too.
func ask(ctx context.Context, name, file string) doctor.Part {
	part := strings.TrimPrefix(name, "understudy-")
	alone := func(f doctor.Finding) doctor.Part {
		return doctor.Run(ctx, part, []doctor.Check{{ID: "installed", Run: func(context.Context) doctor.Finding { return f }}})
	}
	path, err := beside(name)
	if err != nil {
		return alone(doctor.Bad("install the package "+name+" (README, Install it)", "there is %s, and no command %s", file, name))
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, path, "doctor", "--json", "--config", file)
	c.WaitDelay = time.Second
	var out, said bytes.Buffer
	c.Stdout, c.Stderr = &out, &said
	err = c.Run()
	var answer doctor.Part
	if e := json.Unmarshal(out.Bytes(), &answer); e != nil || len(answer.Results) == 0 {
		return alone(doctor.NotMade("upgrade it to "+daemon.Version()+", or run "+path+" doctor", "%s doctor has not answered: %v: %s", path, errors.Join(err, e), said.String()))
	}
	return answer
}

// examine lists the operator's checks.
func (o *options) examine() []doctor.Check {
	identity := &doctor.Identity{
		Dir: o.pki, Anew: fmt.Sprintf("where the CA is: understudy pki issue --dir CA --name YOU --role operator --out %s", o.pki),
	}
	checks := identity.Checks()
	if o.receiver == "" {
		return append(checks, doctor.Check{ID: "clock", Run: doctor.Clock}, doctor.Check{ID: "receiver", Run: func(context.Context) doctor.Finding {
			return doctor.NotMade("--receiver HOST:PORT", "no receiver was named: the way to it is not examined")
		}})
	}
	way := &doctor.Way{Addr: o.receiver, Carrier: link.Carrier(o.carrier), Identity: identity}
	checks = append(checks, way.Checks()...)
	return append(checks, doctor.Check{ID: "copies", Run: func(ctx context.Context) doctor.Finding {
		if way.Serial() == "" {
			return doctor.NotMade("first udp or tcp", "no receiver answers")
		}
		return o.checkCopies(ctx)
	}})
}

// checkCopies asks the receiver how its copies are.
func (o *options) checkCopies(ctx context.Context) doctor.Finding {
	var disks []receiver.DiskReport
	if err := o.query(ctx, &wire.Query{Kind: wire.QueryStatus}, &disks); err != nil {
		return doctor.Bad("docs/OPERATING.md, Refusals", "%v", err)
	}
	var damaged, alone, empty []string
	for _, d := range disks {
		name := d.Host + ":" + d.Name
		switch {
		case d.Damage != "":
			damaged = append(damaged, name+" ("+d.Damage+")")
		case d.Source == "":
			alone = append(alone, name)
		case d.Points == 0:
			empty = append(empty, name)
		}
	}
	switch {
	case len(damaged) > 0:
		return doctor.Bad("understudy audit DISK names file and offset; docs/JOURNAL.md", "damaged: %s", strings.Join(damaged, ", "))
	case len(alone) > 0:
		return doctor.Doubtful("on those hosts: understudy doctor", "no agent sends to: %s", strings.Join(alone, ", "))
	case len(empty) > 0:
		return doctor.Doubtful("understudy status there shows how far it is", "no point yet of: %s", strings.Join(empty, ", "))
	}
	return doctor.Good("%d copies, each with points and an agent that sends", len(disks))
}
