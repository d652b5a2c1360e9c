package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

func newBed(t *testing.T) *Bed {
	t.Helper()
	b, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// left lists what a bed in dir has left behind.
func left(t *testing.T, dir string) []string {
	t.Helper()
	found, err := mountsBelow(dir)
	if err != nil {
		t.Fatal(err)
	}
	loops, err := Output(t.Context(), "losetup", "--noheadings", "--output", "BACK-FILE", "--list")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(loops) {
		if strings.Contains(line, dir) {
			found = append(found, line)
		}
	}
	if _, err := os.Stat(dir); err == nil {
		found = append(found, dir)
	}
	return found
}

func TestDiskRoundTrip(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			b := newBed(t)
			l, err := b.Loop(t.Context(), "disk", 400<<20)
			if err != nil {
				t.Fatal(err)
			}
			if err := Mkfs(t.Context(), l.Device, kind); err != nil {
				t.Fatal(err)
			}
			m, err := b.Mount(l.Device, "mnt", kind)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(m.Dir+"/a", []byte("content"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := m.Unmount(); err != nil {
				t.Fatal(err)
			}
			if kind == "ext4" {
				if out, err := Fsck(t.Context(), l.Device); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			if err := l.Wipe(); err != nil {
				t.Fatal(err)
			}
			if _, err := b.Mount(l.Device, "again", kind); err == nil {
				t.Error("a wiped disk can be mounted")
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			if found := left(t, b.Dir()); len(found) > 0 {
				t.Errorf("left behind: %q", found)
			}
		})
	}
}

func TestWipeRefusesMountedDisk(t *testing.T) {
	b := newBed(t)
	l, err := b.Loop(t.Context(), "disk", 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := Mkfs(t.Context(), l.Device, "ext4"); err != nil {
		t.Fatal(err)
	}
	m, err := b.Mount(l.Device, "mnt", "ext4")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		time.Sleep(300 * time.Millisecond)
		m.Unmount()
	}()
	began := time.Now()
	if err := l.Wipe(); err != nil || time.Since(began) < 250*time.Millisecond {
		t.Errorf("wiped after %v while it was mounted: %v", time.Since(began), err)
	}
}

// TestAttachAfterReadOnly gives back a device that is set read-only: who gets it next can write to it all the same.
func TestAttachAfterReadOnly(t *testing.T) {
	b := newBed(t)
	l, err := b.Loop(t.Context(), "disk", 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Output(t.Context(), "blockdev", "--setro", l.Device); err != nil {
		t.Fatal(err)
	}
	if err := l.Detach(); err != nil {
		t.Fatal(err)
	}
	defer Output(context.Background(), "blockdev", "--setrw", l.Device)
	// The lowest free device is given out first; a few are taken, so that this one is among them.
	for range 4 {
		again, err := b.Attach(t.Context(), l.File)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := Output(t.Context(), "blockdev", "--getro", again.Device); err != nil || strings.TrimSpace(out) != "0" {
			t.Errorf("%s is read-only: %s %v", again.Device, out, err)
		}
		if again.Device == l.Device {
			return
		}
	}
	t.Logf("%s was not given out again", l.Device)
}

// TestCloseAfterTrouble leaves everything in use: a process sits in the mount, the loop device is mounted, a step fails.
func TestCloseAfterTrouble(t *testing.T) {
	b := newBed(t)
	l, err := b.Loop(t.Context(), "disk", 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := Mkfs(t.Context(), l.Device, "ext4"); err != nil {
		t.Fatal(err)
	}
	m, err := b.Mount(l.Device, "mnt", "ext4")
	if err != nil {
		t.Fatal(err)
	}
	p, err := b.Start("sitter", nil, "sh", "-c", "cd "+m.Dir+" && echo sits && sleep 1000 & wait")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.WaitLog("sits", 10*time.Second); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	b.Defer("fail", func() error { return broken })
	if err := b.Close(); !errors.Is(err, broken) || strings.Contains(err.Error(), "unmount") {
		t.Errorf("close: %v", err)
	}
	if found := left(t, b.Dir()); len(found) > 0 {
		t.Errorf("left behind: %q", found)
	}
}

func TestProcess(t *testing.T) {
	b := newBed(t)
	p, err := b.Start("worker", nil, "sh", "-c", "sleep 1000 & echo child $!; echo ready >&2; i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; wait")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.WaitLog("ready", 10*time.Second); err != nil {
		t.Fatal(err)
	}
	var child int
	if _, err := fmt.Sscanf(p.Log(), "child %d", &child); err != nil {
		t.Fatal(err)
	}
	if rss, err := p.PeakRSS(); err != nil || rss < 100<<10 {
		t.Errorf("peak memory %d %v", rss, err)
	}
	if err := poll(20*time.Second, "processor time", func() (bool, error) { d, err := p.CPU(); return d > 0, err }); err != nil {
		t.Error(err)
	}
	p.Kill()
	if err := syscall.Kill(child, 0); err != nil {
		t.Errorf("Kill ended the child too: %v", err)
	}
	p.KillGroup()
	gone := func() (bool, error) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		return err != nil || strings.Contains(string(text), ") Z "), nil
	}
	if err := poll(5*time.Second, "end of child", gone); err != nil {
		t.Error(err)
	}
	q, err := b.Start("worker", nil, "sh", "-c", "echo out of order; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	if err := q.WaitLog("ready", 10*time.Second); err == nil || !strings.Contains(err.Error(), "out of order") {
		t.Errorf("waiting for the line of a process that ended: %v", err)
	}
	r, err := b.Start("deaf", nil, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.WaitLog("up", 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := r.Stop(200 * time.Millisecond); err == nil {
		t.Error("a process that ignores SIGTERM was stopped")
	}
}

func TestOutputAndNeed(t *testing.T) {
	_, err := Output(context.Background(), "sh", "-c", "echo why >&2; exit 2")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.HasSuffix(err.Error(), "why") {
		t.Errorf("failed command: %v", err)
	}
	if err := Need("sh", "no-such-tool"); err == nil || !strings.Contains(err.Error(), "not installed: no-such-tool") {
		t.Errorf("need: %v", err)
	}
}
