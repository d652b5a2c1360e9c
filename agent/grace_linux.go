package agent

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// graceFile makes the kernel hurry when it is 1 (Documentation/admin-guide/kernel-parameters.txt, rcupdate.rcu_expedited): who
// waits until all processors have seen a change asks each of them at once, where otherwise it waits for their next ticks.
const graceFile = "/sys/kernel/rcu_expedited"

// grace is that switch. A freeze waits for all processors several times, with the writers standing still: 30 ms and more where
// nothing is to be written back, less than one when the kernel hurries. So it is set from just before a freeze until just after
// the thaw, where nobody else has set it; the guard takes it back if the agent dies in between. A kernel without it, or one that
// was told otherwise (rcu_normal=1), freezes as ever.
type grace struct {
	fd    int // -1: there is none
	ours  bool
	value [2]byte
	mark  *atomic.Uint32 // of the record: 1 while it is ours; may be nil
}

func (g *grace) note(v uint32) {
	if g.mark != nil {
		g.mark.Store(v)
	}
}

// openGrace opens the switch; close it with close. A nil grace does nothing.
func openGrace(path string) *grace {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		fd = -1
	}
	return &grace{fd: fd}
}

// hurry sets the switch unless it is set. Like rest it allocates nothing.
func (g *grace) hurry() {
	if g == nil || g.fd < 0 {
		return
	}
	n, err := unix.Pread(g.fd, g.value[:], 0)
	if err != nil || n == 0 || g.value[0] != '0' {
		return
	}
	g.value[0] = '1'
	g.note(1)
	_, err = unix.Pwrite(g.fd, g.value[:1], 0)
	if g.ours = err == nil; !g.ours {
		g.note(0)
	}
}

// rest takes back what hurry did.
func (g *grace) rest() {
	if g == nil || !g.ours {
		return
	}
	g.value[0] = '0'
	_, _ = unix.Pwrite(g.fd, g.value[:1], 0) // nothing depends on it
	g.note(0)
	g.ours = false
}

// adopt has the next rest take back what another process may have done, if the switch is not set now.
func (g *grace) adopt() {
	if g.fd < 0 {
		return
	}
	n, err := unix.Pread(g.fd, g.value[:], 0)
	g.ours = err == nil && n > 0 && g.value[0] == '0'
}

func (g *grace) close() {
	if g.fd >= 0 {
		unix.Close(g.fd)
	}
}
