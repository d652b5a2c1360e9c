package hooks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/bench/rig"
	"github.com/understudy-dr/understudy/bench/testbed"
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
	out, err := exec.Command("go", "build", "-o", dir, "../../cmd/understudy", "../../cmd/understudy-agent", "../../cmd/understudy-receiver").CombinedOutput()
	code := 1
	if err != nil {
		fmt.Fprintf(os.Stderr, "build the commands: %v\n%s", err, out)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// diskSize has room for a server's data folder.
const diskSize = 640 << 20

// site is a database on a protected disk, under load.
type site struct {
	t      *testing.T
	s      *server
	bed    *testbed.Bed
	rig    *rig.Rig
	mount  *testbed.Mount
	server *testbed.Process
	socket string
	writer *writer
	disk   string // its id
}

func newSite(t *testing.T, s *server) *site {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for loop devices and BPF")
	}
	bed, err := testbed.New("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bed.Close(); err != nil {
			t.Error(err)
		}
	})
	x := &site{t: t, s: s, bed: bed}
	x.must(os.Chmod(bed.Dir(), 0o711)) // the server's user must get through
	loop, err := bed.Loop(t.Context(), "disk.img", diskSize)
	x.must(err)
	x.must(testbed.Mkfs(t.Context(), loop.Device, "ext4"))
	x.mount, err = bed.Mount(loop.Device, "db", "ext4")
	x.must(err)
	data := x.data(x.mount)
	x.must(os.Mkdir(data, 0o700))
	x.run("chown", s.user+":", data)
	x.must(os.Chmod(x.mount.Dir, 0o711))
	x.run(s.asUser(s.create(data))...)
	x.server, x.socket, err = s.start(t.Context(), bed, "server", data)
	x.must(err)
	// A server that is killed leaves its shared memory behind.
	bed.Defer("stop server", func() error { return x.server.Stop(time.Minute) })
	if s.name == "mariadb" {
		x.run("mariadb", "--no-defaults", "--socket="+filepath.Join(x.socket, "s"), "-e", "CREATE DATABASE IF NOT EXISTS test")
	}
	_, err = s.ask(t.Context(), x.socket, s.table)
	x.must(err)
	x.writer, err = s.write(x.socket)
	x.must(err)
	bed.Defer("stop writer", func() error { _ = x.writer.cmd.Process.Kill(); return nil })
	x.rig = &rig.Rig{Bed: bed, Bin: bin, Carrier: "tcp", Disk: loop.Device, Interval: time.Second}
	x.must(x.rig.Prepare(t.Context()))
	x.must(x.rig.StartReceiver())
	return x
}

func (x *site) data(m *testbed.Mount) string { return filepath.Join(m.Dir, "data") }

func (x *site) must(err error) {
	x.t.Helper()
	if err != nil {
		x.t.Fatal(err)
	}
}

func (x *site) run(argv ...string) string {
	x.t.Helper()
	out, err := testbed.Output(x.t.Context(), argv...)
	x.must(err)
	return out
}

func (x *site) env() map[string]string { return x.s.env(x.socket, x.bed.Path("hook")) }

// hook is the path of one of the hooks that come with the agent. They are installed for root alone to change.
func (x *site) hook(name string) string {
	x.t.Helper()
	text, err := os.ReadFile(filepath.Join("../../packaging/hooks", x.s.name, name))
	x.must(err)
	path := x.bed.Path(x.s.name + "-" + name)
	x.must(os.WriteFile(path, text, 0o755))
	return path
}

// startAgent starts it with a configuration of the application, to which more is added.
func (x *site) startAgent(pre string, env map[string]string, more string) {
	x.t.Helper()
	text := fmt.Sprintf("[[application]]\nname = %q\npre_freeze = %q\npost_thaw = %q\nevery = \"1s\"\n%s\n", x.s.name, pre, x.hook("post-thaw"), more)
	if x.s.name == "postgresql" {
		text += "user = \"postgres\"\n"
	}
	text += "[application.env]\n"
	for key, value := range env {
		text += fmt.Sprintf("%s = %q\n", key, value)
	}
	x.must(os.WriteFile(x.bed.Path("agent.toml"), []byte(text), 0o600))
	x.rig.Extra = []string{"--config", x.bed.Path("agent.toml"), "--log-level", "debug"}
	x.must(x.rig.StartAgent())
}

// points waits until there are so many points of a class that are younger than after, and returns those of all classes.
func (x *site) points(class string, after time.Time, many int) []rig.Point {
	x.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		var young []rig.Point
		n := 0
		if x.disk == "" {
			if status, err := x.rig.Status(x.t.Context()); err == nil {
				x.disk = status.ID
			}
		} else if all, err := x.rig.Points(x.t.Context(), x.disk); err == nil {
			for _, p := range all {
				if p.Time.After(after) {
					young = append(young, p)
					if p.Class == class {
						n++
					}
				}
			}
		}
		if n >= many {
			return young
		}
		if time.Now().After(deadline) {
			x.t.Fatalf("%d points of class %s, not %d: %+v\nagent:\n%s", n, class, many, young, x.rig.Agent.Log())
		}
	}
}

// TestDatabases takes application points of each server under load, restores some, and starts the server on the copy.
func TestDatabases(t *testing.T) {
	for _, s := range []func(*testing.T) *server{postgresql, mariadb} {
		s := s(t)
		t.Run(s.name, func(t *testing.T) {
			x := newSite(t, s)
			x.startAgent(x.hook("pre-freeze"), x.env(), "")
			points := x.points("application", time.Time{}, 6)
			x.writer.goesOn(t, 20, time.Minute)
			for _, p := range points {
				if p.Class == "application" && p.Labels["applications"] != s.name {
					t.Errorf("point #%d has labels %v", p.Seq, p.Labels)
				}
			}
			x.failingHook()
			x.must(x.writer.stop())
			if s.name == "postgresql" {
				x.unsafeServer()
			}
			x.must(x.server.Stop(time.Minute))
			for i, p := range points {
				if p.Class == "application" && (i < 2 || i == len(points)-1) {
					x.checkPoint(p)
				}
			}
		})
	}
}

// failingHook takes points whose hook fails: they are crash points without label, or none at all.
func (x *site) failingHook() {
	t := x.t
	env := x.env()
	x.s.broken(env)
	x.must(x.rig.Agent.Stop(time.Minute))
	failing := time.Now()
	x.startAgent(x.hook("pre-freeze"), env, "")
	for _, p := range x.points("crash", failing, 2) {
		if p.Class != "crash" || p.Labels["applications"] != "" {
			t.Errorf("a failing hook made a point of class %s, labels %v", p.Class, p.Labels)
		}
	}
	if log := x.rig.Agent.Log(); !strings.Contains(log, "hook failed") || !strings.Contains(log, "hook says") {
		t.Errorf("the log says nothing of it:\n%s", log)
	}
	x.must(x.rig.Agent.Stop(time.Minute))
	refusing := time.Now()
	x.startAgent(x.hook("pre-freeze"), env, "on_failure = \"none\"")
	x.must(x.rig.Agent.WaitLog("its on_failure is none", time.Minute))
	for _, p := range x.points("crash", refusing, 1) { // the interval after it, in which none is due
		if p.Class != "crash" || p.Labels["applications"] != "" {
			t.Errorf("a failing hook made a point of class %s, labels %v", p.Class, p.Labels)
		}
	}
	x.writer.goesOn(t, 20, time.Minute)
	x.must(x.rig.Agent.Stop(time.Minute))
}

// unsafeServer sets PostgreSQL up such that a crash may tear its pages: the hook refuses.
func (x *site) unsafeServer() {
	x.t.Helper()
	_, err := x.s.ask(x.t.Context(), x.socket, "ALTER SYSTEM SET full_page_writes = off;\nSELECT pg_reload_conf();")
	x.must(err)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		got, err := x.s.ask(x.t.Context(), x.socket, "SHOW full_page_writes;")
		x.must(err)
		if strings.TrimSpace(got) == "off" {
			break
		}
		if time.Now().After(deadline) {
			x.t.Fatal("the setting does not change")
		}
	}
	env := x.env()
	env["PGUSER"], env["PGHOST"] = "postgres", x.socket
	if err := x.callHook(env, "pre-freeze", x.s.asUser(nil)...); err == nil || !strings.Contains(err.Error(), "full_page_writes is off") {
		x.t.Errorf("the hook accepts a server that does not survive a crash: %v", err)
	}
}

// checkPoint starts the server on a point's copy: it holds every row that was acknowledged before, and all rows before the last.
func (x *site) checkPoint(p rig.Point) {
	t := x.t
	t.Helper()
	image := x.bed.Path(fmt.Sprintf("restored-%d.img", p.Seq))
	_, err := x.rig.Restore(t.Context(), x.disk, fmt.Sprintf("#%d", p.Seq), image)
	x.must(err)
	if said, err := testbed.Fsck(t.Context(), image); err != nil {
		t.Errorf("point #%d: %v\n%s", p.Seq, err, said)
	}
	loop, err := x.bed.Attach(t.Context(), image)
	x.must(err)
	m, err := x.bed.Mount(loop.Device, fmt.Sprintf("restored-%d", p.Seq), "ext4")
	x.must(err)
	q, socket, err := x.s.start(t.Context(), x.bed, fmt.Sprintf("copy-%d", p.Seq), x.data(m))
	x.must(err)
	if x.s.sound != "" {
		if got, err := x.s.ask(t.Context(), socket, x.s.sound); err != nil || strings.Count(got, "\n") != 1 || !strings.HasSuffix(got, "OK\n") {
			t.Errorf("point #%d: the table without a log is not sound: %v %s", p.Seq, err, got)
		}
	}
	got, err := x.s.ask(t.Context(), socket, "SELECT n, payload FROM work ORDER BY n;")
	x.must(errors.Join(err, q.Stop(time.Minute)))
	rows, want := strings.Split(strings.TrimSpace(got), "\n"), x.writer.before(p.Time)
	for i, row := range rows {
		n, text, _ := strings.Cut(strings.ReplaceAll(row, "\t", "|"), "|")
		if n != strconv.Itoa(i+1) || strings.TrimSpace(text) != strings.TrimSpace(payload(i+1)) {
			t.Fatalf("point #%d: row %d of the copy is %.60q", p.Seq, i+1, row)
		}
	}
	if len(rows) < want || want < 10 || len(rows) > x.writer.rows() {
		t.Errorf("point #%d holds %d rows; %d were acknowledged before it, %d in all", p.Seq, len(rows), want, x.writer.rows())
	}
	t.Logf("point #%d: %d rows, %d of them acknowledged before it", p.Seq, len(rows), want)
	x.must(errors.Join(m.Unmount(), loop.Detach(), os.Remove(image)))
}

// TestLockEnds: the lock that MariaDB's first hook takes is gone after a limit of its own, whoever forgets it, and the second
// hook says so; and it is gone when an agent that was killed between the hooks is started again.
func TestLockEnds(t *testing.T) {
	s := mariadb(t)
	s.insert = "" // InnoDB alone: what is held back are its commits, not the locks of other tables
	x := newSite(t, s)
	x.writer.goesOn(t, 5, time.Minute)
	env := x.env()
	env["HOLD_SECONDS"] = "3"
	x.must(x.callHook(env, "pre-freeze"))
	locked := x.writer.rows()
	time.Sleep(500 * time.Millisecond)
	if now := x.writer.rows(); now > locked+1 {
		t.Errorf("%d rows were committed while the lock was held", now-locked)
	}
	x.writer.goesOn(t, 20, time.Minute)
	if err := x.callHook(env, "post-thaw"); err == nil || !strings.Contains(err.Error(), "was gone before") {
		t.Errorf("the second hook, when the lock had ended by itself: %v", err)
	}
	x.must(x.callHook(env, "pre-freeze"))
	x.clientEnds() // though nobody speaks to it
	x.writer.goesOn(t, 20, time.Minute)

	slow := x.bed.Path("slow-hook")
	x.must(os.WriteFile(slow, []byte("#!/bin/sh\n"+x.hook("pre-freeze")+" && echo $$ >"+x.bed.Path("slow.pid")+" && exec sleep 100\n"), 0o755))
	env["HOLD_SECONDS"] = "1000"
	x.startAgent(slow, env, "timeout = \"100s\"")
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if b, err := os.ReadFile(x.bed.Path("slow.pid")); err == nil && len(b) > 1 {
			pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
			x.must(err)
			x.bed.Defer("end the slow hook", func() error { _ = syscall.Kill(pid, syscall.SIGKILL); return nil })
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the hook was not run\n%s", x.rig.Agent.Log())
		}
	}
	x.rig.Agent.Kill()
	locked = x.writer.rows()
	time.Sleep(500 * time.Millisecond)
	if now := x.writer.rows(); now > locked+1 {
		t.Errorf("%d rows were committed after the agent was killed between the hooks", now-locked)
	}
	x.startAgent(x.hook("pre-freeze"), env, "")
	x.must(x.rig.Agent.WaitLog("running the second now", time.Minute))
	x.writer.goesOn(t, 20, time.Minute)
	x.points("application", time.Time{}, 1)
	x.must(x.rig.Agent.Stop(time.Minute))
	x.must(x.writer.stop())
}

// clientEnds waits for the end of the client that the first hook left.
func (x *site) clientEnds() {
	x.t.Helper()
	pid, err := os.ReadFile(x.bed.Path("hook", "pid"))
	x.must(err)
	comm := filepath.Join("/proc", strings.TrimSpace(string(pid)), "comm")
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if name, err := os.ReadFile(comm); err != nil || string(name) != "timeout\n" {
			return
		}
		if time.Now().After(deadline) {
			x.t.Fatal("the client of the first hook lives on")
		}
	}
}

// callHook runs a hook as an agent would; as is what makes it another user.
func (x *site) callHook(env map[string]string, name string, as ...string) error {
	ctx, cancel := context.WithTimeout(x.t.Context(), time.Minute)
	defer cancel()
	argv := append(as, x.hook(name))
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "/"
	for key, value := range env {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	cmd.Env = append(cmd.Env, "PATH="+os.Getenv("PATH"))
	out, err := os.CreateTemp(x.bed.Dir(), "hook-")
	if err != nil {
		return err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(out.Name())
		return fmt.Errorf("%s: %w: %s", name, err, said)
	}
	return nil
}
