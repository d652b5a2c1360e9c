package agent

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// victim is an agent that freezes the file system at path, says so, and comes to grief.
func victim(how, path, budget string) error {
	limit, err := time.ParseDuration(budget)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(path, "victim.log")) // on the disk that it freezes, as an agent's log may be
	if err != nil {
		return err
	}
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil { // the test has put it where it wants it
		return err
	}
	f, err := victimFreezer(limit)
	if err != nil {
		return err
	}
	if err := f.prepare([]Mount{{Path: path, FSType: "ext4", shown: numberOf(st.Dev)}}); err != nil {
		return err
	}
	if err := f.sync(); err != nil {
		return err
	}
	if limit < time.Minute {
		// Another part of the agent writes to the frozen disk, and hangs there: no signal ends it, the process stays half
		// dead, and the guard's clock must do it.
		go func() {
			for {
				fmt.Fprintln(log, "alive")
			}
		}()
	}
	f.grace.hurry()
	if err := f.freeze(); err != nil {
		return err
	}
	fmt.Println("frozen")
	switch how {
	case "spin":
		for n := 0; ; {
			n++
		}
	case "panic":
		panic("while frozen")
	case "panic, log on the frozen disk":
		if err := unix.Dup2(int(log.Fd()), 2); err != nil {
			return err
		}
		panic("while frozen")
	case "memory":
		for {
			hoard = append(hoard, bytes.Repeat([]byte("x"), 1<<20))
		}
	}
	time.Sleep(time.Hour)
	return nil
}

// victimFreezer is a freezer as an agent makes it.
func victimFreezer(limit time.Duration) (*freezer, error) {
	if err := lockMemory(); err != nil {
		return nil, err
	}
	g, err := StartGuard(os.Args[0], guardProgram)
	if err != nil {
		return nil, err
	}
	r, err := openRecord(os.Getenv(recordVariable))
	if err != nil {
		return nil, err
	}
	f := &freezer{guard: g, limit: limit + freezeGrace, grace: openGrace(graceFile), record: r}
	f.grace.mark = r.word(recordGrace)
	return f, g.keepRecord(r)
}

// hoard is what a victim has filled its memory with.
var hoard [][]byte

// lockedBuffer collects what two processes print.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// startVictim starts a victim, which has frozen path when it returns. place is called before it has started its guard.
func startVictim(how, path string, budget time.Duration, place func(pid int) error) (*exec.Cmd, *lockedBuffer, error) {
	said := &lockedBuffer{}
	cmd := exec.Command(os.Args[0], victimProgram, how, path, budget.String())
	cmd.Stderr = said
	cmd.WaitDelay = time.Minute // the guard has the same standard error, and outlives it for a moment
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	if err := place(cmd.Process.Pid); err != nil {
		cmd.Process.Kill()
		return cmd, said, err
	}
	io.WriteString(stdin, "go\n")
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "frozen\n" {
		cmd.Process.Kill()
		cmd.Wait()
		return cmd, said, fmt.Errorf("the victim said %q, %v: %s", line, err, said)
	}
	return cmd, said, nil
}

func nowhere(int) error { return nil }

var guardLine = regexp.MustCompile(`understudy guard: .*: thawed 1, ([0-9.]+) ms after the freeze began \(limit ([0-9.]+) ms\)`)

// guardStamp waits for the guard's own account of when it thawed.
func guardStamp(said *lockedBuffer) (after, limit time.Duration, err error) {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if m := guardLine.FindStringSubmatch(said.String()); m != nil {
			a, err1 := strconv.ParseFloat(m[1], 64)
			l, err2 := strconv.ParseFloat(m[2], 64)
			if err1 == nil && err2 == nil {
				return time.Duration(a * 1e6), time.Duration(l * 1e6), nil
			}
		}
	}
	return 0, 0, fmt.Errorf("the guard says nothing of a thaw: %q", said)
}

// death is a way for an agent to come to grief.
type death struct {
	name   string
	how    string
	budget time.Duration
	finish func(*exec.Cmd) error
}

func killIt(c *exec.Cmd) error { return c.Process.Kill() }
func stopIt(c *exec.Cmd) error { return c.Process.Signal(syscall.SIGSTOP) }
func letIt(*exec.Cmd) error    { return nil }

// deaths: with a long budget only the death itself can tell the guard; with the default one it may be its clock, since a
// thread of the victim hangs in a write to the frozen disk and outlives the kill.
var deaths = []death{
	{"killed", "wait", time.Hour, killIt},
	{"killed, default budget", "wait", 50 * time.Millisecond, killIt},
	{"stopped", "wait", 50 * time.Millisecond, stopIt},
	{"hangs", "spin", 50 * time.Millisecond, letIt},
	{"panics", "panic", time.Hour, letIt},
	{"panics, default budget", "panic", 50 * time.Millisecond, letIt},
	{"panics into a log on the frozen disk", "panic, log on the frozen disk", 50 * time.Millisecond, letIt},
}

// within is the longest that a file system may stay frozen.
func within(budget time.Duration) time.Duration { return budget + 2*freezeGrace }

// TestTheGuardThawsWhateverBecomesOfTheAgent: real processes freeze a real ext4 and are killed, stopped, hang or panic. The
// guard's own clock says when it thawed; a machine that is busy with other things may be late once, so each has three tries
// to be thawed in time, and none may stay frozen.
func TestTheGuardThawsWhateverBecomesOfTheAgent(t *testing.T) {
	for _, d := range deaths {
		t.Run(d.name, func(t *testing.T) {
			dev, _ := ext4(t, scratch(t), "image", "64M")
			dieInTime(t, d, mountOf(t, dev), nowhere)
		})
	}
}

func dieInTime(t *testing.T, d death, m Mount, place func(int) error) {
	t.Helper()
	if freezeGrace > 100*time.Millisecond {
		t.Errorf("the guard thaws %v after the budget: with as much again to be woken and to thaw, that is too late", freezeGrace)
	}
	for range 3 {
		after := die(t, d, m, place)
		t.Logf("thawed %v after the freeze began, %v allowed", after, within(d.budget))
		if after <= within(d.budget) {
			return
		}
	}
	t.Errorf("never thawed within the budget of %v and 200 ms", d.budget)
}

// die lets one victim die and returns how long its freeze held.
func die(t *testing.T, d death, m Mount, place func(int) error) time.Duration {
	t.Helper()
	cmd, said, err := startVictim(d.how, m.Path, d.budget, place)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if !graceRests() {
			t.Error("the kernel still hurries, and the agent is gone")
		}
	})
	written := probe(t, m.Path)
	if err := d.finish(cmd); err != nil {
		t.Fatal(err)
	}
	select {
	case <-written:
	case <-time.After(30 * time.Second):
		tool(t, "fsfreeze", "--unfreeze", m.Path)
		t.Fatalf("still frozen: %s", said)
	}
	after, limit, err := guardStamp(said)
	if err != nil {
		t.Fatal(err)
	}
	if limit != d.budget+freezeGrace {
		t.Errorf("the guard's limit was %v", limit)
	}
	return after
}

// graceRests tells whether the kernel stops to hurry.
func graceRests() bool {
	for range 1000 {
		b, err := os.ReadFile(graceFile)
		if err != nil || string(b) == "0\n" {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}

// memoryGroup is a memory cgroup of the test's own, of either version.
type memoryGroup struct{ dir, events string }

func newMemoryGroup(t *testing.T, limit int64) memoryGroup {
	t.Helper()
	root, limitFile, swapFile, events := "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.oom_control"
	swap := strconv.FormatInt(limit, 10)
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		root, limitFile, swapFile, events, swap = "/sys/fs/cgroup", "memory.max", "memory.swap.max", "memory.events", "0"
		_ = os.WriteFile(root+"/cgroup.subtree_control", []byte("+memory"), 0) // it may be on already
	}
	dir, err := os.MkdirTemp(root, "understudy-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		var err error
		for range 1000 { // until the last process in it is gone for good
			if err = os.Remove(dir); err == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Error(err)
	})
	if err := os.WriteFile(filepath.Join(dir, limitFile), []byte(strconv.FormatInt(limit, 10)), 0); err != nil {
		t.Fatal(err)
	}
	_ = os.WriteFile(filepath.Join(dir, swapFile), []byte(swap), 0) // not there on a host without swap accounting
	return memoryGroup{dir, filepath.Join(dir, events)}
}

func (g memoryGroup) put(pid int) error {
	return os.WriteFile(filepath.Join(g.dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}

func (g memoryGroup) kills(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile(g.events)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return strings.TrimSpace(n)
		}
	}
	return "0"
}

// TestTheGuardThawsWhenMemoryRunsOut: agent and guard share a memory cgroup, which the agent fills while it holds a freeze. The
// kernel kills the agent, and not the guard.
func TestTheGuardThawsWhenMemoryRunsOut(t *testing.T) {
	for _, budget := range []time.Duration{time.Hour, 50 * time.Millisecond} {
		t.Run(budget.String(), func(t *testing.T) {
			dev, _ := ext4(t, scratch(t), "image", "64M")
			g := newMemoryGroup(t, 512<<20)
			var last *exec.Cmd
			dieInTime(t, death{how: "memory", budget: budget, finish: func(c *exec.Cmd) error { last = c; return nil }}, mountOf(t, dev), g.put)
			last.Wait()
			if status, ok := last.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL || g.kills(t) == "0" {
				t.Fatalf("the agent ended by %v, %s kills for memory: the test proves nothing", last.ProcessState, g.kills(t))
			}
		})
	}
}
