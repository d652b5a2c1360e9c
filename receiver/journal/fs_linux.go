package journal

import (
	"os"
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
