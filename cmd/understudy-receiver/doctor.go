package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/understudy-dr/understudy/internal/daemon"
	"github.com/understudy-dr/understudy/internal/doctor"
	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/internal/wire"
)

// defaultConfig is the file that the unit runs the receiver with.
const defaultConfig = "/etc/understudy/receiver.toml"

// doctorCommand finds what is wrong with this receiver. understudy doctor runs it.
func doctorCommand() *cobra.Command {
	var file string
	var asJSON bool
	var c config
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check what the receiver needs here, and say what to do; understudy doctor includes it",
		Long: "Check what the receiver needs here, and say what to do; understudy doctor includes it.\n\n" +
			"It changes nothing, and disturbs no receiver that runs. Exit code 1: a check failed.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var wrong error
			if cmd.Flags().Changed("config") || !cmd.Flags().Changed("dir") {
				wrong = loadUnderFlags(cmd, file, &c)
			}
			if wrong == nil {
				wrong = c.Check()
			}
			parts := []doctor.Part{doctor.Run(cmd.Context(), "receiver", examine(c, file, wrong))}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return errors.Join(enc.Encode(parts[0]), doctor.Failed(parts))
			}
			doctor.Print(cmd.OutOrStdout(), parts)
			return doctor.Failed(parts)
		},
	}
	runFlags(cmd.Flags(), &c)
	cmd.Flags().StringVar(&file, "config", defaultConfig, "configuration file of the receiver; flags win over it")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// loadUnderFlags loads the file, then sets the flags that were given once more, so that they win.
func loadUnderFlags(cmd *cobra.Command, file string, c *config) error {
	given := map[string]string{}
	cmd.Flags().Visit(func(f *pflag.Flag) { given[f.Name] = f.Value.String() })
	if err := daemon.LoadConfig(file, c); err != nil {
		return err
	}
	for name, value := range given {
		if err := cmd.Flags().Set(name, value); err != nil {
			return daemon.Exit(daemon.CodeUsage, err)
		}
	}
	return nil
}

// examine lists the checks. With a configuration that is wrong only the unit is looked at.
func examine(c config, file string, wrong error) []doctor.Check {
	checks := []doctor.Check{
		{ID: "config", Run: func(context.Context) doctor.Finding {
			if wrong != nil {
				return doctor.Bad("edit "+file+" (man understudy-receiver-run has the keys, as flags), then systemctl restart understudy-receiver", "%s: %v", file, wrong)
			}
			return doctor.Good("copies in %s, listening at %s", c.Dir, c.Listen)
		}},
		{ID: "unit", Run: func(ctx context.Context) doctor.Finding { return doctor.Unit(ctx, "understudy-receiver") }},
	}
	if wrong != nil {
		return checks
	}
	identity := &doctor.Identity{
		Dir: c.PKI, Role: wire.RoleTarget, Owner: c.Dir,
		Anew: fmt.Sprintf("where the CA is: understudy pki issue --replace --name NAME --role target --out %s", c.PKI),
	}
	if c.CA != "" {
		identity.CRLs = []string{filepath.Join(c.CA, pki.CRLFile)}
	}
	p := patient{config: c, identity: identity}
	checks = append(checks, identity.Checks()...)
	return append(checks,
		doctor.Check{ID: "ca", Run: p.checkCA},
		doctor.Check{ID: "copies", Run: p.checkDir},
		doctor.Check{ID: "space", Run: p.checkSpace},
		doctor.Check{ID: "udp", Run: func(ctx context.Context) doctor.Finding { return p.checkPort(ctx, link.QUIC) }},
		doctor.Check{ID: "tcp", Run: func(ctx context.Context) doctor.Finding { return p.checkPort(ctx, link.TCP) }},
		doctor.Check{ID: "clock", Run: doctor.Clock},
	)
}

const asRoot = "run it as root"

// patient is a receiver under examination.
type patient struct {
	config
	identity *doctor.Identity
}

// checkCA holds that the receiver can sign, if it is to.
func (p patient) checkCA(context.Context) doctor.Finding {
	if p.CA == "" {
		return doctor.Good("the CA is elsewhere: this receiver enrolls no hosts and renews no certificates")
	}
	_, err := identify(p.config, slog.New(slog.DiscardHandler))
	switch {
	case errors.Is(err, fs.ErrPermission):
		return doctor.NotMade(asRoot, "%v", err)
	case err != nil:
		return doctor.Bad("docs/OPERATING.md, Certificates", "%v", err)
	}
	return doctor.Good("hosts are enrolled, and certificates renewed, by the CA in %s", p.CA)
}

// checkDir holds that the folder of copies is the receiver's own.
func (p patient) checkDir(context.Context) doctor.Finding {
	info, err := os.Stat(p.Dir)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return doctor.NotMade(asRoot, "%v", err)
	case errors.Is(err, fs.ErrNotExist):
		return doctor.Doubtful("systemctl enable --now understudy-receiver makes it; elsewhere than in /var/lib/understudy: docs/OPERATING.md, Day 1", "%s is not there yet", p.Dir)
	case err != nil:
		return doctor.Bad("docs/OPERATING.md, Where things are", "%v", err)
	case !info.IsDir():
		return doctor.Bad("set dir in the configuration to a folder", "%s is no folder", p.Dir)
	case info.Mode().Perm()&0o077 != 0:
		return doctor.Doubtful("chmod 700 "+p.Dir, "%s, with what is on all disks, can be reached by other users (mode %04o)", p.Dir, info.Mode().Perm())
	}
	disks, err := filepath.Glob(filepath.Join(p.Dir, "disks", "*", "*.delta"))
	if err != nil {
		return doctor.NotMade(asRoot, "%v", err)
	}
	return doctor.Good("%s holds %d deltas", p.Dir, len(disks))
}

const (
	// leastRoom is two parts of a delta (512 MiB each), or the largest file of a merge and a part.
	leastRoom = 1 << 30
	// enough is for how long the room should last at the rate of the last hour.
	enough = 24 * time.Hour
)

// checkSpace holds the room against what came in within the last hour, of which every point is still there.
func (p patient) checkSpace(context.Context) doctor.Finding {
	const fix = "keep fewer points (keep, max_bytes: README, Which points are kept), or give it a larger file system; docs/OPERATING.md, When it hurts: the target is full"
	f := doctor.Space(p.Dir, 10<<30, leastRoom, fix)
	grown, err := grewSince(p.Dir, time.Now().Add(-time.Hour))
	var st syscall.Statfs_t
	if err == nil && f.Status != doctor.Unknown {
		err = syscall.Statfs(p.Dir, &st)
	}
	if err != nil || f.Status == doctor.Unknown {
		return f
	}
	f.Text += fmt.Sprintf("; the journals have grown by %s in the last hour", doctor.Bytes(grown))
	if grown == 0 {
		return f
	}
	hours := st.Bavail * uint64(st.Bsize) / grown
	f.Text += fmt.Sprintf(", at which rate, if nothing were merged, the room lasts %d hours", hours)
	if f.Status == doctor.OK && time.Duration(min(hours, 1e6))*time.Hour < enough {
		return doctor.Doubtful(fix, "%s", f.Text)
	}
	return f
}

// grewSince adds up the deltas that were written after a time.
func grewSince(dir string, since time.Time) (sum uint64, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "disks", "*", "*.delta"))
	for _, path := range files {
		if info, err := os.Stat(path); err == nil && info.ModTime().After(since) {
			sum += uint64(info.Size())
		}
	}
	return sum, err
}

// checkPort binds the port; where somebody has it, that must be this receiver.
func (p patient) checkPort(ctx context.Context, c link.Carrier) doctor.Finding {
	err := bind(ctx, c, p.Listen)
	switch {
	case err == nil:
		return doctor.Bad("systemctl enable --now understudy-receiver; journalctl -u understudy-receiver", "%s (%s) is free: no receiver runs", p.Listen, c)
	case errors.Is(err, syscall.EACCES):
		return doctor.NotMade(asRoot, "%v", err)
	case !errors.Is(err, syscall.EADDRINUSE):
		return doctor.Bad("set listen in the configuration to an address of this machine (ip address)", "%v", err)
	}
	_, port, _ := net.SplitHostPort(p.Listen)
	who := map[link.Carrier]string{link.QUIC: "ss -lunp sport = :" + port, link.TCP: "ss -ltnp sport = :" + port}[c]
	way := &doctor.Way{Addr: p.self(), Carrier: c, Identity: p.identity, Role: wire.RoleTarget}
	f := way.Check(ctx, c)
	switch own := p.identity.Serial(); {
	case f.Status == doctor.Unknown:
		return f
	case f.Status != doctor.OK:
		return doctor.Bad(who+" says which program it is: stop that, or set listen to another port", "somebody has %s, and is no receiver that knows this certificate: %s", p.Listen, f.Text)
	case way.Serial() != own:
		return doctor.Bad(who+" says which program it is; a receiver takes up a new certificate within seconds", "the receiver at %s has another certificate (%s) than the one in %s (%s)", p.Listen, way.Serial(), p.PKI, own)
	}
	return doctor.Good("this receiver listens at %s: %s", p.Listen, f.Text)
}

// self is how this machine reaches what it listens at.
func (p patient) self() string {
	host, port, _ := net.SplitHostPort(p.Listen)
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if strings.Contains(p.Listen, "[") {
			host = "::1"
		}
	}
	return net.JoinHostPort(host, port)
}

// bind tries whether the port can be had, and lets it go.
func bind(ctx context.Context, c link.Carrier, addr string) error {
	var lc net.ListenConfig
	if c == link.TCP {
		l, err := lc.Listen(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		return l.Close()
	}
	l, err := lc.ListenPacket(ctx, "udp", addr)
	if err != nil {
		return err
	}
	return l.Close()
}
