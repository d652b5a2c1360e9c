package agent

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// urgent binds the calling goroutine to its thread and has that run, and its reads and writes served, before the host's others, where
// it may (CAP_SYS_NICE): all that it does is done while writers stand still. A goroutine that ends without calling back takes its
// thread with it.
//
// An I/O scheduler that shares a disk out between processes would have it wait else: BFQ keeps the disk idle for one that may soon
// ask for more, 8 ms at a time, and holds back a freeze's reads meanwhile.
func urgent() (back func()) {
	runtime.LockOSThread()
	wasIO, errIO := ioPriority(unix.SYS_IOPRIO_GET, 0)
	if errIO == nil {
		_, errIO = ioPriority(unix.SYS_IOPRIO_SET, ioFirst)
	}
	const itself = 0
	was, err := unix.Getpriority(unix.PRIO_PROCESS, itself)
	if err == nil {
		err = unix.Setpriority(unix.PRIO_PROCESS, itself, -20)
	}
	return func() {
		clean := true
		if errIO == nil {
			_, e := ioPriority(unix.SYS_IOPRIO_SET, wasIO)
			clean = e == nil
		}
		if err == nil {
			clean = unix.Setpriority(unix.PRIO_PROCESS, itself, 20-was) == nil && clean // getpriority(2) gives 20 less the value
		}
		if clean {
			runtime.UnlockOSThread()
		}
	}
}

// ioFirst is the first level of the real-time class (ioprio_set(2), linux/ioprio.h).
const ioFirst = 1 << 13

// ioPriority gets or sets the I/O priority of the calling thread.
func ioPriority(call, value uintptr) (uintptr, error) {
	const whoProcess = 1
	v, _, errno := unix.Syscall(call, whoProcess, 0, value)
	if errno != 0 {
		return 0, errno
	}
	return v, nil
}
