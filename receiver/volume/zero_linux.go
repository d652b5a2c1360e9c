package volume

import (
	"os"
	"syscall"
	"unsafe"

	"github.com/understudy-dr/understudy/internal/block"
)

// blkZeroOut is BLKZEROOUT of linux/fs.h.
const blkZeroOut = 0x127f

// zeroDevice zeroes whole blocks of the block device. It must be asked through the handle that claimed the device: the kernel
// answers any other with EBUSY, since it drops the range from the page cache.
func zeroDevice(f *os.File, r block.Range) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	arg := [2]uint64{uint64(r.Off), uint64(r.Len)}
	var errno syscall.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, errno = syscall.Syscall(syscall.SYS_IOCTL, fd, blkZeroOut, uintptr(unsafe.Pointer(&arg)))
	})
	if err == nil && errno != 0 {
		err = errno
	}
	return err
}
