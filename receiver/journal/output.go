package journal

import (
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"os"

	"github.com/understudy-dr/understudy/internal/block"
)

// writebackStep is how much is written between two hints to the disk.
const writebackStep = 8 << 20

// output writes a file front to back through a buffer.
type output struct {
	path   string
	f      File
	buf    []byte
	at     int64 // where buf goes
	hinted int64 // up to where the disk was told to begin
}

// newOutput makes the file anew. buf is memory to use, its length 0.
func newOutput(fsys FS, path string, buf []byte) (*output, error) {
	f, err := fsys.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return nil, err
	}
	return &output{path: path, f: f, buf: buf}, nil
}

// pos is where the next byte goes.
func (o *output) pos() block.Offset { return block.Offset(o.at + int64(len(o.buf))) }

func (o *output) write(p []byte) error {
	for len(p) > 0 {
		n := copy(o.buf[len(o.buf):cap(o.buf)], p)
		o.buf, p = o.buf[:len(o.buf)+n], p[n:]
		if len(o.buf) == cap(o.buf) {
			if err := o.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	if err := o.write(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (o *output) flush() error {
	if _, err := o.f.WriteAt(o.buf, o.at); err != nil {
		return err
	}
	o.at += int64(len(o.buf))
	o.buf = o.buf[:0]
	if n := o.at - o.hinted; n >= writebackStep {
		if w, ok := o.f.(writebacker); ok {
			w.StartWriteback(o.hinted, n)
		}
		o.hinted = o.at
	}
	return nil
}

// sync makes all of it durable and closes the file.
func (o *output) sync() error {
	err := o.flush()
	if err == nil {
		err = o.f.Sync()
	}
	return errors.Join(err, o.close())
}

// close closes the file; what is in the buffer is lost. It may be called again.
func (o *output) close() error {
	if o.f == nil {
		return nil
	}
	err := o.f.Close()
	o.f = nil
	return err
}

// spillAt is how much index is kept in memory: that of 9 GiB in frames of the largest size.
const spillAt = 1 << 20

// indexLog collects the index of a delta that is being written; what does not fit into memory waits in a file of its own.
type indexLog struct {
	fs      FS
	path    string // of that file
	sum     uint32 // of all that was added, head and all
	buf     []byte
	spill   File
	spilled int64
}

func newIndexLog(fsys FS, path string) indexLog { return indexLog{fs: fsys, path: path, sum: indexSum} }

func (l *indexLog) add(e indexEntry) error {
	if len(l.buf)+indexEntrySize > spillAt {
		if err := l.flush(); err != nil {
			return err
		}
	}
	l.buf = e.append(l.buf)
	l.sum = crc32.Update(l.sum, block.Castagnoli, l.buf[len(l.buf)-indexEntrySize:])
	return nil
}

func (l *indexLog) flush() error {
	if l.spill == nil {
		f, err := l.fs.OpenFile(l.path, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
		if err != nil {
			return err
		}
		l.spill = f
	}
	if _, err := l.spill.WriteAt(l.buf, l.spilled); err != nil {
		return err
	}
	l.spilled += int64(len(l.buf))
	l.buf = l.buf[:0]
	return nil
}

// writeTo writes the whole index section for count entries, and checks that the spill file gave back what it was given.
func (l *indexLog) writeTo(o *output, count uint64) error {
	sum := crc32.New(block.Castagnoli)
	w := io.MultiWriter(o, sum)
	if _, err := io.WriteString(w, indexHead); err != nil {
		return err
	}
	if l.spilled > 0 {
		if _, err := io.Copy(w, io.NewSectionReader(l.spill, 0, l.spilled)); err != nil {
			return err
		}
	}
	if _, err := w.Write(l.buf); err != nil {
		return err
	}
	if sum.Sum32() != l.sum {
		return &block.CorruptionError{File: l.path, Err: block.ErrChecksum}
	}
	return o.write(indexTail(count, l.sum))
}

// drop lets go of the spill file. One that stays is removed by the next Open.
func (l *indexLog) drop() error {
	l.buf = nil
	if l.spill == nil {
		return nil
	}
	err := l.spill.Close()
	l.spill = nil
	if e := l.fs.Remove(l.path); e != nil && !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return err
}
