package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/agent"
	"github.com/understudy-dr/understudy/agent/capture/ebpf"
	"github.com/understudy-dr/understudy/internal/daemon"
	"github.com/understudy-dr/understudy/internal/doctor"
	"github.com/understudy-dr/understudy/internal/wire"
)

// defaultConfig is the file that the unit runs the agent with.
const defaultConfig = "/etc/understudy/agent.toml"

// doctorCommand finds what is wrong with this host. understudy doctor runs it.
func doctorCommand() *cobra.Command {
	var file string
	var asJSON bool
	c := newConfig()
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check what the agent needs on this host, and say what to do; understudy doctor includes it",
		Long: "Check what the agent needs on this host, and say what to do; understudy doctor includes it.\n\n" +
			"It changes nothing and disturbs no agent that runs. Exit code 1: a check failed.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var wrong error
			if cmd.Flags().Changed("config") || !cmd.Flags().Changed("receiver") {
				wrong = loadUnderFlags(cmd, file, &c)
			}
			if wrong == nil {
				wrong = checkConfig(c)
			}
			parts := []doctor.Part{doctor.Run(cmd.Context(), "agent", examine(c, file, wrong))}
			if asJSON {
				return errors.Join(printJSON(cmd, parts[0]), doctor.Failed(parts))
			}
			doctor.Print(cmd.OutOrStdout(), parts)
			return doctor.Failed(parts)
		},
	}
	runFlags(cmd.Flags(), &c)
	cmd.Flags().StringVar(&file, "config", defaultConfig, "configuration file of the agent; flags win over it")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// checkConfig refuses what run refuses.
func checkConfig(c config) error {
	if c.Receiver == "" {
		return errors.New("no receiver is named")
	}
	if _, err := daemon.NewLogger(io.Discard, c.Log); err != nil {
		return err
	}
	return c.Check()
}

// patient is an agent's host under examination.
type patient struct {
	config
	status *agent.Status // of the agent, once it has answered
	silent error         // why it has not
}

// examine lists the checks. With a configuration that is wrong only the host itself is looked at: no default is anybody's.
func examine(c config, file string, wrong error) []doctor.Check {
	if c.Host == "" {
		c.Host, _ = os.Hostname()
	}
	p := &patient{config: c}
	checks := []doctor.Check{
		{ID: "config", Run: func(context.Context) doctor.Finding {
			if wrong != nil {
				return doctor.Bad("edit "+file+" (man understudy-agent-run has the keys, as flags), then systemctl restart understudy-agent", "%s: %v", file, wrong)
			}
			return doctor.Good("%d disks to %s as %s, over %s", len(c.Disks), c.Receiver, c.Host, c.Carrier)
		}},
		{ID: "kernel", Run: checkKernel},
		{ID: "memory", Run: checkLock},
		{ID: "guard", Run: checkGuard},
		{ID: "unit", Run: func(ctx context.Context) doctor.Finding { return doctor.Unit(ctx, "understudy-agent") }},
	}
	if wrong != nil {
		return checks
	}
	identity := &doctor.Identity{
		Dir: c.PKI, Role: wire.RoleSource,
		Anew: fmt.Sprintf("understudy enroll-token --host %s --receiver %s --pki ADMIN, then here: understudy-agent enroll --force --pki %s --token TOKEN", c.Host, c.Receiver, c.PKI),
	}
	way := &doctor.Way{Addr: c.Receiver, Carrier: c.Carrier, Identity: identity, Role: wire.RoleSource}
	checks = append(checks, identity.Checks()...)
	checks = append(checks, way.Checks()...)
	for _, disk := range c.Disks {
		checks = append(checks, doctor.Check{ID: "disk", Run: func(context.Context) doctor.Finding { return p.checkDisk(disk) }})
	}
	return append(checks,
		doctor.Check{ID: "space", Run: func(context.Context) doctor.Finding {
			return doctor.Space(c.StateDir, 64<<20, 1<<20, "make room on the file system of "+c.StateDir)
		}},
		doctor.Check{ID: "daemon", Run: p.checkDaemon},
		doctor.Check{ID: "points", Run: p.checkPoints},
		doctor.Check{ID: "tracking", Run: p.checkPins},
		doctor.Check{ID: "frozen", Run: p.checkFrozen},
	)
}

const asRoot = "run it as root"

// checkKernel tries to track, as understudy-agent probe does.
func checkKernel(context.Context) doctor.Finding {
	release := text("/proc/sys/kernel/osrelease")
	lockdown := text("/sys/kernel/security/lockdown")
	err := ebpf.Probe()
	switch {
	case err == nil:
		return doctor.Good("%s: disks can be tracked", release)
	case os.Geteuid() != 0:
		return doctor.NotMade(asRoot, "%s: %v", release, err)
	case strings.Contains(lockdown, "[confidentiality]"):
		return doctor.Bad("boot with lockdown=integrity, under which programs may read the kernel's memory", "%s: %v", release, err)
	case text("/sys/kernel/btf/vmlinux") == "":
		return doctor.Bad("boot a kernel with CONFIG_DEBUG_INFO_BTF: Debian 12, Ubuntu 22.04, RHEL 9 and later have it (README, What it needs)", "%s: %v", release, err)
	}
	return doctor.Bad("README, What it needs; in a container, run the agent on the host itself, with CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN", "%s: %v", release, err)
}

// text is a small file's content, "" if it can't be read.
func text(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	raw, _ := io.ReadAll(io.LimitReader(f, 4096))
	return strings.TrimSpace(string(raw))
}

func checkLock(context.Context) doctor.Finding {
	if err := agent.TryLock(); err != nil {
		return doctor.Doubtful("LimitMEMLOCK=infinity and CAP_IPC_LOCK for the unit (docs/PACKAGING.md); at a shell: ulimit -l unlimited", "%v", err)
	}
	return doctor.Good("pages can be locked")
}

// checkGuard starts one and ends it.
func checkGuard(context.Context) doctor.Finding {
	self, err := os.Executable()
	if err != nil {
		return doctor.NotMade("run understudy-agent by its path", "%v", err)
	}
	g, err := agent.StartGuard(self, "guard")
	if err == nil {
		err = g.Close()
	}
	if err != nil {
		return doctor.Bad("LimitMEMLOCK=infinity and CAP_IPC_LOCK for the unit; docs/CONSISTENCY.md, The guard", "the guard does not start, so nothing would be frozen: %v", err)
	}
	return doctor.Good("it starts, and locks its memory")
}

// checkDisk looks at one disk as a tracker and as a cut would.
func (p *patient) checkDisk(path string) doctor.Finding {
	if _, err := os.Stat(path); err != nil {
		return doctor.Bad("plug it in, or name it as lsblk does in disks of the configuration; docs/OPERATING.md, When it hurts: the disk vanishes", "%v", err)
	}
	if err := ebpf.CheckDevice(path); err != nil {
		return doctor.Bad("name disks that lsblk shows below it, or whole disks; README, What it needs", "%v", err)
	}
	ground, err := agent.GroundOf(path)
	if err != nil {
		return doctor.NotMade(asRoot, "%s: %v", path, err)
	}
	var on []string
	for _, m := range ground.Mounts {
		on = append(on, m.FSType+" at "+m.Path)
	}
	what := fmt.Sprintf("%s can be tracked; %s", path, strings.Join(append(on, ground.Loose...), ", "))
	frozen := p.Freeze == nil || *p.Freeze
	switch {
	case len(ground.Loose) > 0 && p.Unfreezable == agent.UnfreezableRefuse && frozen:
		return doctor.Bad("move that elsewhere, or set unfreezable = \"fuzzy\"; docs/CONSISTENCY.md", "%s: it gets no recovery point while that writes", what)
	case len(ground.Loose) > 0 || !frozen:
		return doctor.Doubtful("docs/CONSISTENCY.md: what a fuzzy point is not", "%s: its points are fuzzy", what)
	case len(on) == 0:
		return doctor.Good("%s can be tracked; no file system is mounted: a point of it takes a moment without writes", path)
	}
	return doctor.Good("%s", what)
}

// checkDaemon asks the agent for its status.
func (p *patient) checkDaemon(ctx context.Context) doctor.Finding {
	var status agent.Status
	if p.silent = daemon.NewClient(p.Control).Call(ctx, "/status", nil, nil, &status); p.silent != nil {
		if errors.Is(p.silent, os.ErrPermission) {
			return doctor.NotMade(asRoot, "%v", p.silent)
		}
		return doctor.Bad("systemctl enable --now understudy-agent; if it ends again: journalctl -u understudy-agent", "%v", p.silent)
	}
	p.status = &status
	if !status.Link.Connected {
		return doctor.Bad("see udp, tcp and certificate above; docs/OPERATING.md, Refusals", "the agent runs, and is not linked: %s", status.Link.Error)
	}
	return doctor.Good("the agent runs, linked to %s over %s since %s", status.Link.Peer, status.Link.Carrier, status.Link.Since.Format(time.RFC3339))
}

// checkPoints holds what the agent says of its disks against what it was told to do.
func (p *patient) checkPoints(context.Context) doctor.Finding {
	if p.status == nil {
		return doctor.NotMade("first the daemon", "no agent to ask")
	}
	worst := doctor.Good("%d disks are protected, with points every %v", len(p.status.Disks), p.Interval)
	for _, d := range p.status.Disks {
		if f := p.judge(d); rank(f.Status) > rank(worst.Status) {
			worst = f
		}
	}
	if len(p.status.Disks) == 0 {
		return doctor.Bad("journalctl -u understudy-agent", "the agent has no disk open")
	}
	return worst
}

func rank(s doctor.Status) int {
	return map[doctor.Status]int{doctor.OK: 0, doctor.Unknown: 1, doctor.Warn: 2, doctor.Fail: 3}[s]
}

// judge says how it stands with one disk.
func (p *patient) judge(d agent.DiskStatus) doctor.Finding {
	const look = "docs/OPERATING.md, A look at it: states"
	late := max(3*p.Interval, 30*time.Second)
	switch lag := time.Duration(d.Lag * float64(time.Second)).Round(time.Second); {
	case d.State == agent.StateFenced:
		return doctor.Bad("docs/OPERATING.md, Fail-over: understudy-agent rejoin "+d.Device, "%s is fenced: its copy was promoted", d.Device)
	case d.State == agent.StateWaiting:
		return doctor.Bad("docs/OPERATING.md, Refusals", "%s is waiting: %s", d.Device, d.Error)
	case d.State != agent.StateProtected:
		return doctor.Doubtful(look+"; understudy status shows how far it is", "%s is %s", d.Device, d.State)
	case d.LastPoint == nil:
		return doctor.Doubtful(look, "%s has no point of this agent yet: %s", d.Device, d.Error)
	case lag > late:
		return doctor.Doubtful("understudy status; docs/CONSISTENCY.md says why points are given up", "%s: the newest point is %v old, with an interval of %v: %s", d.Device, lag, p.Interval, d.Error)
	case !d.LastPoint.Proven:
		return doctor.Doubtful(look+", PROVEN no", "%s: the newest point is not proven", d.Device)
	case d.Verify.Mismatches > 0:
		return doctor.Doubtful("docs/OPERATING.md, When it hurts: a difference", "%s: %d blocks have ever differed from the copy", d.Device, d.Verify.Mismatches)
	}
	return doctor.Good("%s", d.Device)
}

// checkPins holds that every disk that this host protects is tracked in the kernel.
func (p *patient) checkPins(context.Context) doctor.Finding {
	known, err := agent.KnownDisks(p.StateDir)
	if err != nil {
		return doctor.NotMade(asRoot+"; docs/OPERATING.md, Where things are", "%v", err)
	}
	if os.Geteuid() != 0 {
		return doctor.NotMade(asRoot, "the kernel's pins are root's")
	}
	open := map[string]bool{} // disks that a running agent has open must be tracked; others may have been forgotten
	if p.status != nil {
		for _, d := range p.status.Disks {
			open[d.ID.String()] = true
		}
	}
	whole, idle := 0, 0
	for _, id := range known {
		h, err := ebpf.Examine("", id)
		switch {
		case err != nil:
			return doctor.NotMade(asRoot, "pins of disk %v: %v", id, err)
		case h.Broken == "":
			whole++
		case open[id.String()]:
			return doctor.Bad("systemctl restart understudy-agent: the disk is compared with its copy, and tracked again", "the tracking of disk %v does not outlive its agent: %s", id, h.Broken)
		default:
			idle++
		}
	}
	if whole == 0 {
		return doctor.Doubtful("systemctl enable --now understudy-agent", "no disk is tracked: what is written now is found by comparison only")
	}
	return doctor.Good("%d disks are tracked in the kernel, %d known ones are not", whole, idle)
}

// checkFrozen looks for what a killed agent has left.
func (p *patient) checkFrozen(ctx context.Context) doctor.Finding {
	thaw := "understudy-agent thaw --control " + p.Control
	for try := 0; ; try++ {
		left, err := agent.LeftFrozen(recordPath(p.Control))
		switch {
		case errors.Is(err, os.ErrPermission):
			return doctor.NotMade(asRoot, "%v", err)
		case err != nil:
			return doctor.Bad(thaw, "%v", err)
		case !left.Alive && len(left.Frozen) > 0:
			return doctor.Bad(thaw, "an agent and its guard were killed, and left frozen: %s", strings.Join(left.Frozen, ", "))
		case !left.Alive && left.Hurrying && agent.Expedited():
			return doctor.Doubtful(thaw, "a killed agent has left the kernel hurrying (rcu_expedited)")
		case len(left.Frozen) == 0:
			return doctor.Good("nothing is left frozen")
		case try == 20: // seconds; a freeze takes milliseconds
			return doctor.Bad("systemctl restart understudy-agent", "the agent has held %s frozen for %d s", strings.Join(left.Frozen, ", "), try)
		}
		select {
		case <-ctx.Done():
			return doctor.NotMade("run it again", "stopped")
		case <-time.After(time.Second):
		}
	}
}
