package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/understudy-dr/understudy/internal/block"
)

// File is a volume in a regular file or on a block device. It is safe for concurrent use; Truncate too.
type File struct {
	f     *block.File
	guard *os.File // the claim on a block device; nil for a regular file

	mu sync.RWMutex // held for writing while the size changes
}

// OpenFile opens the sparse raw file at path for reading and writing. With create it is made if it is not there, durably, its
// name included, and one that is smaller than size grows to it; without, size counts for nothing.
func OpenFile(path string, create bool, size block.Size) (*File, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("open volume %s: it is not a regular file", path)
	}
	if err != nil && (!create || !errors.Is(err, fs.ErrNotExist)) {
		return nil, fmt.Errorf("open volume: %w", err)
	}
	f, err := block.OpenFile(path, block.Mode{Write: true, Create: create})
	if err != nil {
		return nil, fmt.Errorf("open volume: %w", err)
	}
	v := &File{f: f}
	if create {
		if err := v.settle(path, size); err != nil {
			return nil, errors.Join(fmt.Errorf("create volume %s: %w", path, err), f.Close())
		}
	}
	return v, nil
}

// settle makes the size and the name of a new file durable.
func (v *File) settle(path string, size block.Size) error {
	if size > v.f.Geometry().Size {
		if err := v.f.Truncate(size); err != nil {
			return err
		}
	}
	if err := v.f.Sync(); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// OpenDevice opens the block device at path for reading and writing. One that is mounted, or in use by the kernel or by
// another volume, is refused.
func OpenDevice(path string) (*File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open volume: %w", err)
	}
	if mode := info.Mode(); mode&os.ModeDevice == 0 || mode&os.ModeCharDevice != 0 {
		return nil, fmt.Errorf("open volume %s: it is not a block device", path)
	}
	guard, err := os.OpenFile(path, os.O_RDWR|syscall.O_EXCL, 0)
	if errors.Is(err, syscall.EBUSY) {
		return nil, fmt.Errorf("open volume %s: it is in use: unmount it, or choose another: %w", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open volume: %w", err)
	}
	f, err := block.OpenFile(path, block.Mode{Write: true})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open volume: %w", err), guard.Close())
	}
	return &File{f: f, guard: guard}, nil
}

// Name is the path that was opened.
func (v *File) Name() string { return v.f.Name() }

// Geometry implements block.Device.
func (v *File) Geometry() block.Geometry {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.f.Geometry()
}

// ReadAt implements block.Device.
func (v *File) ReadAt(p []byte, off int64) (int, error) { return v.f.ReadAt(p, off) }

// WriteAt implements block.Device.
func (v *File) WriteAt(p []byte, off int64) (int, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.f.WriteAt(p, off)
}

// Sync implements block.Device.
func (v *File) Sync() error { return v.f.Sync() }

// Zero implements block.Zeroer: by a hole, or by what the device has for it. What is not aligned to the device's blocks, and
// everything on a filesystem without holes, is written.
func (v *File) Zero(r block.Range) error {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if !r.In(v.f.Geometry().Size) {
		return fmt.Errorf("zero %v of a volume of %v: %w", r, v.f.Geometry().Size, block.ErrOutOfRange)
	}
	if r.Empty() {
		return nil
	}
	mid := r
	if v.guard != nil {
		mid = aligned(r, v.f.Geometry().Logical)
	}
	if !mid.Empty() {
		err := v.zeroBlocks(mid)
		if errors.Is(err, syscall.EOPNOTSUPP) {
			mid = block.Range{Off: r.Off}
		} else if err != nil {
			return fmt.Errorf("zero %v: %w", mid, err)
		}
	}
	return errors.Join(
		v.writeZeroes(block.Range{Off: r.Off, Len: block.Size(mid.Off - r.Off)}),
		v.writeZeroes(block.Range{Off: mid.End(), Len: block.Size(r.End() - mid.End())}),
	)
}

func (v *File) zeroBlocks(r block.Range) error {
	if v.guard != nil {
		return zeroDevice(v.guard, r)
	}
	return v.f.Zero(r)
}

// aligned is the part of r that consists of whole blocks; an empty one is at r's start.
func aligned(r block.Range, b block.BlockSize) block.Range {
	start := b.At(block.Index(b.Count(block.Size(r.Off))))
	end := b.At(b.Of(r.End()))
	if end <= start {
		return block.Range{Off: r.Off}
	}
	return block.Range{Off: start, Len: block.Size(end - start)}
}

func (v *File) writeZeroes(r block.Range) error {
	if r.Empty() {
		return nil
	}
	return block.ZeroRange(struct{ block.Device }{v.f}, r) // wrapped: the File's own Zero is not to be found
}

// Extents implements block.Extenter.
func (v *File) Extents(r block.Range, visit func(block.Extent) bool) error {
	if !r.In(v.Geometry().Size) {
		return fmt.Errorf("extents %v of a volume of %v: %w", r, v.Geometry().Size, block.ErrOutOfRange)
	}
	return v.f.Extents(r, visit)
}

// Truncate makes a regular file that long; what is added is a hole.
func (v *File) Truncate(size block.Size) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.f.Truncate(size)
}

// Allocated is how much of its filesystem a regular file takes, holes apart; of a block device it is the size.
func (v *File) Allocated() block.Size {
	if v.guard != nil {
		return v.Geometry().Size
	}
	info, err := v.f.Handle().Stat()
	if err != nil {
		return 0
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return block.Size(st.Blocks) * 512
	}
	return block.Size(info.Size())
}

// Close implements block.Device.
func (v *File) Close() error {
	err := v.f.Close()
	if v.guard != nil {
		err = errors.Join(err, v.guard.Close())
	}
	return err
}
