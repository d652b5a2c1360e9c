package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Bed owns one run's folder, devices, mounts and processes.
type Bed struct {
	dir string

	mu   sync.Mutex
	undo []step
}

type step struct {
	name string
	do   func() error
}

// memoryWanted is the free space in bytes that makes memory the place for disks.
const memoryWanted = 6 << 30

// New makes a bed in a new folder below base; an empty base is memory (/dev/shm) where that has room, the folder for
// temporary files otherwise. What killed runs have left in base is taken away first. The caller closes it.
func New(base string) (*Bed, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("loop devices and mounts need root: run as root, or with sudo")
	}
	if base == "" {
		base = os.TempDir()
		var st unix.Statfs_t
		if err := unix.Statfs("/dev/shm", &st); err == nil && st.Type == unix.TMPFS_MAGIC && int64(st.Bavail)*st.Bsize >= memoryWanted {
			base = "/dev/shm"
		}
	}
	if err := reap(base); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(base, bedPrefix)
	if err != nil {
		return nil, fmt.Errorf("make bed: %w", err)
	}
	owner, err := own(dir)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make bed: %w", err), os.RemoveAll(dir))
	}
	b := &Bed{dir: dir}
	b.Defer("remove "+dir, func() error { return errors.Join(removeTree(dir), owner.Close()) })
	return b, nil
}

// removeTree removes a folder, unless something is still mounted below it: then it would remove the files of a disk.
func removeTree(dir string) error {
	mounts, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	if len(mounts) > 0 {
		return fmt.Errorf("%s is still mounted", mounts[0])
	}
	return os.RemoveAll(dir)
}

// Dir is the bed's folder.
func (b *Bed) Dir() string { return b.dir }

// Path is a path in the bed's folder.
func (b *Bed) Path(elem ...string) string { return filepath.Join(append([]string{b.dir}, elem...)...) }

// Defer puts a step on the undo stack.
func (b *Bed) Defer(name string, do func() error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.undo = append(b.undo, step{name, do})
}

// Close undoes everything, the newest first. A step that fails does not keep the others from being taken; the errors come
// back together. It may be called again.
func (b *Bed) Close() error {
	var all error
	for {
		b.mu.Lock()
		if len(b.undo) == 0 {
			b.mu.Unlock()
			return all
		}
		s := b.undo[len(b.undo)-1]
		b.undo = b.undo[:len(b.undo)-1]
		b.mu.Unlock()
		if err := s.do(); err != nil {
			all = errors.Join(all, fmt.Errorf("%s: %w", s.name, err))
		}
	}
}

// Output runs a command to its end and returns what it printed on standard output. Its error ends with what the command said.
func Output(ctx context.Context, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil {
		said := strings.TrimSpace(errs.String())
		if said == "" {
			said = strings.TrimSpace(out.String())
		}
		err = fmt.Errorf("%s: %w: %s", filepath.Base(argv[0]), err, said)
	}
	return out.String(), err
}

// Need says which of the tools are missing, in one error.
func Need(tools ...string) error {
	var missing []string
	for _, t := range tools {
		if _, err := exec.LookPath(t); err != nil {
			missing = append(missing, t)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("not installed: %s; run: make deps", strings.Join(missing, ", "))
	}
	return nil
}

// poll calls try until it says that it is done, or the time is over.
func poll(limit time.Duration, what string, try func() (bool, error)) error {
	deadline := time.Now().Add(limit)
	for {
		done, err := try()
		if done {
			return nil
		}
		if time.Now().After(deadline) {
			if err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			return fmt.Errorf("%s: not within %v", what, limit)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
