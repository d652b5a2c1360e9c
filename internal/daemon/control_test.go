package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serve runs a control socket with one handler at /work until the returned stop.
func serve(t *testing.T, path string, work func(context.Context, *http.Request, func(done, total int64)) (any, error)) (stop func()) {
	t.Helper()
	c, err := ListenControl(path)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("POST /work", Reply(work))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Serve(ctx, mux) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestControlCall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dir", "c.sock")
	stop := serve(t, path, func(_ context.Context, r *http.Request, progress func(done, total int64)) (any, error) {
		progress(1, 2)
		progress(2, 2)
		if disk := r.FormValue("disk"); disk != "sda" {
			return nil, Exitf(CodeNotFound, "no disk %q", disk)
		}
		return map[string]int{"n": 7}, nil
	})
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v %v, want 0600", info.Mode(), err)
	}
	client := NewClient(path)
	var got map[string]int
	var seen []int64
	err = client.Call(t.Context(), "/work", url.Values{"disk": {"sda"}}, func(done, _ int64) { seen = append(seen, done) }, &got)
	if err != nil || got["n"] != 7 || fmt.Sprint(seen) != "[1 2]" {
		t.Errorf("call: %v %v %v", err, got, seen)
	}
	err = client.Call(t.Context(), "/work", url.Values{"disk": {"sdb"}}, nil, nil)
	if err == nil || err.Error() != `no disk "sdb"` || ExitCode(err) != CodeNotFound {
		t.Errorf("daemon's error: %v (%d)", err, ExitCode(err))
	}
	if err := client.Call(t.Context(), "/other", nil, nil, nil); err == nil || !strings.Contains(err.Error(), "does not know /other") {
		t.Errorf("unknown path: %v", err)
	}
	stop()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Error("the socket is left behind")
	}
	if err := client.Call(t.Context(), "/work", nil, nil, nil); !errors.Is(err, ErrNoDaemon) || ExitCode(err) != CodeUnreachable {
		t.Errorf("nobody there: %v", err)
	}
}

func TestControlCancelReachesWork(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	began, ended := make(chan struct{}), make(chan error, 2)
	stop := serve(t, path, func(ctx context.Context, _ *http.Request, _ func(done, total int64)) (any, error) {
		began <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error)
	go func() { got <- NewClient(path).Call(ctx, "/work", nil, nil, nil) }()
	<-began
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("canceled call: %v", err)
	}
	if err := <-ended; err == nil {
		t.Error("the work was not told")
	}
	// The daemon's own end reaches the work too, and Serve waits for it.
	go func() { got <- NewClient(path).Call(t.Context(), "/work", nil, nil, nil) }()
	<-began
	stop()
	select {
	case <-ended:
	default:
		t.Error("Serve returned before the work had ended")
	}
	if err := <-got; err == nil {
		t.Error("a call that was cut off succeeded")
	}
}

func TestControlDaemonDiesInAnswer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		buf := make([]byte, 4096)
		conn.Read(buf)
		fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"progress\":{\"done\":1,\"total\":2}}\n")
	}()
	err = NewClient(path).Call(t.Context(), "/work", nil, nil, nil)
	if err == nil || ExitCode(err) != CodeUnreachable {
		t.Errorf("cut answer: %v (%d)", err, ExitCode(err))
	}
}

func TestControlInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	first, err := ListenControl(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ListenControl(path); !errors.Is(err, ErrInUse) || ExitCode(err) != CodeInUse {
		t.Errorf("second daemon: %v", err)
	}
	// A deleted lock file does not let a second one in while the first answers.
	if err := os.Remove(path + ".lock"); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenControl(path); !errors.Is(err, ErrInUse) {
		t.Errorf("second daemon without the lock file: %v", err)
	}
	if err := errors.Join(first.Close(), first.Close()); err != nil {
		t.Error(err)
	}
	again, err := ListenControl(path)
	if err != nil {
		t.Fatalf("after the first has gone: %v", err)
	}
	again.Close()
}

// TestControlStale kills a process that holds the socket, and takes its place.
func TestControlStale(t *testing.T) {
	if path := os.Getenv("CONTROL_HOLD"); path != "" {
		c, err := ListenControl(path)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("held")
		time.Sleep(time.Minute)
		c.Close()
		return
	}
	path := filepath.Join(t.TempDir(), "c.sock")
	cmd := exec.Command(os.Args[0], "-test.run=^TestControlStale$")
	cmd.Env = append(os.Environ(), "CONTROL_HOLD="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if n, err := out.Read(make([]byte, 64)); n == 0 {
		t.Fatal(err)
	}
	_, held := ListenControl(path)
	cmd.Process.Kill()
	_ = cmd.Wait()
	if !errors.Is(held, ErrInUse) {
		t.Errorf("while it lives: %v", held)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("the killed daemon left no socket: %v", err)
	}
	c, err := ListenControl(path)
	if err != nil {
		t.Fatalf("stale socket is not replaced: %v", err)
	}
	c.Close()
}

func TestControlRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenControl(path); ExitCode(err) != CodeUsage {
		t.Errorf("over a plain file: %v", err)
	}
	if text, _ := os.ReadFile(path); string(text) != "precious" {
		t.Error("the plain file is gone")
	}
	if _, err := ListenControl(filepath.Join(dir, strings.Repeat("x", 120))); ExitCode(err) != CodeUsage {
		t.Errorf("long path: %v", err)
	}
}
