package testbed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// What a killed run has left is taken away by the next one. A bed holds a lock on its file of owner for as long as its process
// lives; what outlives mounts and loop devices, it lists in its file of rites.
const (
	ownerFile = "owner"
	ritesFile = "rites"
	bedPrefix = "understudy-bed-"
)

// own locks the folder for as long as the process lives. The name comes after the lock: a bed without it is never reaped.
func own(dir string) (*os.File, error) {
	fresh := filepath.Join(dir, ownerFile+".new")
	f, err := os.OpenFile(fresh, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), os.Rename(fresh, filepath.Join(dir, ownerFile))); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// OnDeath has a command run by the next bed should this run be killed before its Close: for what lives on without a process,
// mount or device. It runs before the bed's folder is removed.
func (b *Bed) OnDeath(argv ...string) error {
	line, err := json.Marshal(argv)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(b.Path(ritesFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("note what to undo: %w", err)
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Close())
}

// reap takes away the beds below base whose process is gone.
func reap(base string) error {
	dirs, err := filepath.Glob(filepath.Join(base, bedPrefix+"*"))
	if err != nil {
		return err
	}
	var all error
	for _, dir := range dirs {
		f, err := os.OpenFile(filepath.Join(dir, ownerFile), os.O_RDWR, 0)
		if err != nil {
			continue // just being made, or just being removed
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			if err := bury(dir); err != nil {
				all = errors.Join(all, fmt.Errorf("take away %s, which a killed run has left: %w", dir, err))
			}
		}
		f.Close()
	}
	return all
}

// bury undoes a dead bed, beds inside of it included.
func bury(dir string) error {
	mounts, err := mountsBelow(dir)
	slices.Reverse(mounts)
	for _, m := range mounts {
		err = errors.Join(err, (&Mount{Dir: m}).Unmount())
	}
	list, listErr := Output(context.Background(), "losetup", "--noheadings", "--raw", "--output", "NAME,BACK-FILE", "--list")
	err = errors.Join(err, listErr)
	for line := range strings.Lines(list) {
		if device, file, _ := strings.Cut(strings.TrimSpace(line), " "); strings.HasPrefix(file, dir+"/") {
			err = errors.Join(err, (&Loop{Device: device, File: file}).Detach())
		}
	}
	err = errors.Join(err, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != ritesFile {
			return err
		}
		return perform(path)
	}))
	if err != nil {
		return err
	}
	return removeTree(dir)
}

// perform runs the commands of a file of rites.
func perform(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		var argv []string
		if json.Unmarshal([]byte(line), &argv) != nil || len(argv) == 0 {
			continue // half a line: the run was killed as it wrote it, before it did what is to be undone
		}
		if _, err := Output(context.Background(), argv...); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
