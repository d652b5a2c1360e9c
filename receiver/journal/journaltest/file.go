package journaltest

import (
	"io"
	"io/fs"
	"syscall"

	"github.com/understudy-dr/understudy/internal/block"
)

// file is an open file of an FS.
type file struct {
	fs    *FS
	name  string
	node  *inode
	epoch int
	shut  bool
}

// enter asks for leave to do op and takes the lock, which the caller gives back.
func (f *file) enter(op Op) error {
	if err := f.fs.ask(op, f.name); err != nil {
		return err
	}
	f.fs.mu.Lock()
	err := error(nil)
	switch {
	case f.shut:
		err = fs.ErrClosed
	case f.epoch != f.fs.epoch:
		err = ErrStale
	}
	if err != nil {
		f.fs.mu.Unlock()
		return &fs.PathError{Op: string(op), Path: f.name, Err: err}
	}
	return nil
}

// ReadAt implements journal.File.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if err := f.enter(OpRead); err != nil {
		return 0, err
	}
	defer f.fs.mu.Unlock()
	if off >= int64(len(f.node.now)) {
		return 0, io.EOF
	}
	n := copy(p, f.node.now[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements journal.File.
func (f *file) WriteAt(p []byte, off int64) (int, error) {
	if err := f.enter(OpWrite); err != nil {
		return 0, err
	}
	defer f.fs.mu.Unlock()
	var err error
	if limit := f.fs.Limit; limit > 0 {
		grow := block.Size(off) + block.Size(len(p)) - block.Size(len(f.node.now))
		if over := f.fs.used() + grow - limit; grow > 0 && over > 0 {
			p = p[:max(0, block.Size(len(p))-over)]
			err = &fs.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
		}
	}
	if len(p) > 0 {
		f.node.now = put(f.node.now, p, off)
		f.node.pending = append(f.node.pending, fileWrite{off: off, data: append([]byte(nil), p...)})
	}
	return len(p), err
}

// Size implements journal.File.
func (f *file) Size() (int64, error) {
	if err := f.enter(OpRead); err != nil {
		return 0, err
	}
	defer f.fs.mu.Unlock()
	return int64(len(f.node.now)), nil
}

// Sync implements journal.File.
func (f *file) Sync() error {
	if err := f.enter(OpSync); err != nil {
		return err
	}
	defer f.fs.mu.Unlock()
	f.node.durable = append([]byte(nil), f.node.now...)
	f.node.pending = nil
	return nil
}

// Close implements journal.File.
func (f *file) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.shut {
		return &fs.PathError{Op: "close", Path: f.name, Err: fs.ErrClosed}
	}
	f.shut = true
	return nil
}
