package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// ErrInUse says that another daemon holds the control socket.
var ErrInUse = errors.New("in use by another daemon")

// maxSocketPath is what sun_path of unix(7) holds, less its closing zero byte.
const maxSocketPath = 107

// Control is a daemon's control socket: HTTP over a Unix socket that only its own user may open. Who holds it is decided by
// a lock on PATH.lock, which the kernel drops when a daemon dies, however it dies; so a socket left by a killed daemon is
// replaced, and that of a live one never is.
type Control struct {
	path     string
	lock     *os.File
	listener *net.UnixListener
}

// ListenControl binds the socket at path, and makes its directory (0700) if need be. ErrInUse: another daemon has it. The
// caller ends it with Serve or Close.
func ListenControl(path string) (*Control, error) {
	fresh := path + ".new"
	if len(fresh) > maxSocketPath {
		return nil, Exitf(CodeUsage, "control socket %s: the path has %d bytes, %d at most; choose a shorter one with --control", path, len(path), maxSocketPath-len(".new"))
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make control directory: %w", err)
	}
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open control lock: %w", err)
	}
	c := &Control{path: path, lock: lock}
	if err := c.bind(fresh); err != nil {
		lock.Close()
		return nil, err
	}
	return c, nil
}

// bind makes the socket under another name and renames it, so that it is never there with other permissions than 0600.
func (c *Control) bind(fresh string) error {
	if err := unix.Flock(int(c.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("control socket %s: %w; stop it, or choose another with --control", c.path, ErrInUse)
		}
		return fmt.Errorf("lock control socket: %w", err)
	}
	// The lock may have been deleted under a live daemon; then its socket answers.
	if conn, err := net.DialTimeout("unix", c.path, time.Second); err == nil {
		conn.Close()
		return fmt.Errorf("control socket %s: %w; stop it, or choose another with --control", c.path, ErrInUse)
	}
	if info, err := os.Lstat(c.path); err == nil && info.Mode().Type() != os.ModeSocket {
		return Exitf(CodeUsage, "control socket %s: there is a file that is no socket; remove it, or choose another with --control", c.path)
	}
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove stale socket: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return fmt.Errorf("listen on control socket: %w", err)
	}
	listener.SetUnlinkOnClose(false)
	if err = os.Chmod(fresh, 0o600); err == nil {
		err = os.Rename(fresh, c.path)
	}
	if err != nil {
		listener.Close()
		os.Remove(fresh)
		return fmt.Errorf("publish control socket: %w", err)
	}
	c.listener = listener
	return nil
}

// Serve answers requests until ctx ends, then cancels those under way, waits for them and removes the socket.
func (c *Control) Serve(ctx context.Context, handler http.Handler) error {
	requests, cancel := context.WithCancel(ctx)
	defer cancel()
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return requests },
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(c.listener) }()
	var err error
	select {
	case <-ctx.Done():
		grace, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		if server.Shutdown(grace) != nil {
			server.Close()
		}
		stop()
		<-done
	case err = <-done:
		err = fmt.Errorf("serve control socket: %w", err)
	}
	return errors.Join(err, c.Close())
}

// Close removes the socket and gives up the lock. It may be called again, and after Serve.
func (c *Control) Close() error {
	if c.lock == nil {
		return nil
	}
	c.listener.Close() // Serve may have closed it
	err := os.Remove(c.path)
	c.lock.Close()
	c.lock = nil
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove control socket: %w", err)
	}
	return nil
}
