// Package durable replaces small files, those that keep a daemon's state, so that a crash leaves the old one or the new one and
// never a part: a new file beside it, synced, renamed over it, and the folder synced.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Replace makes or replaces the file at path. It is durable when Replace has returned nil; otherwise what was there before is
// there still, or, where the folder could not be synced, one of the two. One caller at a time may replace a file: the new one is
// path.tmp until it is renamed.
func Replace(path string, content []byte, mode fs.FileMode) error {
	tmp := path + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) { // a crash left it
		return err
	}
	err := Create(tmp, content, mode)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		if e := os.Remove(tmp); !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
		return err
	}
	return SyncFolder(filepath.Dir(path))
}

// Create writes a file that is not there yet (fs.ErrExist if it is) and syncs it. Its name is durable after SyncFolder only.
func Create(path string, content []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// SyncFolder makes the names in a folder durable.
func SyncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
