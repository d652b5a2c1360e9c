package agent

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// urgent binds the calling goroutine to its thread and has that run before the host's others, where it may (CAP_SYS_NICE): all
// that it does is done while writers stand still. A goroutine that ends without calling back takes its thread with it.
func urgent() (back func()) {
	runtime.LockOSThread()
	const itself = 0
	was, err := unix.Getpriority(unix.PRIO_PROCESS, itself)
	if err == nil {
		err = unix.Setpriority(unix.PRIO_PROCESS, itself, -20)
	}
	return func() {
		if err != nil || unix.Setpriority(unix.PRIO_PROCESS, itself, 20-was) == nil { // getpriority(2) gives 20 less the value
			runtime.UnlockOSThread()
		}
	}
}
