package linetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/agent"
	"github.com/understudy-dr/understudy/receiver"
)

// bin is the folder of the commands under test.
var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "understudy-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	bin = dir
	// A command that was built with the race detector sleeps for a second before it exits, and there are hundreds of them.
	os.Setenv("GORACE", "atexit_sleep_ms=20")
	args := append([]string{"build", "-o", dir}, raceFlags...)
	out, err := exec.Command("go", append(args, "../understudy", "../understudy-agent", "../understudy-receiver")...).CombinedOutput()
	code := 1
	if err != nil {
		fmt.Fprintf(os.Stderr, "build the commands: %v\n%s", err, out)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// needRoot skips where loop devices and BPF are out of reach.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for loop devices and BPF")
	}
}

// process is a daemon under test.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}
	mu   sync.Mutex
	log  bytes.Buffer
}

// Write collects what the daemon logs.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *process) logged() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// start runs a command of ours in a process group of its own until the test ends.
func start(t *testing.T, name string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(filepath.Join(bin, name), args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s %s:\n%s", name, strings.Join(args, " "), p.logged())
		}
		if strings.Contains(p.logged(), "DATA RACE") {
			t.Errorf("%s: data race:\n%s", name, p.logged())
		}
	})
	return p
}

// kill is kill -9, and waits.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// stop is SIGTERM, and waits.
func (p *process) stop() {
	p.t.Helper()
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.t.Errorf("%s did not stop within 20 s of SIGTERM", p.cmd.Path)
		p.kill()
	}
}

// run runs a command of ours to its end.
func run(t *testing.T, name string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // cleanups run commands too
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, name), args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	exit := (*exec.ExitError)(nil)
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s %v: %v", name, args, err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// must runs a tool of the system.
func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// eventually polls until ok, for things that other processes do in their own time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("after a minute still not: %s", what)
}

// site is a certificate authority, a receiver's folder and an agent's state: all that outlives processes.
type site struct {
	t       *testing.T
	dir     string
	addr    string
	carrier string
	rdir    string
	pki     string // folder of the agent's certificate
}

func newSite(t *testing.T, carrier string) *site {
	t.Helper()
	needRoot(t)
	return newSiteAt(t, carrier, freeAddr(t))
}

// newSiteAt is a site whose receiver listens at addr.
func newSiteAt(t *testing.T, carrier, addr string) *site {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "understudy-line-")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, dir: dir, carrier: carrier, addr: addr, rdir: filepath.Join(dir, "receiver"), pki: "source"}
	t.Cleanup(func() {
		if _, stderr, code := run(t, "understudy-agent", "forget", "--state-dir", s.path("state")); code != 0 {
			t.Errorf("forget: %s", stderr)
		}
		os.RemoveAll(dir)
	})
	s.ours("pki", "init", "--dir", s.path("ca"), "--site", "test")
	for role, name := range map[string]string{"source": "web1", "target": "vault", "operator": "ann"} {
		s.ours("pki", "issue", "--dir", s.path("ca"), "--name", name, "--role", role, "--out", s.path(role))
	}
	return s
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

// ours runs understudy and fails the test if it fails.
func (s *site) ours(args ...string) string {
	s.t.Helper()
	stdout, stderr, code := run(s.t, "understudy", args...)
	if code != 0 {
		s.t.Fatalf("understudy %s: exit %d: %s", strings.Join(args, " "), code, stderr)
	}
	return stdout
}

// freeAddr is a loopback address whose port nothing uses, on TCP and UDP.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (s *site) startReceiver(more ...string) *process {
	s.t.Helper()
	args := append([]string{"run", "--dir", s.rdir, "--listen", s.addr, "--pki", s.path("target"), "--metrics", "off"}, more...)
	p := start(s.t, "understudy-receiver", args...)
	eventually(s.t, "receiver listens", func() bool { return strings.Contains(p.logged(), "msg=listening") })
	return p
}

// agentArgs is a whole command line for disks.
func (s *site) agentArgs(disks ...string) []string {
	args := []string{
		"run", "--receiver", s.addr, "--interval", "300ms", "--pki", s.path(s.pki), "--host", "web1",
		"--state-dir", s.path("state"), "--control", s.path("agent.sock"), "--carrier", s.carrier, "--metrics", "off",
	}
	for _, d := range disks {
		args = append(args, "--disk", d)
	}
	return args
}

func (s *site) startAgent(disks ...string) *process {
	s.t.Helper()
	return start(s.t, "understudy-agent", s.agentArgs(disks...)...)
}

// remote are the flags of commands that ask the receiver.
func (s *site) remote(args ...string) []string {
	return append(args, "--receiver", s.addr, "--pki", s.path("operator"), "--carrier", s.carrier)
}

func (s *site) points(disk string) []receiver.PointReport {
	s.t.Helper()
	stdout, _, code := run(s.t, "understudy", s.remote("points", disk, "--json")...)
	var points []receiver.PointReport
	if code == 0 {
		if err := json.Unmarshal([]byte(stdout), &points); err != nil {
			s.t.Fatalf("points --json printed %q: %v", stdout, err)
		}
	}
	return points
}

// report is what the agent says of itself, if it answers.
func (s *site) report() (agent.Status, bool) {
	stdout, _, code := run(s.t, "understudy", "status", "--json", "--agent", s.path("agent.sock"))
	var report struct{ Agent agent.Status }
	return report.Agent, code == 0 && json.Unmarshal([]byte(stdout), &report) == nil
}

// status is what the agent says of a disk, if it answers.
func (s *site) status(disk string) (agent.DiskStatus, bool) {
	report, _ := s.report()
	for _, d := range report.Disks {
		if d.Device == disk {
			return d, true
		}
	}
	return agent.DiskStatus{}, false
}

// nextPoint waits for a point of disk that was begun after this call, and returns it.
func (s *site) nextPoint(disk string) receiver.PointReport {
	s.t.Helper()
	return s.nextPointThat(disk, func(receiver.PointReport) bool { return true })
}

// nextPointThat is the same for a point of some kind.
func (s *site) nextPointThat(disk string, is func(receiver.PointReport) bool) receiver.PointReport {
	s.t.Helper()
	began := time.Now()
	var newest receiver.PointReport
	eventually(s.t, "a new point of "+disk, func() bool {
		points := s.points(disk)
		if len(points) == 0 {
			return false
		}
		newest = points[len(points)-1]
		return newest.Time.After(began) && is(newest)
	})
	return newest
}

// restore writes a point into a file and returns its path.
func (s *site) restore(what string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, fmt.Sprintf("restored-%d", time.Now().UnixNano()))
	s.ours(s.remote("restore", what, path)...)
	return path
}

// sameAs holds that the next proven point of disk is the disk, byte for byte; nothing may write to it meanwhile.
func (s *site) sameAs(disk string) {
	s.t.Helper()
	s.copyIs(disk, disk)
}

// copyIs holds the same of a disk that is asked for by its id.
func (s *site) copyIs(disk, device string) {
	s.t.Helper()
	// Points are fuzzy, or unproven, while a comparison runs: after a gap, or where the kernel did not tell of a write.
	p := s.nextPointThat(disk, func(p receiver.PointReport) bool { return p.Class.Consistent() && p.Proven })
	path := s.restore(disk + "@" + p.Seq.String())
	defer os.Remove(path)
	if out, err := exec.Command("cmp", path, device).CombinedOutput(); err != nil {
		s.t.Fatalf("the copy of %s is not the disk: %v: %s", disk, err, out)
	}
}

// loopDisk is a loop device over a sparse file.
func (s *site) loopDisk(name string, size int64) string {
	s.t.Helper()
	path := s.path(name)
	f, err := os.Create(path)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		s.t.Fatal(err)
	}
	dev := must(s.t, "losetup", "-f", "--show", "--direct-io=off", path)
	// By file, not by name: a test that has detached the device may have given its name to another's disk.
	s.t.Cleanup(func() {
		for _, name := range strings.Fields(must(s.t, "losetup", "--noheadings", "--output", "NAME", "--associated", path)) {
			exec.Command("losetup", "-d", name).Run()
		}
	})
	must(s.t, "blockdev", "--setrw", dev) // whoever had the device before
	return dev
}

// write writes random data at off, past the page cache.
func write(t *testing.T, dev string, off, n int64) {
	t.Helper()
	must(t, "dd", "if=/dev/urandom", "of="+dev, "bs=4096", fmt.Sprintf("seek=%d", off/4096), fmt.Sprintf("count=%d", n/4096),
		"iflag=fullblock", "oflag=direct", "conv=notrunc", "status=none")
}
