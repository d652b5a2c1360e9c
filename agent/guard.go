package agent

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The guard is a process of its own that thaws what the agent froze when the agent dies, hangs or overruns. Its pages are
// locked, so it needs no disk, the frozen one included. The agent speaks to it over its standard input and output, a line
// each way:
//
//	arm MILLISECONDS "PATH" "PATH"…    it opens the mount points and starts its clock; answers "ok" or "error TEXT"
//	disarm                             it closes them; answers "ok", or "thawed" when the clock ran out first
//
// The end of its input while it is armed means that the agent is gone: it thaws, and ends.

// Guard is the agent's end. Its methods are for one goroutine.
type Guard struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// StartGuard starts the guard: argv is the command that ends in RunGuard, the agent's own binary as a rule.
func StartGuard(argv ...string) (*Guard, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a signal to the agent's group must not take its guard
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start guard: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start guard: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start guard: %w", err)
	}
	g := &Guard{cmd: cmd, in: in, out: bufio.NewReader(out)}
	if err := g.ask("hello"); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

// Close ends the guard and waits for it.
func (g *Guard) Close() error {
	g.in.Close()
	return g.cmd.Wait()
}

func (g *Guard) ask(line string) error {
	if _, err := io.WriteString(g.in, line+"\n"); err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	answer, err := g.out.ReadString('\n')
	if err != nil {
		return fmt.Errorf("guard: no answer: %w", err)
	}
	if answer = strings.TrimSpace(answer); answer != "ok" {
		return fmt.Errorf("guard: %s", answer)
	}
	return nil
}

// arm makes the guard thaw paths after limit, or when the agent dies, until disarm.
func (g *Guard) arm(paths []string, limit time.Duration) error {
	line := "arm " + strconv.FormatInt(limit.Milliseconds(), 10)
	for _, p := range paths {
		line += " " + strconv.Quote(p)
	}
	return g.ask(line)
}

// disarm stops the guard's clock. An error is of no consequence to the freeze: thaw tells whether it held.
func (g *Guard) disarm() error { return g.ask("disarm") }

// RunGuard is the guard's main: it serves the agent at the other end of in and out until in ends.
func RunGuard(in io.Reader, out io.Writer) error {
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE); err != nil {
		return fmt.Errorf("lock the guard in memory: %w", err)
	}
	s := &guardState{}
	defer s.thaw() // the agent is gone: whatever it froze must go on
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		answer := "ok"
		if err := s.do(lines.Text()); err != nil {
			answer = "error " + err.Error()
		}
		if _, err := io.WriteString(out, answer+"\n"); err != nil {
			return err
		}
	}
	return lines.Err()
}

// guardState is what the guard would thaw. The clock's goroutine and the reader of commands share it.
type guardState struct {
	mu     sync.Mutex
	files  []*os.File
	clock  *time.Timer
	thawed bool
}

func (s *guardState) do(line string) error {
	verb, rest, _ := strings.Cut(line, " ")
	switch verb {
	case "hello":
		return nil
	case "arm":
		return s.arm(rest)
	case "disarm":
		return s.disarm()
	}
	return fmt.Errorf("unknown command %q", verb)
}

func (s *guardState) arm(args string) error {
	ms, rest, _ := strings.Cut(args, " ")
	n, err := strconv.Atoi(ms)
	if err != nil || n <= 0 {
		return fmt.Errorf("time limit %q", ms)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeFiles()
	for rest = strings.TrimSpace(rest); rest != ""; rest = strings.TrimSpace(rest) {
		quoted, err := strconv.QuotedPrefix(rest)
		if err != nil {
			return fmt.Errorf("path %q", rest)
		}
		rest = rest[len(quoted):]
		path, _ := strconv.Unquote(quoted)
		f, err := os.Open(path)
		if err != nil {
			s.closeFiles()
			return err
		}
		s.files = append(s.files, f)
	}
	s.thawed = false
	limit := time.Duration(n) * time.Millisecond
	s.clock = time.AfterFunc(limit, func() { s.overrun(limit) })
	return nil
}

// thaw lets every file system go on. One that is not frozen answers EINVAL, which is as well.
func (s *guardState) thaw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.files {
		if unix.IoctlSetInt(int(f.Fd()), fiThaw, 0) == nil {
			s.thawed = true
		}
	}
}

// overrun thaws, again and again until disarm: an agent that was slow in the middle of freezing may freeze one more.
func (s *guardState) overrun(limit time.Duration) {
	s.thaw()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.files) > 0 {
		s.clock.Reset(limit)
	}
}

func (s *guardState) disarm() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeFiles()
	if s.thawed {
		return fmt.Errorf("the freeze overran its limit and was thawed")
	}
	return nil
}

func (s *guardState) closeFiles() {
	if s.clock != nil {
		s.clock.Stop()
	}
	for _, f := range s.files {
		f.Close()
	}
	s.files = nil
}
