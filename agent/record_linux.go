package agent

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The record says what the agent holds frozen, for whoever comes after an agent that was killed together with its guard: the
// service manager (understudy-agent thaw), or the next agent. It is a file in /run, in memory, mapped into agent and guard. What
// may be frozen is listed in it before a freeze; in the frozen section it is written by plain stores to memory that is locked.
// A page that a killed process has written stays.
//
//	0      magic, u32 version
//	16     u64 process id of the agent, u64 its start time (field 22 of proc_pid_stat(5))
//	32     16 bytes: id of the boot
//	48     u32 length of the list
//	52     u32 not 0: the kernel hurries because the agent told it to (grace)
//	56     u32 for each file system of the list: 0 not ours, 1 the agent is freezing it, 2 it froze it
//	16384  the list, as JSON
//
// Numbers are in the byte order of the host: nobody else reads it.
//
// A 1 is thawed too: a thread that is killed in the middle of a freeze ends it first. It is the one doubt that remains. The kernel
// refuses to freeze what somebody else holds frozen, and the agent takes its 1 back; were both processes killed in the
// microseconds in between, the other's freeze would be taken for theirs.
const (
	recordMagic   = "USFROZEN"
	recordVersion = 1

	recordPID    = 16
	recordStart  = 24
	recordBoot   = 32
	recordLength = 48
	recordGrace  = 52
	recordHolds  = 56
	recordList   = 16 << 10

	recordMost     = (recordList - recordHolds) / 4 // file systems
	recordListMost = 1 << 20                        // bytes of a list; one that is longer is none of ours

	holdNone, holdFreezing, holdFrozen = 0, 1, 2
)

// ErrAgentAlive says that the agent of a record lives: what it froze is its own business.
var ErrAgentAlive = errors.New("its agent is running")

// record is nil where there is none; its methods do nothing then.
type record struct {
	file *os.File
	page []byte // the first recordList bytes, mapped
}

// recordedMount is a Mount as the list has it.
type recordedMount struct {
	Path  string   `json:"path"`
	Also  []string `json:"also,omitempty"`
	Shown string   `json:"device"`
}

// openRecord makes the record of this process at path, "" for none. What another one has left there must have been thawed.
func openRecord(path string) (*record, error) {
	if path == "" {
		return nil, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make record of what is frozen: %w", err)
	}
	_ = os.Remove(path) // not truncated: it may be mapped by what is left of another process
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make record of what is frozen: %w", err)
	}
	r, err := mapRecord(file)
	if err != nil {
		file.Close()
		return nil, err
	}
	start, _, err := processState(os.Getpid())
	if err != nil {
		r.close()
		return nil, fmt.Errorf("make record of what is frozen: %w", err)
	}
	binary.NativeEndian.PutUint32(r.page[len(recordMagic):], recordVersion)
	binary.NativeEndian.PutUint64(r.page[recordPID:], uint64(os.Getpid()))
	binary.NativeEndian.PutUint64(r.page[recordStart:], start)
	boot := bootID()
	copy(r.page[recordBoot:recordLength], boot[:])
	copy(r.page, recordMagic) // last: now it is one
	return r, nil
}

// mapRecord maps the head of a file; r has it then.
func mapRecord(file *os.File) (*record, error) {
	info, err := file.Stat()
	if err == nil && info.Size() < recordList {
		err = file.Truncate(recordList)
	}
	if err != nil {
		return nil, fmt.Errorf("size record of what is frozen: %w", err)
	}
	page, err := unix.Mmap(int(file.Fd()), 0, recordList, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map record of what is frozen: %w", err)
	}
	r := &record{file, page}
	for at := 0; at < recordList; at += os.Getpagesize() {
		r.word(at).Load() // it is in memory from now on
	}
	return r, nil
}

// close leaves the file: it says that nothing is frozen.
func (r *record) close() {
	if r != nil {
		_ = unix.Munmap(r.page)
		r.file.Close()
	}
}

// word is a number of the record that both processes may change at any time.
func (r *record) word(at int) *atomic.Uint32 {
	if r == nil {
		return nil
	}
	return (*atomic.Uint32)(unsafe.Pointer(&r.page[at]))
}

// hold is what is known of file system i of the list.
func (r *record) hold(i int) *hold { return (*hold)(r.word(recordHolds + 4*i)) }

// list writes down what the next freeze is about. Nothing is frozen when it is called.
func (r *record) list(mounts []Mount) error {
	if r == nil {
		return nil
	}
	if len(mounts) > recordMost {
		return fmt.Errorf("record what will be frozen: %d file systems, %d at most", len(mounts), recordMost)
	}
	listed := make([]recordedMount, 0, len(mounts))
	for _, m := range mounts {
		listed = append(listed, recordedMount{m.Path, m.also, m.shown})
	}
	text, err := json.Marshal(listed)
	if err == nil && len(text) > recordListMost {
		err = fmt.Errorf("%d bytes of paths, %d at most", len(text), recordListMost)
	}
	if err == nil {
		_, err = r.file.WriteAt(text, recordList)
	}
	if err != nil {
		return fmt.Errorf("record what will be frozen: %w", err)
	}
	r.word(recordLength).Store(uint32(len(text)))
	return nil
}

// hold is the state of one file system in the record. A nil one does nothing.
type hold atomic.Uint32

func (h *hold) set(v uint32) {
	if h != nil {
		(*atomic.Uint32)(h).Store(v)
	}
}

// frozen follows a freeze that succeeded, unless the guard has thawed already.
func (h *hold) frozen() {
	if h != nil {
		(*atomic.Uint32)(h).CompareAndSwap(holdFreezing, holdFrozen)
	}
}

// ThawLeft thaws what an agent that was killed, and its guard with it, has left frozen by its record at path, and tells which
// mount points those were. What somebody else froze stays frozen. No record, or one of an earlier boot, is no error.
// ErrAgentAlive: nothing was done.
func ThawLeft(path string) (thawed []string, err error) {
	r, err := recordLeft(path)
	if r == nil {
		return nil, err
	}
	defer r.close()
	return r.thawLeft()
}

// recordLeft opens the record at path, nil if there is none that counts. The caller closes it.
func recordLeft(path string) (*record, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open record of what is frozen: %w", err)
	}
	r, err := mapRecord(file)
	if err != nil {
		file.Close()
		return nil, err
	}
	if ours, err := r.ofThisBoot(path); !ours || err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// ofThisBoot tells whether the record counts: one of an earlier boot does not, nor one whose agent was killed before it had been made.
func (r *record) ofThisBoot(path string) (bool, error) {
	switch version := binary.NativeEndian.Uint32(r.page[len(recordMagic):]); {
	case string(r.page[:len(recordMagic)]) != recordMagic:
		return false, nil // nothing was frozen then
	case version != recordVersion:
		return false, fmt.Errorf("read record %s: version %d is unknown", path, version)
	}
	boot := bootID()
	return string(boot[:]) == string(r.page[recordBoot:recordLength]), nil
}

// pid is that of the agent.
func (r *record) pid() int { return int(binary.NativeEndian.Uint64(r.page[recordPID:])) }

// thawLeft waits until nothing is left of the agent: a thread of it may hang in a write to what is frozen, or be freezing still,
// and ends only after that. All is thawed once more then.
func (r *record) thawLeft() (thawed []string, err error) {
	pid := r.pid()
	started := binary.NativeEndian.Uint64(r.page[recordStart:])
	for try := 0; ; try++ {
		start, state, err := processState(pid)
		gone := err != nil || start != started
		if !gone && !doomed(pid, state) {
			return thawed, fmt.Errorf("process %d: %w", pid, ErrAgentAlive)
		}
		more, err := r.thawListed()
		thawed = append(thawed, more...)
		if err != nil || gone || try == 100 {
			r.restGrace()
			return thawed, err
		}
		time.Sleep(50 * time.Millisecond) // the end of a process that is not ours is told to nobody but its parent
	}
}

// thawListed thaws, in the reverse order of the freeze.
func (r *record) thawListed() (thawed []string, err error) {
	listed, err := r.listed()
	if err != nil {
		return nil, err
	}
	for i, l := range slices.Backward(listed) {
		h := r.hold(i)
		if (*atomic.Uint32)(h).Load() == holdNone {
			continue
		}
		fd, e := Mount{Path: l.Path, also: l.Also, shown: l.Shown}.open()
		if e != nil {
			err = errors.Join(err, fmt.Errorf("thaw: %w", e))
			continue
		}
		e = unix.IoctlSetInt(fd, fiThaw, 0)
		unix.Close(fd)
		switch {
		case e == nil:
			thawed = append(thawed, l.Path)
			h.set(holdNone)
		case !errors.Is(e, unix.EINVAL): // EINVAL: it is not frozen
			err = errors.Join(err, fmt.Errorf("thaw file system at %s: %w", l.Path, e))
		}
	}
	return thawed, err
}

// listed is what the last freeze was about.
func (r *record) listed() ([]recordedMount, error) {
	length := r.word(recordLength).Load()
	if length == 0 {
		return nil, nil
	}
	if length > recordListMost {
		return nil, fmt.Errorf("read record of what is frozen: a list of %d bytes", length)
	}
	text := make([]byte, length)
	var listed []recordedMount
	_, err := r.file.ReadAt(text, recordList)
	if err == nil {
		err = json.Unmarshal(text, &listed)
	}
	if err != nil {
		return nil, fmt.Errorf("read record of what is frozen: %w", err)
	}
	return listed[:min(len(listed), recordMost)], nil
}

// restGrace has the kernel take its time again, if the agent had it hurry.
func (r *record) restGrace() {
	if r.word(recordGrace).Swap(0) == 0 {
		return
	}
	if raw, err := os.ReadFile(graceFile); err == nil && strings.HasPrefix(string(raw), "1") {
		_ = os.WriteFile(graceFile, []byte("0"), 0)
	}
}

// doomed tells whether a process in that state is dead, or as dead as it gets: its first thread is, or hangs at the frozen disk with
// a SIGKILL that it can't take yet (proc_pid_status(5), SigPnd).
func doomed(pid int, state byte) bool {
	if state == 'Z' || state == 'X' {
		return true
	}
	raw, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	_, rest, _ := strings.Cut(string(raw), "SigPnd:")
	text, _, _ := strings.Cut(rest, "\n")
	pending, err := strconv.ParseUint(strings.TrimSpace(text), 16, 64)
	return err == nil && pending&(1<<(unix.SIGKILL-1)) != 0
}

// processState is when a process began, in clock ticks since the boot, and its state, by proc_pid_stat(5).
func processState(pid int) (start uint64, state byte, err error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	// The second field is in brackets, and may hold anything.
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return start, fields[0][0], err
}
