package agent

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary is other programs too, by its first argument.
const (
	guardProgram  = "guard-under-test"
	victimProgram = "victim-under-test" // HOW MOUNT BUDGET: see victim
)

// TestMain is the guard, an agent that is about to die, or a guest's first process when it is started as one.
func TestMain(m *testing.M) {
	program := ""
	if len(os.Args) > 1 {
		program = os.Args[1]
	}
	var err error
	switch {
	case program == guardProgram:
		err = RunGuard(os.Stdin)
	case program == victimProgram:
		err = victim(os.Args[2], os.Args[3], os.Args[4])
	case os.Getpid() == 1 && os.Getenv(guestVariable) != "":
		guest(os.Getenv(guestVariable))
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, program+":", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount and freeze")
	}
}

// tool runs a tool of the system.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// scratch is a folder in memory for disks.
func scratch(t *testing.T) string {
	t.Helper()
	needRoot(t)
	dir, err := os.MkdirTemp("/dev/shm", "understudy-agent-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// loop is a loop device over a file.
func loop(t *testing.T, image string) string {
	t.Helper()
	dev := tool(t, "losetup", "-f", "--show", image)
	t.Cleanup(func() { exec.Command("losetup", "-d", dev).Run() })
	tool(t, "blockdev", "--setrw", dev) // one that was set read-only stays so after it was detached
	return dev
}

// ext4 makes a file system in dir/name, on a loop device, and mounts it at dir/name.mnt.
func ext4(t *testing.T, dir, name, size string) (dev, mnt string) {
	t.Helper()
	image, mnt := filepath.Join(dir, name), filepath.Join(dir, name+".mnt")
	tool(t, "truncate", "-s", size, image)
	dev = loop(t, image)
	tool(t, "mkfs.ext4", "-q", dev)
	if err := os.Mkdir(mnt, 0o700); err != nil {
		t.Fatal(err)
	}
	tool(t, "mount", dev, mnt)
	t.Cleanup(func() { tool(t, "umount", mnt) })
	return dev, mnt
}

// startGuard is a guard until the test ends.
func startGuard(t *testing.T) *Guard {
	t.Helper()
	g, err := StartGuard(os.Args[0], guardProgram)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

// mountOf is the only file system on a device.
func mountOf(t *testing.T, dev string) Mount {
	t.Helper()
	mounts, err := MountsOn(deviceNumber(dev))
	if err != nil || len(mounts) != 1 {
		t.Fatalf("mounts on %s: %v, %v", dev, mounts, err)
	}
	return mounts[0]
}

// frozenMount is a mounted ext4 to freeze, and its guard.
func frozenMount(t *testing.T) (Mount, *Guard) {
	t.Helper()
	dev, mnt := ext4(t, scratch(t), "image", "64M")
	m := mountOf(t, dev)
	if m.Path != mnt {
		t.Fatalf("%s is mounted at %s, found was %s", dev, mnt, m.Path)
	}
	return m, startGuard(t)
}

// probe begins a write to the file system at dir. The writer is a process: it hangs while that is frozen.
func probe(t *testing.T, dir string) (written <-chan struct{}) {
	t.Helper()
	cmd := exec.Command("sh", "-c", `echo x >"$1"/probe-$$; rm -f "$1"/probe-$$`, "probe", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	t.Cleanup(func() {
		select {
		case <-done:
		default: // the test has failed: no signal ends a writer to a frozen disk
			exec.Command("fsfreeze", "--unfreeze", dir).Run()
		}
		cmd.Process.Kill()
		<-done
	})
	return done
}

// writable tells whether a write to m comes through within d.
func writable(t *testing.T, m Mount, d time.Duration) bool {
	t.Helper()
	select {
	case <-probe(t, m.Path):
		return true
	case <-time.After(d):
		return false
	}
}

func TestTheGuardThawsWhenItsSocketCloses(t *testing.T) {
	m, g := frozenMount(t)
	f := freezer{guard: g, limit: time.Minute}
	defer f.release() // its guard is gone by then: it closes the mount point
	if err := errors.Join(f.prepare([]Mount{m}), f.sync(), f.freeze()); err != nil {
		t.Fatal(err)
	}
	if writable(t, m, 300*time.Millisecond) {
		t.Fatal("the freeze does not hold: the test proves nothing")
	}
	g.Close() // what the kernel does to the socket when the agent is killed
	if !writable(t, m, 10*time.Second) {
		unix.IoctlSetInt(f.fds[0], fiThaw, 0)
		t.Fatal("still frozen after the agent's end")
	}
}

func TestTheGuardThawsWhenTheFreezeOverruns(t *testing.T) {
	m, g := frozenMount(t)
	f := freezer{guard: g, limit: 200 * time.Millisecond, thaws: new(atomic.Int64)}
	if err := errors.Join(f.prepare([]Mount{m}), f.freeze()); err != nil {
		t.Fatal(err)
	}
	if !writable(t, m, 10*time.Second) {
		t.Fatal("still frozen long after the limit")
	}
	if err := f.thaw(); !errors.Is(err, errLate) {
		t.Errorf("a freeze that did not hold was reported as %v", err)
	}
	f.release()
	if n := f.thaws.Load(); n != 1 {
		t.Errorf("the guard thawed once, and %d times are counted", n)
	}
}

// TestTheGuardThawsWhatIsFrozenLate: an agent that was held up in the middle of freezing freezes one more when all was thawed.
func TestTheGuardThawsWhatIsFrozenLate(t *testing.T) {
	m, g := frozenMount(t)
	f := freezer{guard: g, limit: 50 * time.Millisecond}
	if err := errors.Join(f.prepare([]Mount{m}), g.startClock(f.limit)); err != nil {
		t.Fatal(err)
	}
	defer f.release()
	for range 3 {
		time.Sleep(4 * f.limit)
		if err := unix.IoctlSetInt(f.fds[0], fiFreeze, 0); err != nil {
			t.Fatal(err)
		}
		if !writable(t, m, 10*time.Second) {
			unix.IoctlSetInt(f.fds[0], fiThaw, 0)
			t.Fatal("still frozen")
		}
	}
	f.began = time.Now().Add(-time.Second)
	if err := f.freeze(); err == nil {
		t.Error("the clock was started twice")
	}
}

// TestADisarmedGuardLeavesAFreezeAlone: what others froze is theirs.
func TestADisarmedGuardLeavesAFreezeAlone(t *testing.T) {
	m, g := frozenMount(t)
	f := freezer{guard: g, limit: 100 * time.Millisecond, thaws: new(atomic.Int64)}
	if err := errors.Join(f.prepare([]Mount{m}), f.freeze(), f.thaw()); err != nil {
		t.Fatal(err)
	}
	f.release()
	if f.thaws.Load() != 0 {
		t.Error("a freeze that held is counted as ended by the guard")
	}
	dir, err := os.Open(m.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := unix.IoctlSetInt(int(dir.Fd()), fiFreeze, 0); err != nil {
		t.Fatal(err)
	}
	thawed := writable(t, m, 400*time.Millisecond)
	if err := f.prepare([]Mount{m}); err != nil {
		t.Error(err)
	}
	if err := f.freeze(); err == nil || !strings.Contains(err.Error(), "somebody else") {
		t.Errorf("a file system that somebody else froze was frozen: %v", err)
	}
	f.release()
	if err := unix.IoctlSetInt(int(dir.Fd()), fiThaw, 0); err != nil || thawed {
		t.Errorf("a disarmed guard thawed: %v, %v", thawed, err)
	}
}

// TestAGuardThatDiedIsReplaced: the next point has a new one, and no freeze goes without.
func TestAGuardThatDiedIsReplaced(t *testing.T) {
	m, g := frozenMount(t)
	f := freezer{guard: g, limit: 10 * time.Second}
	if err := f.prepare([]Mount{m}); err != nil {
		t.Fatal(err)
	}
	g.cmd.Process.Kill()
	if err := f.freeze(); err == nil || !writable(t, m, 10*time.Second) {
		t.Fatalf("it froze without a guard: %v", err)
	}
	f.release()
	if err := errors.Join(f.prepare([]Mount{m}), f.freeze(), f.thaw()); err != nil {
		t.Fatalf("with the next guard: %v", err)
	}
	f.release()
}

// TestTheGuardIgnoresSignals: signals that end others, one to the agent's whole cgroup say, leave it where it is.
func TestTheGuardIgnoresSignals(t *testing.T) {
	m, g := frozenMount(t)
	for _, s := range []os.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGPIPE} {
		if err := g.cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	f := freezer{guard: g, limit: 10 * time.Second}
	if err := errors.Join(f.prepare([]Mount{m}), f.freeze(), f.thaw()); err != nil {
		t.Fatal(err)
	}
	f.release()
}

// TestTheGuardIsLocked: every page of its program is in memory, and locked.
func TestTheGuardIsLocked(t *testing.T) {
	needRoot(t)
	g := startGuard(t)
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", g.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	found, ours, size := 0, false, ""
	for line := range strings.Lines(string(raw)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		switch {
		case strings.Contains(key, "-") && !strings.HasSuffix(key, "kB"): // proc_pid_smaps(5): a mapping begins
			ours = strings.HasSuffix(strings.TrimSpace(line), self)
		case !ours:
		case key == "Size":
			size = value
			found++
		case key == "Rss" && value != size:
			t.Errorf("of %s of the guard's program, %s is in memory", size, value)
		case key == "VmFlags" && !strings.Contains(value+" ", " lo "):
			t.Errorf("a part of the guard's program is not locked: %s", value)
		}
	}
	if found < 2 {
		t.Errorf("%d mappings of %s: the test proves nothing", found, self)
	}
}
