package daemon

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Notifier tells the service manager how the daemon is, by the protocol of sd_notify(3). The zero value tells nobody, as is
// right where no service manager asked.
type Notifier struct {
	socket   string
	watchdog time.Duration
}

// NewNotifier reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID from the environment.
func NewNotifier() Notifier {
	n := Notifier{socket: os.Getenv("NOTIFY_SOCKET")}
	pid := os.Getenv("WATCHDOG_PID")
	if usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64); err == nil && usec > 0 {
		if pid == "" || pid == strconv.Itoa(os.Getpid()) {
			n.watchdog = time.Duration(usec) * time.Microsecond
		}
	}
	return n
}

// Ready says that the daemon serves.
func (n Notifier) Ready() error { return n.send("READY=1") }

// Stopping says that the daemon has begun to end.
func (n Notifier) Stopping() error { return n.send("STOPPING=1") }

// Reloading says that the daemon reads its configuration again; Ready ends it.
func (n Notifier) Reloading() error {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return fmt.Errorf("read monotonic clock: %w", err)
	}
	return n.send("RELOADING=1", fmt.Sprintf("MONOTONIC_USEC=%d", ts.Nano()/1000))
}

// Status sets the one line that the service manager shows.
func (n Notifier) Status(text string) error {
	return n.send("STATUS=" + strings.ReplaceAll(text, "\n", " "))
}

// RunWatchdog tells the service manager that the daemon lives, at half of the interval it asks for, as long as alive says
// so, until ctx ends. Where no watchdog is asked for it returns at once.
func (n Notifier) RunWatchdog(ctx context.Context, alive func() bool) error {
	if n.watchdog == 0 || n.socket == "" {
		return nil
	}
	tick := time.NewTicker(n.watchdog / 2)
	defer tick.Stop()
	for {
		if alive() {
			if err := n.send("WATCHDOG=1"); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// send writes the assignments as one datagram.
func (n Notifier) send(assignments ...string) error {
	if n.socket == "" {
		return nil
	}
	// A leading @ is an abstract socket; package net turns it into the zero byte itself.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(strings.Join(assignments, "\n"))); err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	return nil
}
