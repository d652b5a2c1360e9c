package agent

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain is the guard itself when a test starts it.
func TestMain(m *testing.M) {
	if os.Getenv("UNDERSTUDY_TEST_GUARD") != "" {
		if err := RunGuard(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "guard:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// frozenMount is a mounted ext4 to freeze, and its guard.
func frozenMount(t *testing.T) (Mount, *Guard) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount and freeze")
	}
	dir, err := os.MkdirTemp("/dev/shm", "understudy-guard-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	image, mnt := filepath.Join(dir, "image"), filepath.Join(dir, "mnt")
	run := func(name string, args ...string) string {
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	run("truncate", "-s", "64M", image)
	run("mkfs.ext4", "-q", image)
	dev := run("losetup", "-f", "--show", image)
	t.Cleanup(func() { exec.Command("losetup", "-d", dev).Run() })
	if err := os.Mkdir(mnt, 0o700); err != nil {
		t.Fatal(err)
	}
	run("mount", dev, mnt)
	t.Cleanup(func() { run("umount", mnt) })
	t.Setenv("UNDERSTUDY_TEST_GUARD", "1")
	g, err := StartGuard(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	mounts, err := MountsOn(deviceNumber(dev))
	if err != nil || len(mounts) != 1 || mounts[0].Path != mnt {
		t.Fatalf("mounts on %s: %v, %v", dev, mounts, err)
	}
	return mounts[0], g
}

// writable tells whether a write to m comes through within d. The writer is a process: it hangs while m is frozen.
func writable(t *testing.T, m Mount, d time.Duration) bool {
	t.Helper()
	cmd := exec.Command("sh", "-c", "echo x > "+filepath.Join(m.Path, "probe"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	t.Cleanup(func() { cmd.Process.Kill(); <-done })
	select {
	case <-done:
		return true
	case <-time.After(d):
		return false
	}
}

func TestTheGuardThawsWhenTheAgentDies(t *testing.T) {
	m, g := frozenMount(t)
	f := freezer{guard: g}
	defer f.release() // its guard is gone by then: it closes the mount point
	if err := errors.Join(f.prepare([]Mount{m}, time.Minute), f.freeze()); err != nil {
		t.Fatal(err)
	}
	if writable(t, m, 300*time.Millisecond) {
		t.Fatal("the freeze does not hold: the test proves nothing")
	}
	g.Close() // what the kernel does to the pipe when the agent is killed
	if !writable(t, m, 10*time.Second) {
		unix.IoctlSetInt(int(f.files[0].Fd()), fiThaw, 0)
		t.Fatal("still frozen after the agent's end")
	}
}

func TestTheGuardThawsWhenTheFreezeOverruns(t *testing.T) {
	m, g := frozenMount(t)
	f := freezer{guard: g}
	if err := errors.Join(f.prepare([]Mount{m}, 200*time.Millisecond), f.freeze()); err != nil {
		t.Fatal(err)
	}
	if !writable(t, m, 10*time.Second) {
		t.Fatal("still frozen long after the limit")
	}
	if err := f.thaw(); !errors.Is(err, errThawed) {
		t.Errorf("a freeze that did not hold was reported as %v", err)
	}
	f.release()
}

// TestADisarmedGuardLeavesAFreezeAlone: what others froze is theirs.
func TestADisarmedGuardLeavesAFreezeAlone(t *testing.T) {
	m, g := frozenMount(t)
	f := freezer{guard: g}
	if err := errors.Join(f.prepare([]Mount{m}, 100*time.Millisecond), f.freeze(), f.thaw()); err != nil {
		t.Fatal(err)
	}
	f.release()
	dir, err := os.Open(m.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := unix.IoctlSetInt(int(dir.Fd()), fiFreeze, 0); err != nil {
		t.Fatal(err)
	}
	thawed := writable(t, m, 400*time.Millisecond)
	if err := unix.IoctlSetInt(int(dir.Fd()), fiThaw, 0); err != nil || thawed {
		t.Errorf("a disarmed guard thawed: %v, %v", thawed, err)
	}
}
