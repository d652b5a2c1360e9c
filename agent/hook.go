package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// What a hook may say in one run; the rest is counted and thrown away.
const (
	hookOutputBytes = 8 << 10
	hookOutputLines = 20
	hookLineBytes   = 400
	// hookGrace is how long the output of a hook that has ended is waited for: a process that it left behind may hold it open.
	hookGrace = 100 * time.Millisecond
)

// hookPath is all that a hook finds commands by.
const hookPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// The hooks by name, as they see it in UNDERSTUDY_HOOK.
const (
	preFreeze = "pre-freeze"
	postThaw  = "post-thaw"
)

// runHook runs one executable of an application to its end, and returns what it said. At the time limit, or when ctx ends, it is
// killed with all processes of its group. What it leaves behind in the background otherwise stays.
func (a Application) runHook(ctx context.Context, which, path string, at time.Time) (said output, err error) {
	ctx, cancel := context.WithTimeout(ctx, a.Timeout)
	defer cancel()
	credential, err := a.credential()
	if err != nil {
		return said, err
	}
	cmd := exec.CommandContext(ctx, path)
	cmd.Dir = "/"
	cmd.Env = a.environment(which, at)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: credential}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	r, w, err := os.Pipe()
	if err != nil {
		return said, err
	}
	defer r.Close()
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		return said, err
	}
	got := make(chan output, 1)
	go func() { got <- readOutput(r) }()
	err = cmd.Wait()
	_ = r.SetReadDeadline(time.Now().Add(hookGrace)) // a pipe takes deadlines
	said = <-got
	if errors.Is(ctx.Err(), context.DeadlineExceeded) && err != nil {
		err = fmt.Errorf("no end within %v: killed", a.Timeout)
	}
	return said, err
}

// environment is all that a hook gets to know.
func (a Application) environment(which string, at time.Time) []string {
	env := []string{
		"PATH=" + hookPath, "LANG=C.UTF-8",
		"UNDERSTUDY_HOOK=" + which,
		"UNDERSTUDY_APPLICATION=" + a.Name,
		"UNDERSTUDY_POINT_TIME=" + at.UTC().Format(time.RFC3339Nano),
		fmt.Sprintf("UNDERSTUDY_TIMEOUT_MS=%d", a.Timeout.Milliseconds()),
	}
	for key, value := range a.Env {
		env = append(env, key+"="+value)
	}
	return env
}

// output is what a hook said: its first lines, and how many bytes there were in all.
type output struct {
	lines []string
	bytes int
}

// readOutput reads to the end, or to the deadline, and keeps a bounded part.
func readOutput(r io.Reader) output {
	var kept bytes.Buffer
	n, _ := io.CopyN(&kept, r, hookOutputBytes)
	rest, _ := io.Copy(io.Discard, r)
	said := output{bytes: int(n + rest)}
	for line := range bytes.Lines(kept.Bytes()) {
		if line = bytes.TrimRight(line, "\r\n"); len(line) > 0 && len(said.lines) < hookOutputLines {
			said.lines = append(said.lines, string(line[:min(len(line), hookLineBytes)]))
		}
	}
	return said
}
