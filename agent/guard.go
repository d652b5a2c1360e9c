package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The guard is a process of its own that thaws what the agent froze when the agent dies, hangs or overruns
// (guard_process.go). The agent speaks to it over a pair of connected sockets, a packet each way:
//
//	hello                     is it there?
//	add, with open files      it keeps the mount points that it may have to thaw: the files themselves, so that it thaws what
//	                          was frozen, whatever is mounted at the path by then
//	record, with its file     it keeps what it thaws in the record, and takes back what the agent told the kernel
//	start LIMIT               the freeze begins now: it thaws when LIMIT has passed, or when its end of the pair is closed,
//	                          which the kernel does for an agent that has died
//	disarm                    the freeze is over: it stops its clock and closes the files
//
// A request is a verb u8 and a limit u64 in ns; an answer is a status u8 and the ns u64 from start until everything was thawed.
const (
	guardHello  = 'h'
	guardAdd    = 'a'
	guardRecord = 'r'
	guardStart  = 's'
	guardDisarm = 'd'

	guardOK     = 'o'
	guardThawed = 't' // to disarm: the clock ran out first
	guardRefuse = 'x' // a request that makes no sense

	guardPacket = 1 + 8
	// guardFiles go with one packet: the kernel passes 253 at most.
	guardFiles = 64
	// guardPatience is how long a guard may take to answer. It has nothing to do but answer.
	guardPatience = 5 * time.Second
)

// freezeGrace is added to the freeze budget: then the guard thaws. That leaves it as long again to be woken and to thaw, so that
// no file system stays frozen for longer than the budget and twice the grace.
const freezeGrace = 100 * time.Millisecond

// Guard is the agent's end. Its methods are for one goroutine.
type Guard struct {
	argv   []string
	cmd    *exec.Cmd
	record *record // may be nil
	sock   int
	packet [guardPacket]byte // of the request and of its answer: nothing is allocated for start
}

// StartGuard starts the guard: argv is the command that ends in RunGuard, the agent's own binary as a rule.
func StartGuard(argv ...string) (*Guard, error) {
	g := &Guard{argv: argv}
	return g, g.start()
}

func (g *Guard) start() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("start guard: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "guard")
	defer theirs.Close()
	g.cmd = exec.Command(g.argv[0], g.argv[1:]...)
	g.cmd.Stdin, g.cmd.Stderr = theirs, os.Stderr
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a signal to the agent's group must not take its guard
	g.sock = pair[0]
	patience := unix.NsecToTimeval(int64(guardPatience))
	err = errors.Join(
		unix.SetsockoptTimeval(g.sock, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience),
		unix.SetsockoptTimeval(g.sock, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience),
	)
	if err == nil {
		err = g.cmd.Start()
	}
	if err != nil {
		unix.Close(g.sock)
		g.cmd = nil
		return fmt.Errorf("start guard: %w", err)
	}
	if err := g.greet(); err != nil {
		g.end()
		return fmt.Errorf("start guard: %w", err)
	}
	return nil
}

// greet finds out whether the guard is there, and hands it the record.
func (g *Guard) greet() error {
	if err := g.ask(guardHello, 0, nil); err != nil || g.record == nil {
		return err
	}
	return g.ask(guardRecord, 0, unix.UnixRights(int(g.record.file.Fd())))
}

// keepRecord gives this guard, and those that replace it, the record.
func (g *Guard) keepRecord(r *record) error {
	g.record = r
	return g.greet()
}

// Close ends the guard and waits for it.
func (g *Guard) Close() error {
	if g.cmd == nil {
		return nil
	}
	unix.Close(g.sock)
	err := g.cmd.Wait()
	g.cmd = nil
	return err
}

// end takes a guard away that is of no use any more. Nothing is frozen when it is called.
func (g *Guard) end() {
	if g.cmd != nil {
		g.cmd.Process.Kill()
		g.Close()
	}
}

// arm hands the guard the mount points that start is about. A guard that has died, or that did not answer, is replaced.
func (g *Guard) arm(fds []int) error {
	if g.cmd == nil {
		if err := g.start(); err != nil {
			return err
		}
	}
	for len(fds) > 0 {
		n := min(len(fds), guardFiles)
		if err := g.ask(guardAdd, 0, unix.UnixRights(fds[:n]...)); err != nil {
			g.end()
			return err
		}
		fds = fds[n:]
	}
	return nil
}

// startClock makes the guard thaw after limit, or when the agent dies, until disarm. The clock runs when it returns nil.
func (g *Guard) startClock(limit time.Duration) error { return g.ask(guardStart, limit, nil) }

// disarm stops the guard's clock. errThawed says that it had run out.
func (g *Guard) disarm() error {
	if g.cmd == nil {
		return nil
	}
	err := g.ask(guardDisarm, 0, nil)
	if err != nil && !errors.Is(err, errThawed) {
		g.end()
	}
	return err
}

// ask sends a request and waits for its answer. It allocates nothing unless it fails.
func (g *Guard) ask(verb byte, limit time.Duration, rights []byte) error {
	g.packet[0] = verb
	binary.LittleEndian.PutUint64(g.packet[1:], uint64(limit))
	if err := unix.Sendmsg(g.sock, g.packet[:], rights, nil, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("ask the guard: %w; it has ended or hangs, and is started anew", err)
	}
	n, err := ignoringEINTR(func() (int, error) { return unix.Read(g.sock, g.packet[:]) })
	switch {
	case err != nil:
		return fmt.Errorf("the guard does not answer: %w; it is started anew", err)
	case n < guardPacket:
		return errors.New("the guard has ended; it is started anew")
	}
	switch g.packet[0] {
	case guardOK:
		return nil
	case guardThawed:
		after := time.Duration(binary.LittleEndian.Uint64(g.packet[1:]))
		return fmt.Errorf("%w (by the guard, %v after it began)", errThawed, after.Round(time.Millisecond))
	}
	return fmt.Errorf("the guard refused %q", verb)
}

func ignoringEINTR(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
