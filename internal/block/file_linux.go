package block

import (
	"errors"
	"os"
	"syscall"
	"unsafe"
)

const directFlag = syscall.O_DIRECT

// Requests of linux/fs.h and modes of fallocate(2), which the syscall package lacks.
const (
	blkGetSize64 = 0x80081272
	blkSSZGet    = 0x1268
	blkROGet     = 0x125e
	blkZeroOut   = 0x127f
	blkDiscard   = 0x1277

	fallocKeepSize  = 0x01
	fallocPunchHole = 0x02

	seekData = 3
	seekHole = 4
)

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var errno syscall.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, errno = syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(arg))
	})
	if err == nil && errno != 0 {
		err = errno
	}
	return err
}

// deviceGeometry asks the kernel about a block device.
func deviceGeometry(f *os.File) (Geometry, error) {
	var size uint64
	var logical, readOnly int32
	err := errors.Join(
		ioctl(f, blkGetSize64, unsafe.Pointer(&size)),
		ioctl(f, blkSSZGet, unsafe.Pointer(&logical)),
		ioctl(f, blkROGet, unsafe.Pointer(&readOnly)),
	)
	return Geometry{Size: Size(size), Logical: BlockSize(logical), ReadOnly: readOnly != 0}, err
}

// Sync makes data durable; a file's size too, its times not.
func (f *File) Sync() error { return syscall.Fdatasync(int(f.f.Fd())) }

// Zero makes r read as zeroes: a hole in a regular file, BLKZEROOUT on a block device, which unmaps where the disk can
// promise zeroes. r must be aligned to the logical block on a block device.
func (f *File) Zero(r Range) error {
	if !r.In(f.geo.Size) {
		return ErrOutOfRange
	}
	if r.Empty() {
		return nil
	}
	if f.block {
		arg := [2]uint64{uint64(r.Off), uint64(r.Len)}
		return ioctl(f.f, blkZeroOut, unsafe.Pointer(&arg))
	}
	return syscall.Fallocate(int(f.f.Fd()), fallocPunchHole|fallocKeepSize, int64(r.Off), int64(r.Len))
}

// Trim gives r back. A regular file reads as zeroes there; a block device as it likes.
func (f *File) Trim(r Range) error {
	if !f.block {
		return f.Zero(r)
	}
	if !r.In(f.geo.Size) {
		return ErrOutOfRange
	}
	arg := [2]uint64{uint64(r.Off), uint64(r.Len)}
	return ioctl(f.f, blkDiscard, unsafe.Pointer(&arg))
}

// Extents implements Extenter by SEEK_DATA and SEEK_HOLE. A block device is all data.
func (f *File) Extents(r Range, visit func(Extent) bool) error {
	if f.block {
		visit(Extent{Range: r})
		return nil
	}
	for pos := r.Off; pos < r.End(); {
		data, err := syscall.Seek(int(f.f.Fd()), int64(pos), seekData)
		if errors.Is(err, syscall.ENXIO) { // nothing but hole up to the end
			data, err = int64(r.End()), nil
		}
		if err != nil {
			return err
		}
		start := min(Offset(data), r.End())
		if start > pos && !visit(Extent{Range{pos, Size(start - pos)}, true}) || start == r.End() {
			return nil
		}
		hole, err := syscall.Seek(int(f.f.Fd()), int64(start), seekHole)
		if err != nil {
			return err
		}
		end := min(Offset(hole), r.End())
		if !visit(Extent{Range{start, Size(end - start)}, false}) {
			return nil
		}
		pos = end
	}
	return nil
}
