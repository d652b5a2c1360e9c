//go:build !linux

package link

import (
	"net"
	"time"
)

// tuneTCP does nothing here.
func tuneTCP(net.Conn, time.Duration) {}
