package link

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// tuneTCP asks for BBR where the kernel has it, which keeps its rate on lines that lose packets, and for an end of the
// connection when sent data stays unacknowledged. Both are wishes: a kernel that refuses goes on as it is.
func tuneTCP(c net.Conn, idle time.Duration) {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "bbr")
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(idle.Milliseconds()))
	})
}
