package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What the guard's process does, and why it can while the disk under everything is frozen:
//
//   - Its pages are locked before anything is frozen, those of its program included; it opens no file and starts no thread
//     while a clock runs, its garbage collector rests, and it has thawed once, nothing, to have been through all that code and
//     memory. So it needs no disk and no memory.
//   - A kernel that is out of memory passes it by, or takes the agent first; its threads go before all ordinary ones where the host allows it, and no
//     polite signal ends it: it ends with the agent.
//   - Each file system has a thread of its own to thaw it. A thaw waits for a freeze that is still under way, and an inner
//     file system (in a file of another one) for the outer: none of them may hold up the next.
//   - It is asked nothing that could make it wait: the agent passes open files.

// RunGuard is the guard's main: it serves the agent at the other end of conn until that is closed.
func RunGuard(conn *os.File) error {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
	if err := lockPages(); err != nil {
		return err
	}
	if setOOMScore(-1000) != nil && ownOOMScore() > 0 {
		_ = setOOMScore(0) // without CAP_SYS_RESOURCE: still less than the agent has, see lockMemory
	}
	debug.SetGCPercent(-1) // see disarm
	runtime.LockOSThread()
	hurry()
	s := &guardState{sock: int(conn.Fd()), grace: openGrace(graceFile)}
	s.grace.adopt()
	s.rehearse()
	return s.serve()
}

// rehearse thaws nothing: what it takes is then in memory, locked.
func (s *guardState) rehearse() {
	s.grow()
	s.thawers[0].fd, s.used, s.began = -1, 1, time.Now()
	s.late()
	s.wait()
	s.used = 0
}

// hurry puts the calling thread before all ordinary ones: a host whose processors are all busy thaws in time too.
func hurry() {
	err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0)
	if err != nil {
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, -20) // not allowed either: then it waits its turn
	}
}

// guardState is what the guard may have to thaw. Its thread alone uses it; the thawers answer over results.
//
//	idle ──add──▶ armed ──start──▶ running ──limit──▶ late: thaw, and thaw again, until disarm
//	  ▲             │                 │                 │
//	  └───────────disarm──────────────┴─────────────────┘      the end of the socket while running or late: thaw, and end
type guardState struct {
	sock    int
	grace   *grace  // as it was when nothing was frozen yet
	record  *record // nil: there is none
	thawers []*thawer
	used    int // thawers[:used] hold a file
	results chan thawResult

	running bool
	began   time.Time
	limit   time.Duration
	next    time.Duration // since began: when to thaw next
	again   time.Duration // from then to the next time
	thawed  int           // file systems that were frozen when they were thawed
	took    time.Duration // since began, until the last of them was
	said    bool
	rounds  int
}

type thawResult struct {
	who  *thawer
	done bool // it was frozen, and is not any more
	at   time.Time
}

// thawer is a thread that thaws one file system when it is told to.
type thawer struct {
	fd      int
	hold    *hold // its place in the record; may be nil
	busy    bool
	todo    chan int
	results chan<- thawResult
}

// run is a thread from the start, not from the moment it is needed.
func (t *thawer) run(ready chan<- struct{}) {
	runtime.LockOSThread()
	hurry()
	ready <- struct{}{}
	for fd := range t.todo {
		err := unix.IoctlSetInt(fd, fiThaw, 0) // EINVAL: it is not frozen
		if err == nil {
			t.hold.set(holdNone)
		}
		t.results <- thawResult{t, err == nil, time.Now()}
	}
}

const (
	// thawAgain is from the first thaw to the next: an agent that was slow in the middle of freezing may freeze one more.
	thawAgain = 10 * time.Millisecond
	// thawSeldom is what it grows to under an agent that hangs.
	thawSeldom = 100 * time.Millisecond
	// guardCollects is after how many rounds the guard collects its garbage, some hundred bytes each.
	guardCollects = 64
)

// serve answers requests, and thaws when it is time to.
func (s *guardState) serve() error {
	poll := []unix.PollFd{{Fd: int32(s.sock), Events: unix.POLLIN}}
	for {
		s.drain()
		var timeout *unix.Timespec
		if s.running {
			left := unix.NsecToTimespec(int64(max(0, s.next-time.Since(s.began))))
			timeout = &left
		}
		n, err := unix.Ppoll(poll, timeout, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return s.orphaned(fmt.Errorf("wait for the agent: %w", err))
		case n > 0:
			if over, err := s.request(); over || err != nil {
				return s.orphaned(err)
			}
		case s.running:
			s.late()
		}
	}
}

// request reads one packet and answers it. over says that the agent is gone.
func (s *guardState) request() (over bool, err error) {
	var packet [guardPacket]byte
	rights := make([]byte, unix.CmsgSpace(4*guardFiles))
	n, oobn, _, _, err := unix.Recvmsg(s.sock, packet[:], rights, unix.MSG_CMSG_CLOEXEC)
	if err != nil || n == 0 {
		if errors.Is(err, unix.ECONNRESET) {
			err = nil
		}
		return true, err
	}
	answer := byte(guardRefuse)
	if n == guardPacket {
		answer = s.do(packet[0], time.Duration(binary.LittleEndian.Uint64(packet[1:])), rights[:oobn])
	}
	packet[0] = answer
	binary.LittleEndian.PutUint64(packet[1:], uint64(s.took))
	err = unix.Sendmsg(s.sock, packet[:], nil, nil, unix.MSG_NOSIGNAL)
	return err != nil, nil // it died before it read the answer
}

func (s *guardState) do(verb byte, limit time.Duration, rights []byte) (answer byte) {
	switch {
	case verb == guardHello:
		return guardOK
	case verb == guardRecord && s.record == nil && s.used == 0:
		return s.keepRecord(rights)
	case verb == guardAdd && !s.running:
		return s.add(rights)
	case verb == guardStart && !s.running && limit > 0:
		s.running, s.said = true, false
		s.began, s.limit, s.next, s.again = time.Now(), limit, limit, thawAgain
		s.thawed, s.took = 0, 0
		return guardOK
	case verb == guardDisarm:
		return s.disarm()
	}
	return guardRefuse
}

// keepRecord maps the record, whose file comes with the request.
func (s *guardState) keepRecord(rights []byte) (answer byte) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		return guardRefuse
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return guardRefuse
	}
	if s.record, err = mapRecord(os.NewFile(uintptr(fds[0]), "record")); err != nil {
		return guardRefuse
	}
	s.grace.mark = s.record.word(recordGrace)
	return guardOK
}

// add takes over files, and sees to it that each has its thawer.
func (s *guardState) add(rights []byte) (answer byte) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return guardRefuse
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return guardRefuse
		}
		for _, fd := range fds {
			if s.used == len(s.thawers) {
				s.grow()
			}
			s.thawers[s.used].fd, s.thawers[s.used].hold = fd, s.record.hold(s.used)
			s.used++
		}
	}
	return guardOK
}

// grow starts one more thawer. All results fit their channel, so that no thawer ever waits for this thread.
func (s *guardState) grow() {
	s.results = make(chan thawResult, len(s.thawers)+1)
	t := &thawer{todo: make(chan int, 1)}
	s.thawers = append(s.thawers, t)
	for _, t := range s.thawers {
		t.results = s.results
	}
	ready := make(chan struct{})
	go t.run(ready)
	<-ready
}

// late thaws everything, and comes again.
func (s *guardState) late() {
	s.thaw()
	s.next = time.Since(s.began) + s.again
	s.again = min(2*s.again, thawSeldom)
}

// thaw makes all thawers thaw, but those that are still at it.
func (s *guardState) thaw() {
	for _, t := range s.thawers[:s.used] {
		if !t.busy {
			t.busy = true
			t.todo <- t.fd
		}
	}
}

// drain notes what the thawers have done. It waits for none.
func (s *guardState) drain() {
	for {
		select {
		case r := <-s.results:
			s.note(r)
		default:
			s.say("the agent holds its file systems frozen for too long")
			return
		}
	}
}

func (s *guardState) note(r thawResult) {
	r.who.busy = false
	if r.done {
		s.thawed++
		s.took = r.at.Sub(s.began)
	}
}

// say tells the operator that the guard had to act, once a freeze, and only when nothing is frozen any more: the line may go to
// a file on the disk.
func (s *guardState) say(why string) {
	for _, t := range s.thawers[:s.used] {
		if t.busy {
			return
		}
	}
	if s.thawed > 0 && !s.said {
		s.said = true
		fmt.Fprintf(os.Stderr, "understudy guard: %s: thawed %d, %.1f ms after the freeze began (limit %.1f ms)\n",
			why, s.thawed, float64(s.took)/1e6, float64(s.limit)/1e6)
	}
}

// disarm waits for the thawers, which end soon: the agent holds nothing frozen any more.
func (s *guardState) disarm() (answer byte) {
	s.wait()
	s.drain()
	answer = guardOK
	if s.thawed > 0 {
		answer = guardThawed
	}
	for _, t := range s.thawers[:s.used] {
		unix.Close(t.fd)
	}
	s.used, s.running, s.thawed = 0, false, 0
	if s.rounds++; s.rounds%guardCollects == 0 {
		runtime.GC()
	}
	return answer
}

func (s *guardState) wait() {
	for _, t := range s.thawers[:s.used] {
		for t.busy {
			s.note(<-s.results)
		}
	}
}

// orphaned thaws what an agent that is gone has left. All its threads have ended by now, so nothing freezes any more; a thawer
// that is under way may have come before the last freeze, so all thaw once more after it.
func (s *guardState) orphaned(err error) error {
	if s.running {
		for range 2 {
			s.thaw()
			s.wait()
		}
		s.say("the agent is gone")
	}
	if s.used > 0 { // armed: the agent may have set it
		s.grace.rest()
	}
	return err
}
