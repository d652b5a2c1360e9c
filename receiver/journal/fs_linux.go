package journal

import (
	"errors"
	"math"
	"os"
	"runtime/debug"
	"sync/atomic"
	"syscall"
)

// syncFileRangeWrite is SYNC_FILE_RANGE_WRITE of sync_file_range(2): begin writing dirty pages, wait for none.
const syncFileRangeWrite = 2

// Sync is fdatasync(2): the file's times need not wait for a commit of their own.
func (o osFile) Sync() error {
	for {
		err := syscall.Fdatasync(int(o.f.Fd()))
		if err == nil {
			return nil
		}
		if err != syscall.EINTR {
			return &os.PathError{Op: "fdatasync", Path: o.f.Name(), Err: err}
		}
	}
}

// StartWriteback implements writebacker. A filesystem that can't only makes the Sync longer.
func (o osFile) StartWriteback(off, n int64) {
	_ = syscall.SyncFileRange(int(o.f.Fd()), off, n, syncFileRangeWrite)
}

// openFilesLimit is how many files the process may have open.
func openFilesLimit() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return limit.Cur
}

const (
	// maxMaps bounds the maps of the whole process. The kernel gives it 65,530 (vm.max_map_count), and the Go runtime dies if
	// there is none left for its memory.
	maxMaps = 16384
	// maxMapSize leaves the runtime half of the addresses, were all maps that long: 4 GiB, and none where pointers have 32 bits.
	maxMapSize = math.MaxInt >> 31
)

// mapped counts the maps of the process.
var mapped atomic.Int64

// mappedFile is a file whose first bytes are in memory too.
type mappedFile struct {
	osFile
	mem []byte
}

// Map implements mapper.
func (o osFile) Map(n int64) (File, error) {
	if n > maxMapSize {
		return nil, syscall.ENOMEM
	}
	if mapped.Add(1) > maxMaps {
		mapped.Add(-1)
		return nil, syscall.ENOMEM
	}
	mem, err := syscall.Mmap(int(o.f.Fd()), 0, int(n), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		mapped.Add(-1)
		return nil, &os.PathError{Op: "mmap", Path: o.f.Name(), Err: err}
	}
	return &mappedFile{osFile: o, mem: mem}, nil
}

// ReadAt copies from memory if it can, else it reads: that tells what is wrong.
func (m *mappedFile) ReadAt(p []byte, off int64) (int, error) {
	if off >= 0 && off <= int64(len(m.mem)-len(p)) && copied(p, m.mem[off:]) {
		return len(p), nil
	}
	return m.osFile.ReadAt(p, off)
}

// copied tells whether from could be copied: where the disk fails, or the file has become shorter, the processor faults.
func copied(to, from []byte) (ok bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault := recover(); fault != nil {
			if _, ok := fault.(interface{ Addr() uintptr }); !ok {
				panic(fault)
			}
		}
	}()
	copy(to, from)
	return true
}

// Close closes the file and gives the memory back.
func (m *mappedFile) Close() error {
	err := syscall.Munmap(m.mem)
	mapped.Add(-1)
	return errors.Join(err, m.osFile.Close())
}
