package daemon

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestSupervised: a service manager hears that the daemon is ready, that it lives as long as it does, that it reads its configuration
// again, and that it ends. A file that can't be read changes nothing.
func TestSupervised(t *testing.T) {
	dir := t.TempDir()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", filepath.Join(dir, "notify"))
	t.Setenv("WATCHDOG_USEC", "100000")
	t.Setenv("WATCHDOG_PID", "")
	file := filepath.Join(dir, "config.toml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	type config struct {
		Key string    `toml:"key"`
		Log LogConfig `toml:"log"`
	}
	write("key = \"a\"\n")
	var text bytes.Buffer // the daemon's goroutines are done with it, or between two messages, when it is read
	log, level, err := NewLeveledLogger(&text, LogConfig{})
	if err != nil {
		t.Fatal(err)
	}
	var alive atomic.Bool
	alive.Store(true)
	s := Supervised{Log: log, Alive: alive.Load, Reload: NewReload(file, log, level, func(c *config) *LogConfig { return &c.Log })}
	stop := s.Run(t.Context())
	s.Start()
	hear := listener(t, conn)
	hear("READY=1")
	hear("WATCHDOG=1")
	reload := func(content string, want slog.Level) {
		t.Helper()
		write(content)
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		if got := hear("RELOADING=1"); !strings.Contains(got, "\nMONOTONIC_USEC=") {
			t.Errorf("reloading: %q", got)
		}
		hear("READY=1")
		if level.Level() != want {
			t.Errorf("level %v after %q, want %v", level.Level(), content, want)
		}
	}
	reload("key = \"a\"\n[log]\nlevel = \"debug\"\n", slog.LevelDebug)
	if strings.Contains(text.String(), "restart") {
		t.Errorf("only the level has changed: %s", &text)
	}
	reload("key = \"b\"\n[log]\nlevel = \"warn\"\n", slog.LevelWarn)
	if !strings.Contains(text.String(), "restart to have that") {
		t.Errorf("nothing is said of the key: %s", &text)
	}
	reload("kee = \"b\"\n", slog.LevelWarn)
	if !strings.Contains(text.String(), "did you mean key?") {
		t.Errorf("nothing is said of the mistake: %s", &text)
	}
	alive.Store(false)
	time.Sleep(100 * time.Millisecond) // for what it was about to say
	drain(conn)
	if got := drain(conn); got != "" {
		t.Errorf("a daemon that hangs said %q", got)
	}
	stop()
	hear("STOPPING=1")
}

// listener waits for a message that begins with want, and lets others pass.
func listener(t *testing.T, conn *net.UnixConn) func(want string) string {
	return func(want string) string {
		t.Helper()
		buf := make([]byte, 1024)
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		for {
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatalf("waiting for %s: %v", want, err)
			}
			if strings.HasPrefix(string(buf[:n]), want) {
				return string(buf[:n])
			}
		}
	}
}

// drain reads all that comes within 200 ms.
func drain(conn *net.UnixConn) (all string) {
	buf := make([]byte, 1024)
	conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return all
		}
		all += string(buf[:n])
	}
}
