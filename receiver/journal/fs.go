package journal

import (
	"io"
	"io/fs"
	"os"
)

// FS is what the journal needs of a filesystem. Names are paths. Like the real one it promises little: what was written is
// durable once File.Sync has returned nil, a name that was made, renamed or removed once SyncDir of its directory has; Rename
// replaces in one step. journaltest has one that forgets all the rest. It is safe for concurrent use.
type FS interface {
	// OpenFile opens with the flags of package os: O_RDONLY, O_RDWR, O_CREATE, O_TRUNC.
	OpenFile(name string, flag int) (File, error)
	Rename(from, to string) error
	Remove(name string) error // fs.ErrNotExist when it is not there
	MkdirAll(dir string) error
	ReadDir(dir string) ([]string, error) // base names, in no order
	SyncDir(dir string) error
}

// File is an open file of an FS.
type File interface {
	io.ReaderAt
	io.WriterAt
	Size() (int64, error)
	Sync() error // data and size
	Close() error
}

// writebacker is a File that can begin to write a range out to the disk, so that a later Sync has less to wait for. It is
// a hint: nothing is durable by it.
type writebacker interface {
	StartWriteback(off, n int64)
}

// mapper is a File whose first n bytes can be mapped, to be read for less than a system call costs. What Map returns is the
// same open file; closing it closes both. A read through it still copies, so that what is checked is a copy that can't change
// any more, and still fails with an error where the disk fails or the file has become shorter; but if the page cache does not
// hold what is read, it stops a processor of the Go runtime until the disk has answered. It is a hint: where a file can't be
// mapped, ReadAt is there.
type mapper interface {
	Map(n int64) (File, error)
}

// OS is the real filesystem.
type OS struct{}

// OpenFile implements FS. Files are made for the owner alone.
func (OS) OpenFile(name string, flag int) (File, error) {
	f, err := os.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Rename implements FS.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Remove implements FS.
func (OS) Remove(name string) error { return os.Remove(name) }

// MkdirAll implements FS.
func (OS) MkdirAll(dir string) error { return os.MkdirAll(dir, 0o700) }

// ReadDir implements FS.
func (OS) ReadDir(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// SyncDir implements FS.
func (OS) SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

type osFile struct{ f *os.File }

func (o osFile) ReadAt(p []byte, off int64) (int, error)  { return o.f.ReadAt(p, off) }
func (o osFile) WriteAt(p []byte, off int64) (int, error) { return o.f.WriteAt(p, off) }
func (o osFile) Close() error                             { return o.f.Close() }

func (o osFile) Size() (int64, error) {
	info, err := o.f.Stat()
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, &fs.PathError{Op: "size", Path: o.f.Name(), Err: fs.ErrInvalid}
	}
	return info.Size(), nil
}
