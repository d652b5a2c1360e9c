package block

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"
)

// DirectAlign is the alignment of memory, offset and length that any disk accepts for direct I/O.
const DirectAlign = 4096

// AlignedBuffer is n bytes of memory aligned for direct I/O.
func AlignedBuffer(n Size) []byte {
	raw := make([]byte, n+DirectAlign)
	skip := -int(uintptr(unsafe.Pointer(&raw[0]))) & (DirectAlign - 1)
	return raw[skip : skip+int(n) : skip+int(n)]
}

// Mode is how a File is opened.
type Mode struct {
	Write  bool
	Direct bool // O_DIRECT: buffers, offsets and lengths must be aligned to DirectAlign, but for the device's tail
	Create bool // make a regular file that is not there; one that is there is not touched
}

// File is a Device over a regular file or a block device.
type File struct {
	f     *os.File
	geo   Geometry
	block bool // a block device, not a regular file

	direct bool // opened so
}

// OpenFile opens a regular file or block device as a Device. Its size is read once: see Refresh.
func OpenFile(path string, mode Mode) (*File, error) {
	flags := os.O_RDONLY
	if mode.Write {
		flags = os.O_RDWR
	}
	if mode.Create {
		flags |= os.O_CREATE
	}
	if mode.Direct {
		flags |= directFlag
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, err
	}
	file := &File{f: f, direct: mode.Direct}
	if err := file.Refresh(); err != nil {
		f.Close()
		return nil, err
	}
	if mode.Write && file.geo.ReadOnly {
		f.Close()
		return nil, fmt.Errorf("open %s for writing: %w", path, ErrReadOnly)
	}
	file.geo.ReadOnly = file.geo.ReadOnly || !mode.Write
	return file, nil
}

// Refresh reads the size again. It must not run beside other calls.
func (f *File) Refresh() error {
	info, err := f.f.Stat()
	if err != nil {
		return err
	}
	readOnly := f.geo.ReadOnly
	switch mode := info.Mode(); {
	case mode.IsRegular():
		f.geo = Geometry{Size: Size(info.Size()), Logical: 512}
	case mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0:
		f.block = true
		if f.geo, err = deviceGeometry(f.f); err != nil {
			return fmt.Errorf("read geometry of %s: %w", f.f.Name(), err)
		}
	default:
		return fmt.Errorf("%s is neither a regular file nor a block device", f.f.Name())
	}
	f.geo.ReadOnly = f.geo.ReadOnly || readOnly
	return nil
}

// Name is the path that was opened.
func (f *File) Name() string { return f.f.Name() }

// Handle is the open file, which stays the Device's: for ioctls and locks.
func (f *File) Handle() *os.File { return f.f }

// Geometry implements Device.
func (f *File) Geometry() Geometry { return f.geo }

// ReadAt implements Device.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.f.ReadAt(p, off)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	return n, fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
}

// WriteAt implements Device.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if !(Range{Offset(off), Size(len(p))}).In(f.geo.Size) {
		return 0, fmt.Errorf("write %d bytes at %d of a device of %v: %w", len(p), off, f.geo.Size, ErrOutOfRange)
	}
	return f.f.WriteAt(p, off)
}

// Truncate makes a regular file that long; what is added is a hole.
func (f *File) Truncate(size Size) error {
	if f.block {
		return fmt.Errorf("resize %s to %v: it is a block device of %v", f.f.Name(), size, f.geo.Size)
	}
	if err := f.f.Truncate(int64(size)); err != nil {
		return err
	}
	f.geo.Size = size
	return nil
}

// Close implements Device.
func (f *File) Close() error { return f.f.Close() }
