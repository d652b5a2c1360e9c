package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/internal/daemon"
	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/internal/support"
	"github.com/understudy-dr/understudy/internal/wire"
	"github.com/understudy-dr/understudy/receiver"
)

// collector knows where things are on this machine.
type collector struct {
	*options
	file     string            // --config
	found    map[string]string // daemons with their configuration files
	since    time.Duration
	operator bool

	agentState, copies, pki, ca string // folders
}

// readConfigs takes over where the configurations put things. One that can't be read leaves the defaults.
func (c *collector) readConfigs(agentGiven bool) {
	c.agentState, c.copies, c.pki = "/var/lib/understudy/agent", "/var/lib/understudy/receiver", "/etc/understudy/pki"
	set := func(into *string, v any) {
		if s, ok := v.(string); ok && s != "" {
			*into = s
		}
	}
	for name, path := range c.found {
		keys, err := readKeys(path)
		if err != nil {
			continue
		}
		set(&c.pki, keys["pki"])
		set(&c.ca, keys["ca"])
		set(&c.copies, keys["dir"])
		set(&c.agentState, keys["state_dir"])
		if name == "understudy-agent" && !agentGiven {
			set(&c.agent, keys["control"])
		}
	}
}

// folders are those that may hold keys and certificates.
func (c *collector) folders() []string {
	all := []string{c.pki, c.options.pki, "/etc/understudy/pki", "/etc/understudy/ca"}
	if c.ca != "" {
		all = append(all, c.ca)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// shownKeys are the configuration keys whose values can't be secrets. What hooks are given in their environment can.
var shownKeys = []string{
	"disks", "receiver", "host", "pki", "carrier", "interval", "state_dir", "block_size", "compress", "freeze", "freeze_budget", "memory",
	"unfreezable", "scan_rate", "verify_every", "verify_rate", "control", "metrics",
	"dir", "listen", "ca", "certificate_ttl", "keep", "max_points", "max_bytes", "horizon",
	"log.level", "log.format", "application.name", "application.pre_freeze", "application.post_thaw", "application.user",
	"application.timeout", "application.on_failure", "application.every",
}

// items are what goes in, in the order of the manifest.
func (c *collector) items() []support.Item {
	items := []support.Item{
		{Name: "versions.txt", Why: "our commands, the kernel, the distribution", Collect: c.versions},
		{Name: "doctor.json", Why: "what understudy doctor finds", Collect: c.doctor},
		{Name: "agent/status.json", Why: "the agent's own word on link, disks and trackers, by its control socket", Collect: c.status},
		{Name: "agent/state.txt", Why: "the agent's state folder: ids of disks, generations, verification", Collect: c.stateFiles},
	}
	for _, name := range []string{"understudy-agent", "understudy-receiver"} {
		short := strings.TrimPrefix(name, "understudy-")
		if path, ok := c.found[name]; ok {
			items = append(items, support.Item{Name: short + "/config.txt", Why: "its configuration; values that may be secret are redacted", Collect: func(context.Context) ([]byte, error) {
				raw, err := os.ReadFile(path)
				if err != nil {
					return nil, err
				}
				// The known secrets are taken out with the rest of the file.
				return []byte(support.NewRedactor().Config(string(raw), shownKeys)), nil
			}})
		}
		items = append(items, support.Item{Name: short + "/log.txt", Why: fmt.Sprintf("its unit's log of the last %v", c.since), Collect: func(ctx context.Context) ([]byte, error) {
			return printed(ctx, "journalctl", "--unit", name, "--no-pager", "--output", "short-iso-precise", "--since", time.Now().Add(-c.since).Format("2006-01-02 15:04:05"))
		}})
	}
	items = append(items,
		support.Item{Name: "receiver/journals.txt", Own: true, Why: "names, sizes and headers of the files of copies; no data", Collect: c.journals},
		support.Item{Name: "certificates.txt", Own: true, Why: "certificates, revocations and ledgers, parsed; no keys", Collect: c.certificates},
		support.Item{Name: "kernel/log.txt", Why: "what the kernel said of disks, file systems, memory and BPF", Collect: kernelLog},
		support.Item{Name: "kernel/mounts.txt", Why: "what is mounted where: what a freeze has to freeze", Collect: files("/proc/self/mountinfo", "/proc/swaps")},
		support.Item{Name: "kernel/disks.txt", Own: true, Why: "block devices, their queues, and what stands on what", Collect: blockDevices},
		support.Item{Name: "kernel/pins.txt", Own: true, Why: "what is pinned in the kernel for tracking", Collect: pins},
	)
	if c.receiver != "" {
		items = append(items,
			support.Item{Name: "remote/status.json", Why: "the copies, by " + c.receiver, Collect: c.remoteStatus},
			support.Item{Name: "remote/points.json", Why: "their recovery points", Collect: c.remotePoints})
	}
	return items
}

func indented(v any, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return json.MarshalIndent(v, "", "  ")
}

// printed is what a tool prints. What it complains of is an error beside that.
func printed(ctx context.Context, name string, args ...string) ([]byte, error) {
	var out, said bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &said, time.Second
	if err := cmd.Run(); err != nil {
		return out.Bytes(), fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(said.String()))
	}
	return out.Bytes(), nil
}

// files are several files' contents, one after the other.
func files(paths ...string) func(context.Context) ([]byte, error) {
	return func(context.Context) ([]byte, error) {
		var b bytes.Buffer
		var errs error
		for _, path := range paths {
			raw, err := os.ReadFile(path)
			fmt.Fprintf(&b, "==> %s <==\n%s\n", path, raw)
			errs = errors.Join(errs, err)
		}
		return b.Bytes(), errs
	}
}

func (c *collector) versions(ctx context.Context) ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "understudy %s\n", daemon.Version())
	for _, name := range []string{"understudy-agent", "understudy-receiver"} {
		if path, err := beside(name); err == nil {
			out, err := printed(ctx, path, "--version")
			fmt.Fprintf(&b, "%s: %s", path, out)
			if err != nil {
				fmt.Fprintln(&b, err)
			}
		} else {
			fmt.Fprintf(&b, "%s: not installed\n", name)
		}
	}
	more, err := files("/proc/version", "/etc/os-release")(ctx)
	return append(b.Bytes(), more...), err
}

func (c *collector) doctor(ctx context.Context) ([]byte, error) {
	parts, err := c.diagnose(ctx, c.file, c.operator)
	return indented(newDoctorReport(parts), err)
}

func (c *collector) status(ctx context.Context) ([]byte, error) {
	var status json.RawMessage
	err := daemon.NewClient(c.agent).Call(ctx, "/status", nil, nil, &status)
	return indented(status, err)
}

func (c *collector) stateFiles(ctx context.Context) ([]byte, error) {
	paths, err := filepath.Glob(filepath.Join(c.agentState, "disk*.json"))
	if err == nil && len(paths) == 0 {
		err = fmt.Errorf("no state in %s", c.agentState)
	}
	if err != nil {
		return nil, err
	}
	return files(paths...)(ctx)
}

func (c *collector) certificates(context.Context) ([]byte, error) {
	var b bytes.Buffer
	for _, dir := range c.folders() {
		for _, file := range []string{pki.CACertFile, pki.HostCertFile, pki.CRLFile, pki.LedgerFile} {
			path := filepath.Join(dir, file)
			info, err := os.Stat(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				fmt.Fprintln(&b, err)
				continue
			}
			fmt.Fprintf(&b, "==> %s, mode %04o <==\n", path, info.Mode().Perm())
			if _, err := dumpPKI(&b, path, true); err != nil {
				fmt.Fprintln(&b, err)
			}
		}
	}
	return b.Bytes(), nil
}

func (c *collector) remoteStatus(ctx context.Context) ([]byte, error) {
	var disks []receiver.DiskReport
	err := c.query(ctx, &wire.Query{Kind: wire.QueryStatus}, &disks)
	return indented(disks, err)
}

func (c *collector) remotePoints(ctx context.Context) ([]byte, error) {
	var disks []receiver.DiskReport
	if err := c.query(ctx, &wire.Query{Kind: wire.QueryStatus}, &disks); err != nil {
		return nil, err
	}
	all := map[string][]receiver.PointReport{}
	for _, d := range disks {
		var points []receiver.PointReport
		if err := c.query(ctx, &wire.Query{Kind: wire.QueryPoints, Disk: d.ID.String()}, &points); err != nil {
			return nil, err
		}
		all[d.ID.String()] = points
	}
	return indented(all, nil)
}
