package agent

import (
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

	"golang.org/x/sys/unix"
)

// recordVariable names the record of a victim.
const recordVariable = "UNDERSTUDY_TEST_RECORD"

// frozenVictim is a victim that holds path frozen and has a record; its guard is stopped, so that only the record can help.
func frozenVictim(t *testing.T, path string, budget time.Duration) (victim *exec.Cmd, guard int, record string) {
	t.Helper()
	record = filepath.Join(t.TempDir(), "frozen")
	t.Setenv(recordVariable, record)
	victim, said, err := startVictim("wait", path, budget, nowhere)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { victim.Process.Kill(); victim.Wait() })
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", victim.Process.Pid, victim.Process.Pid))
	for _, task := range tasksOf(victim.Process.Pid) { // any thread may have started it
		more, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", victim.Process.Pid, task))
		children = append(children, more...)
	}
	if len(strings.Fields(string(children))) == 0 {
		t.Fatalf("the victim has no guard: %v: %s", err, said)
	}
	guard, err = strconv.Atoi(strings.Fields(string(children))[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(guard, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	return victim, guard, record
}

func tasksOf(pid int) (names []string) {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func killBoth(t *testing.T, victim *exec.Cmd, guard int) {
	t.Helper()
	if err := errors.Join(victim.Process.Kill(), unix.Kill(guard, unix.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	for range 1000 { // it is dead, or as dead as it gets: a thread hangs at the frozen disk
		if _, state, err := processState(victim.Process.Pid); err != nil || doomed(victim.Process.Pid, state) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the victim lives")
}

// otherFreeze is a file system that somebody else has frozen.
func otherFreeze(t *testing.T) Mount {
	t.Helper()
	dev, _ := ext4(t, scratch(t), "other", "64M")
	m := mountOf(t, dev)
	freezeByHand(t, m)
	return m
}

func freezeByHand(t *testing.T, m Mount) {
	t.Helper()
	tool(t, "fsfreeze", "--freeze", m.Path)
	t.Cleanup(func() { _ = exec.Command("fsfreeze", "--unfreeze", m.Path).Run() })
}

// TestWhatBothHaveLeftFrozenIsThawed: agent and guard are killed in the middle of a freeze, once with a thread that hangs in a write
// to the frozen disk and keeps the process half alive. The record has it thawed, and the kernel take its time again; what somebody
// else froze stays.
func TestWhatBothHaveLeftFrozenIsThawed(t *testing.T) {
	for name, budget := range map[string]time.Duration{"dead": time.Hour, "a thread hangs": 50 * time.Second} {
		t.Run(name, func(t *testing.T) {
			needRoot(t)
			dev, _ := ext4(t, scratch(t), "image", "64M")
			m, other := mountOf(t, dev), otherFreeze(t)
			victim, guard, record := frozenVictim(t, m.Path, budget)
			t.Cleanup(func() { _ = exec.Command("fsfreeze", "--unfreeze", m.Path).Run() })
			if thawed, err := ThawLeft(record); !errors.Is(err, ErrAgentAlive) || len(thawed) > 0 {
				t.Fatalf("of an agent that lives: %v, %v", thawed, err)
			}
			killBoth(t, victim, guard)
			if left, err := LeftFrozen(record); err != nil || left.Alive || len(left.Frozen) != 1 || left.Frozen[0] != m.Path {
				t.Errorf("the doctor would be told %+v, %v", left, err)
			}
			if raw, _ := os.ReadFile(graceFile); len(raw) > 0 && raw[0] != '1' {
				t.Error("the kernel does not hurry: the test proves nothing of that")
			}
			if writable(t, m, 500*time.Millisecond) {
				t.Fatal("not frozen: the test proves nothing")
			}
			thawed, err := ThawLeft(record)
			if err != nil || len(thawed) != 1 || thawed[0] != m.Path {
				t.Errorf("thawed %v, %v", thawed, err)
			}
			if !writable(t, m, 10*time.Second) {
				t.Error("still frozen")
			}
			if writable(t, other, 500*time.Millisecond) {
				t.Error("what somebody else froze was thawed")
			}
			if !graceRests() {
				_ = os.WriteFile(graceFile, []byte("0"), 0) // for the tests after this one
				t.Error("the kernel still hurries")
			}
			if thawed, err := ThawLeft(record); err != nil || len(thawed) > 0 {
				t.Errorf("a second time: %v, %v", thawed, err)
			}
		})
	}
}

// TestARecordIsOfOneFreeze: the agent, or its guard, has thawed; then somebody else freezes the same file system, and both die.
func TestARecordIsOfOneFreeze(t *testing.T) {
	m, g := frozenMount(t)
	path := filepath.Join(t.TempDir(), "frozen")
	r, err := openRecord(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	if err := g.keepRecord(r); err != nil {
		t.Fatal(err)
	}
	f := freezer{guard: g, limit: 100 * time.Millisecond, record: r}
	t.Run("the agent thaws", func(t *testing.T) {
		if err := errors.Join(f.prepare([]Mount{m}), f.freeze()); err != nil {
			t.Fatal(err)
		}
		if got := r.word(recordHolds).Load(); got != holdFrozen {
			t.Errorf("while frozen the record says %d", got)
		}
		if err := f.thaw(); err != nil {
			t.Fatal(err)
		}
		f.release()
		leftAlone(t, r, m)
	})
	t.Run("the guard thaws", func(t *testing.T) {
		if err := errors.Join(f.prepare([]Mount{m}), f.freeze()); err != nil {
			t.Fatal(err)
		}
		if !writable(t, m, 10*time.Second) {
			t.Fatal("the guard does not thaw")
		}
		g.cmd.Process.Kill() // and the agent does nothing more
		g.cmd.Wait()
		leftAlone(t, r, m)
		f.threads[0].held = false
		f.release()
	})
	t.Run("it was somebody else's before", func(t *testing.T) {
		freezeByHand(t, m)
		if err := errors.Join(f.prepare([]Mount{m}), f.freeze()); err == nil {
			t.Fatal("it froze what somebody else holds")
		}
		if thawed, err := r.thawListed(); err != nil || len(thawed) > 0 {
			t.Errorf("thawed %v, %v", thawed, err)
		}
		f.release()
	})
}

// leftAlone has somebody else freeze m, and holds that the record does not thaw it.
func leftAlone(t *testing.T, r *record, m Mount) {
	t.Helper()
	freezeByHand(t, m)
	if thawed, err := r.thawListed(); err != nil || len(thawed) > 0 {
		t.Errorf("thawed %v, %v", thawed, err)
	}
	if writable(t, m, 300*time.Millisecond) {
		t.Error("somebody else's freeze did not last")
	}
	tool(t, "fsfreeze", "--unfreeze", m.Path)
}

// TestNoRecordOfThisBoot: there is none, it was cut off, or it is of an earlier boot.
func TestNoRecordOfThisBoot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "frozen")
	for name, spoil := range map[string]func(r *record){
		"none":          func(*record) { os.Remove(path) },
		"cut off":       func(r *record) { r.page[0] = 0 },
		"earlier boot":  func(r *record) { r.page[recordBoot]++ },
		"other process": func(r *record) { r.page[recordStart]++ },
	} {
		r, err := openRecord(path)
		if err != nil {
			t.Fatal(err)
		}
		spoil(r)
		if thawed, err := ThawLeft(path); err != nil || len(thawed) > 0 {
			t.Errorf("%s: %v, %v", name, thawed, err)
		}
		r.close()
	}
	r, err := openRecord(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	if _, err := ThawLeft(path); !errors.Is(err, ErrAgentAlive) {
		t.Errorf("of this process: %v", err)
	}
	r.page[len(recordMagic)]++
	if _, err := ThawLeft(path); err == nil || errors.Is(err, ErrAgentAlive) {
		t.Errorf("of a later version: %v", err)
	}
	if err := syscall.Access(path, syscall.F_OK); err != nil {
		t.Error(err)
	}
}
