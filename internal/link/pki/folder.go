package pki

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"github.com/understudy-dr/understudy/internal/durable"
)

// lockFolder keeps other processes, and other users of it in this one, from changing the folder until unlock.
func lockFolder(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, err
		}
	}
}

// appendLine adds a line to a file durably. What a crash left of an earlier one stays a line of its own.
func appendLine(path string, line []byte) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	last := make([]byte, 1)
	if info.Size() == 0 { // it may be new
		if err := durable.Inherit(f); err != nil {
			return err
		}
	}
	if n := info.Size(); n > 0 {
		if _, err := f.ReadAt(last, n-1); err != nil {
			return err
		}
		if !bytes.Equal(last, []byte("\n")) {
			line = append([]byte("\n"), line...)
		}
	}
	if _, err = f.Write(append(line, '\n')); err == nil {
		err = f.Sync()
	}
	if err == nil && info.Size() == 0 {
		err = durable.SyncFolder(filepath.Dir(path))
	}
	return err
}
