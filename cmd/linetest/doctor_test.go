package linetest

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/doctor"
	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/internal/wire"
	"github.com/understudy-dr/understudy/receiver"
)

// patients are configuration files of an agent and a receiver of the site.
func (s *site) patients(disks ...string) (agent, receiver string) {
	s.t.Helper()
	agent, receiver = s.path("agent.toml"), s.path("receiver.toml")
	list, _ := json.Marshal(disks)
	s.file(agent, fmt.Sprintf("disks = %s\nreceiver = %q\nhost = \"web1\"\npki = %q\nstate_dir = %q\ncontrol = %q\ncarrier = %q\ninterval = \"300ms\"\n",
		list, s.addr, s.path(s.pki), s.path("state"), s.path("agent.sock"), s.carrier))
	s.file(receiver, fmt.Sprintf("dir = %q\nlisten = %q\npki = %q\n", s.rdir, s.addr, s.path("target")))
	return agent, receiver
}

func (s *site) file(path, text string) {
	s.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// diagnosis is what doctor found, by check; of several of one name the worst.
type diagnosis map[string]doctor.Finding

// doctor runs understudy doctor, and holds what is true of every report.
func (s *site) doctor(args ...string) diagnosis {
	s.t.Helper()
	return s.doctorBy(exec.Command(filepath.Join(bin, "understudy"), append([]string{"doctor", "--json"}, args...)...))
}

func (s *site) doctorBy(cmd *exec.Cmd) diagnosis {
	s.t.Helper()
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	var report struct {
		Parts  []doctor.Part
		Failed int
	}
	if e := json.Unmarshal(out, &report); e != nil {
		s.t.Fatalf("%v printed %q and %q: %v, %v", cmd.Args, out, said.String(), err, e)
	}
	if failed := err != nil; failed != (report.Failed > 0) || failed && cmd.ProcessState.ExitCode() != 1 {
		s.t.Errorf("%d checks failed, and the exit code is %d", report.Failed, cmd.ProcessState.ExitCode())
	}
	order := []doctor.Status{doctor.OK, doctor.Unknown, doctor.Warn, doctor.Fail}
	d := diagnosis{}
	for _, p := range report.Parts {
		for _, r := range p.Results {
			if (r.Fix == "") != (r.Status == doctor.OK) || strings.Contains(r.Text, "\n") || r.Text == "" {
				s.t.Errorf("check %s: %+v: one line, and a way out if there is something wrong", r.Check, r.Finding)
			}
			if old, ok := d[r.Check]; !ok || slices.Index(order, r.Status) > slices.Index(order, old.Status) {
				d[r.Check] = r.Finding
			}
		}
	}
	return d
}

// says holds one finding: its status, a word of its text and one of its way out.
func (d diagnosis) says(t *testing.T, check string, status doctor.Status, text, fix string) {
	t.Helper()
	f, ok := d[check]
	if !ok || f.Status != status || !strings.Contains(f.Text, text) || !strings.Contains(f.Fix, fix) {
		t.Errorf("check %s found %+v, want %s, %q, with the way out %q", check, f, status, text, fix)
	}
}

// well holds that nothing is wrong but what this machine lacks (a service manager, a synchronised clock).
func (d diagnosis) well(t *testing.T, checks ...string) {
	t.Helper()
	for _, c := range checks {
		if d[c].Status != doctor.OK {
			t.Errorf("check %s of a healthy site found %+v", c, d[c])
		}
	}
	for c, f := range d {
		if f.Status == doctor.Fail && c != "unit" {
			t.Errorf("check %s of a healthy site found %+v", c, f)
		}
	}
}

// TestDoctorFindsNothingWrong: a disk with a file system on it, protected, its receiver, and an operator.
func TestDoctorFindsNothingWrong(t *testing.T) {
	s := newSite(t, "quic")
	dev := s.loopDisk("disk", 64<<20)
	mount(t, dev, s.path("mnt"))
	agent, vault := s.patients(dev)
	s.startReceiver()
	s.startAgent(dev)
	s.nextPointThat(dev, func(p receiver.PointReport) bool { return p.Class.Consistent() && p.Proven })
	s.doctor("--config", agent).well(t, "config", "kernel", "memory", "guard", "key", "certificate", "revoked", "name", "udp", "tcp", "disk", "space", "daemon", "tracking", "frozen")
	s.doctor("--config", vault).well(t, "config", "key", "certificate", "ca", "copies", "udp", "tcp")
	s.doctor(s.remote()...).well(t, "key", "certificate", "name", "udp", "tcp", "copies")
	for _, text := range []string{"ext4 at " + s.path("mnt"), "vault"} {
		if out, _, _ := run(t, "understudy-agent", "doctor", "--config", agent); !strings.Contains(out, text) {
			t.Errorf("doctor does not mention %q:\n%s", text, out)
		}
	}
}

// mount makes an ext4 on a device and mounts it for the test.
func mount(t *testing.T, dev, dir string) {
	t.Helper()
	must(t, "mkfs.ext4", "-q", dev)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	must(t, "mount", dev, dir)
	t.Cleanup(func() { exec.Command("umount", dir).Run() })
}

// small mounts a tmpfs of a few bytes for the test.
func small(t *testing.T, dir string, size string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	must(t, "mount", "-t", "tmpfs", "-o", "mode=0700,size="+size, "none", dir)
	t.Cleanup(func() { must(t, "umount", dir) })
}

// TestDoctorOfAnIdentity breaks a certificate and its key in every way that an operator does.
func TestDoctorOfAnIdentity(t *testing.T) {
	s := newSite(t, "tcp")
	dev := s.loopDisk("disk", 8<<20)
	agent, _ := s.patients(dev)
	s.startReceiver()
	issue := func(from, until time.Duration, role wire.Role) func() {
		return func() {
			now := time.Now()
			if err := pki.IssueBetween(s.path("ca"), "web1", role, now.Add(from), now.Add(until), s.path("source")); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.ours("pki", "init", "--dir", s.path("ca2"), "--site", "another")
	key := filepath.Join(s.path("source"), pki.HostKeyFile)
	for _, row := range []struct {
		name            string
		do              func()
		check           string
		status          doctor.Status
		text, fix, also string // also: a check that can't be made then
	}{
		{"expired", issue(-2*time.Hour, -time.Hour, wire.RoleSource), "certificate", doctor.Fail, "expired at", "enroll-token --host web1", "tcp"},
		{"due", issue(-99*time.Hour, time.Hour, wire.RoleSource), "certificate", doctor.Warn, "should have been renewed", "understudy-agent enroll --force", ""},
		{"from the future", issue(time.Hour, 9*time.Hour, wire.RoleSource), "clock", doctor.Fail, "one of the clocks is wrong", "timedatectl", "udp"},
		{"role", issue(-time.Hour, 9*time.Hour, wire.RoleOperator), "certificate", doctor.Fail, "not for a source", "enroll-token", ""},
		{"key read by all", func() { issue(-time.Hour, 9*time.Hour, wire.RoleSource)(); os.Chmod(key, 0o644) }, "key", doctor.Fail, "mode 0644", "chmod 600 " + key, "tcp"},
		{"no key", func() {}, "key", doctor.Fail, "is missing", "enroll-token", "tcp"},
		{"another CA", func() {
			s.ours("pki", "issue", "--dir", s.path("ca2"), "--name", "web1", "--role", "source", "--out", s.path("source"))
		}, "tcp", doctor.Fail, "another CA", "Refusals", ""},
		{"revoked", func() {
			issue(-time.Hour, 9*time.Hour, wire.RoleSource)()
			s.ours("pki", "revoke", "--dir", s.path("ca"), "--name", "web1")
			raw, err := os.ReadFile(filepath.Join(s.path("ca"), pki.CRLFile))
			if err != nil {
				t.Fatal(err)
			}
			s.file(filepath.Join(s.path("source"), pki.CRLFile), string(raw))
		}, "certificate", doctor.Fail, "was revoked", "enroll-token", "revoked"},
	} {
		t.Run(row.name, func(t *testing.T) {
			os.RemoveAll(s.path("source"))
			row.do()
			d := s.doctor("--config", agent)
			d.says(t, row.check, row.status, row.text, row.fix)
			if row.also != "" {
				d.says(t, row.also, doctor.Unknown, "", "first the certificate")
			}
		})
	}
}

// TestDoctorOfAWay breaks the way to the receiver.
func TestDoctorOfAWay(t *testing.T) {
	s := newSite(t, "quic")
	dev := s.loopDisk("disk", 8<<20)
	agent, vault := s.patients(dev)

	d := s.doctor("--config", agent)
	d.says(t, "tcp", doctor.Warn, "nobody listens there", "systemctl enable --now understudy-receiver")
	d.says(t, "udp", doctor.Fail, "no answer", "open UDP port")
	d.says(t, "daemon", doctor.Fail, "no daemon answers", "systemctl enable --now understudy-agent")
	d.says(t, "points", doctor.Unknown, "no agent to ask", "first the daemon")
	d.says(t, "tracking", doctor.Warn, "no disk is tracked", "understudy-agent")
	s.doctor("--config", vault).says(t, "tcp", doctor.Fail, "no receiver runs", "journalctl -u understudy-receiver")

	s.startReceiver()
	real := s.addr
	s.addr = withoutUDP(t, real)
	agent, _ = s.patients(dev)
	d = s.doctor("--config", agent)
	d.says(t, "tcp", doctor.OK, "vault", "")
	d.says(t, "udp", doctor.Fail, "no answer", `carrier = "tcp"`)
	s.doctor("--receiver", s.addr, "--pki", s.path("operator")).says(t, "udp", doctor.Warn, "no answer", "open UDP port")

	// The port of the receiver is somebody else's.
	_, vault = s.patients(dev)
	s.doctor("--config", vault).says(t, "udp", doctor.Fail, "somebody has", "ss -lunp")
	s.ours("pki", "issue", "--replace", "--dir", s.path("ca"), "--name", "vault", "--role", "target", "--out", s.path("target"))
	s.file(vault, fmt.Sprintf("dir = %q\nlisten = %q\npki = %q\n", s.rdir, real, s.path("operator")))
	s.doctor("--config", vault).says(t, "certificate", doctor.Fail, "not for a target", "pki issue --replace")

	s.addr = "no-such-host.invalid:443"
	agent, _ = s.patients(dev)
	d = s.doctor("--config", agent)
	d.says(t, "name", doctor.Fail, "no-such-host.invalid", "getent hosts")
	d.says(t, "udp", doctor.Fail, "", "first the name")
	s.addr = real
}

// withoutUDP is an address from which TCP comes through to addr, and UDP does not.
func withoutUDP(t *testing.T, addr string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hole, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); hole.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", addr)
			if err != nil {
				in.Close()
				continue
			}
			go func() { defer in.Close(); io.Copy(in, out) }()
			go func() { defer out.Close(); io.Copy(out, in) }()
		}
	}()
	return l.Addr().String()
}

// TestDoctorOfAHost breaks what a host needs.
func TestDoctorOfAHost(t *testing.T) {
	s := newSite(t, "tcp")
	dev := s.loopDisk("disk", 64<<20)
	agent, vault := s.patients("/dev/not-there", dev)
	s.doctor("--config", agent).says(t, "disk", doctor.Fail, "/dev/not-there", "lsblk")

	s.file(s.path("plain"), "no disk")
	agent, _ = s.patients(s.path("plain"))
	s.doctor("--config", agent).says(t, "disk", doctor.Fail, "not a block device", "lsblk")

	agent, _ = s.patients(dev)
	mount(t, dev, s.path("mnt"))
	must(t, "sh", "-c", "cd "+s.path("mnt")+" && dd if=/dev/zero of=swap bs=1M count=1 && chmod 600 swap && mkswap swap && swapon swap")
	t.Cleanup(func() { exec.Command("swapoff", s.path("mnt/swap")).Run() })
	s.doctor("--config", agent).says(t, "disk", doctor.Fail, "active swap", `unfreezable = "fuzzy"`)
	must(t, "swapoff", s.path("mnt/swap"))
	s.doctor("--config", agent).says(t, "disk", doctor.OK, "ext4 at "+s.path("mnt"), "")

	small(t, s.path("state"), "4m")
	exec.Command("sh", "-c", "cat /dev/zero > "+s.path("state/filler")).Run() // until it is full
	s.doctor("--config", agent).says(t, "space", doctor.Fail, "0 B free", "make room")
	os.Remove(s.path("state/filler"))
	s.doctor("--config", agent).says(t, "space", doctor.Warn, "4.0 MiB", "make room")

	small(t, s.rdir, "64m")
	s.doctor("--config", vault).says(t, "space", doctor.Fail, "it needs 1.0 GiB", "max_bytes")
	must(t, "mount", "-o", "remount,ro", s.rdir)
	s.doctor("--config", vault).says(t, "space", doctor.Fail, "", "README")
	must(t, "mount", "-o", "remount,rw", s.rdir)
	must(t, "chown", "65534", s.rdir)
	s.doctor("--config", vault).says(t, "key", doctor.Fail, "is user 65534", "chown 65534")

	s.file(agent, "disks = [\"/dev/sda\"]\nreciever = \"vault:443\"\n")
	s.doctor("--config", agent).says(t, "config", doctor.Fail, "agent.toml:2: unknown key reciever", "edit "+agent)
}

// TestDoctorOfAKernel hides its types from the command, and takes its rights.
func TestDoctorOfAKernel(t *testing.T) {
	s := newSite(t, "tcp")
	agent, _ := s.patients(s.loopDisk("disk", 8<<20))
	command := filepath.Join(bin, "understudy") + " doctor --json --config " + agent
	hidden := exec.Command("unshare", "--mount", "sh", "-c", "mount --bind /dev/null /sys/kernel/btf/vmlinux && exec "+command)
	s.doctorBy(hidden).says(t, "kernel", doctor.Fail, "no BTF", "CONFIG_DEBUG_INFO_BTF")

	bare := exec.Command("setpriv", "--bounding-set", "-bpf,-sys_admin,-perfmon,-ipc_lock", "--inh-caps", "-all", "sh", "-c", "ulimit -l 64; exec "+command)
	d := s.doctorBy(bare)
	d.says(t, "kernel", doctor.Fail, "CAP_BPF", "CAP_BPF")
	d.says(t, "memory", doctor.Warn, "CAP_IPC_LOCK", "LimitMEMLOCK=infinity")
	d.says(t, "guard", doctor.Fail, "the guard does not start", "LimitMEMLOCK=infinity")
}

// TestDoctorOfTracking takes a disk's programs away under a running agent.
func TestDoctorOfTracking(t *testing.T) {
	s := newSite(t, "tcp")
	dev := s.loopDisk("disk", 8<<20)
	agent, _ := s.patients(dev)
	s.startReceiver()
	s.startAgent(dev)
	s.nextPoint(dev)
	status, _ := s.status(dev)
	pins, err := filepath.Glob("/sys/fs/bpf/understudy/" + status.ID.String() + "/*/done1")
	if err != nil || len(pins) != 1 {
		t.Fatalf("pins %v: %v", pins, err)
	}
	if err := os.Remove(pins[0]); err != nil {
		t.Fatal(err)
	}
	s.doctor("--config", agent).says(t, "tracking", doctor.Fail, "not all of the 3 programs", "systemctl restart understudy-agent")
	s.ours(s.remote("promote", dev)...)
	eventually(t, "fenced", func() bool { d, _ := s.status(dev); return d.State == "fenced" })
	s.doctor("--config", agent).says(t, "points", doctor.Fail, "was promoted", "understudy-agent rejoin")
}

// TestDoctorHasNothingToExamine: nothing is configured, or a command is missing, or too old to know.
func TestDoctorHasNothingToExamine(t *testing.T) {
	s := newSite(t, "tcp")
	agent, _ := s.patients("/dev/sda")
	alone := filepath.Join(s.dir, "alone")
	if err := os.Mkdir(alone, 0o700); err != nil {
		t.Fatal(err)
	}
	must(t, "cp", filepath.Join(bin, "understudy"), alone)
	by := func(args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(alone, "understudy"), append([]string{"doctor", "--json"}, args...)...)
		cmd.Env = []string{"PATH=/usr/bin:/bin"}
		return cmd
	}
	s.doctorBy(by("--config", agent)).says(t, "installed", doctor.Fail, "no command understudy-agent", "install the package understudy-agent")
	s.file(filepath.Join(alone, "understudy-agent"), "#!/bin/sh\necho 'unknown command \"doctor\"' >&2\nexit 2\n")
	must(t, "chmod", "755", filepath.Join(alone, "understudy-agent"))
	s.doctorBy(by("--config", agent)).says(t, "installed", doctor.Unknown, "has not answered", "upgrade")
	if _, err := os.Stat("/etc/understudy"); err != nil {
		if err := by().Run(); err == nil || err.(*exec.ExitError).ExitCode() != 2 {
			t.Errorf("nothing to examine: %v, want exit 2", err)
		}
	}
}
