// Package durable replaces small files, those that keep a daemon's state, so that a crash leaves the old one or the new one and
// never a part: a new file beside it, synced, renamed over it, and the folder synced. A new file belongs to the folder's owner.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
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
	err = Inherit(f)
	if err == nil {
		_, err = f.Write(content)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// Inherit gives a new file or folder the owner and group of the folder that it is in, if it is root that has made it: what root
// does by a command in the folder of a daemon that runs as somebody else must not keep the daemon out. Who owns a folder could
// replace what is in it anyway. Root without the capability to give files away keeps it.
func Inherit(f *os.File) error {
	info, err := os.Stat(filepath.Dir(filepath.Clean(f.Name())))
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 || owner.Uid == 0 {
		return nil
	}
	if err := f.Chown(int(owner.Uid), int(owner.Gid)); !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}

// MakeFolder makes a folder in one that is there, if it is not there yet. Its name is durable after SyncFolder only.
func MakeFolder(path string, mode fs.FileMode) error {
	if err := os.Mkdir(path, mode); errors.Is(err, fs.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(Inherit(f), f.Close())
}

// SyncFolder makes the names in a folder durable.
func SyncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
