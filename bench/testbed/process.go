package testbed

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is a daemon or a workload in a process group of its own, so that a Ctrl-C at the terminal reaches only the run
// that made it, which then ends it in order. It is killed should the run die.
type Process struct {
	Name string
	cmd  *exec.Cmd
	log  string
	from int64 // where in the log file this process's own lines begin
	done chan struct{}

	mu  sync.Mutex
	err error
	cpu time.Duration
}

// Start starts argv. What it prints is appended to NAME.log in the bed; stdout, if not nil, gets its standard output instead.
func (b *Bed) Start(name string, stdout *os.File, argv ...string) (*Process, error) {
	path := b.Path(name + ".log")
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log of %s: %w", name, err)
	}
	defer file.Close()
	from, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("open log of %s: %w", name, err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = file, file
	if stdout != nil {
		cmd.Stdout = stdout
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{Name: name, cmd: cmd, log: path, from: from, done: make(chan struct{})}
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		p.err, p.cpu = err, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()
		p.mu.Unlock()
		close(p.done)
	}()
	b.Defer("end "+name, func() error {
		p.KillGroup()
		return nil
	})
	return p, nil
}

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is how the process ended; nil while it runs and after exit status 0.
func (p *Process) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Kill is kill -9 of the process alone, not of the processes it started, and waits for its end.
func (p *Process) Kill() {
	select {
	case <-p.done:
		return
	default:
	}
	_ = p.cmd.Process.Kill() // it may end at this moment
	<-p.done
}

// KillGroup is kill -9 of the process and of all that it started.
func (p *Process) KillGroup() {
	// The group lives as long as one member does, and its number is not given to another meanwhile; once the group is
	// empty the number may be anybody's, so a group whose leader was reaped is looked up among the processes first.
	if p.groupAlive() {
		_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
	}
	<-p.done
}

// groupAlive tells whether some process that is no stranger is in the group.
func (p *Process) groupAlive() bool {
	select {
	case <-p.done:
	default:
		return true // the leader is not reaped: the number is ours
	}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		f, err := statFields(path)
		// A stranger that has reused the number leads a group of its own.
		if err == nil && f[2] == strconv.Itoa(p.PID()) && filepath.Base(filepath.Dir(path)) != strconv.Itoa(p.PID()) {
			return true
		}
	}
	return false
}

// Stop asks the process to end by SIGTERM and waits for it; past the limit it is killed, which is an error.
func (p *Process) Stop(limit time.Duration) error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return nil
	case <-time.After(limit):
		p.KillGroup()
		return fmt.Errorf("%s did not end within %v of SIGTERM and was killed", p.Name, limit)
	}
}

// Log is what the process has printed to its log file, its last 64 KiB at most.
func (p *Process) Log() string {
	f, err := os.Open(p.log)
	if err != nil {
		return ""
	}
	defer f.Close()
	const most = 64 << 10
	text, err := io.ReadAll(io.NewSectionReader(f, p.from, 1<<30))
	if err != nil {
		return ""
	}
	return string(text[max(0, len(text)-most):])
}

// WaitLog waits until the process has printed text. It is an error if it ends before.
func (p *Process) WaitLog(text string, limit time.Duration) error {
	var ended error
	err := poll(limit, fmt.Sprintf("wait for %q of %s", text, p.Name), func() (bool, error) {
		if strings.Contains(p.Log(), text) {
			return true, nil
		}
		select {
		case <-p.done:
			ended = fmt.Errorf("%s ended: %v: %s", p.Name, p.Err(), lastLine(p.Log()))
			return true, nil
		default:
			return false, nil
		}
	})
	return errors.Join(err, ended)
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// CPU is the processor time the process has used so far.
func (p *Process) CPU() (time.Duration, error) {
	select {
	case <-p.done:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.cpu, nil
	default:
	}
	f, err := statFields(fmt.Sprintf("/proc/%d/stat", p.PID()))
	if err != nil {
		return 0, fmt.Errorf("read processor time of %s: %w", p.Name, err)
	}
	// proc_pid_stat(5): utime and stime are fields 14 and 15, in ticks of which the ABI has 100 a second.
	var ticks int64
	for _, field := range f[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read processor time of %s: %w", p.Name, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// PeakRSS is the most memory the process has held, in bytes.
func (p *Process) PeakRSS() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		return 0, fmt.Errorf("read memory of %s: %w", p.Name, err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("read memory of %s: it has ended", p.Name)
}

// statFields are the fields of a /proc/PID/stat from the third (state) on: the second may hold blanks.
func statFields(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	i := bytes.LastIndexByte(text, ')')
	f := strings.Fields(string(text[i+1:]))
	if i < 0 || len(f) < 13 {
		return nil, fmt.Errorf("%s is not as proc_pid_stat(5) says", path)
	}
	return f, nil
}
