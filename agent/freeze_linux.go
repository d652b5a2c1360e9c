package agent

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Requests of linux/fs.h.
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// errThawed: somebody thawed a file system that this freeze held: the guard, because it took too long, or an operator.
var errThawed = errors.New("a file system was thawed from outside while it was frozen")

// errLate: the freeze took longer than its limit.
var errLate = errors.New("the freeze took longer than its limit")

// deviceNumber is the major:minor of a block device node, "" if path is none.
func deviceNumber(path string) string {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return ""
	}
	return numberOf(st.Rdev)
}

func numberOf(dev uint64) string { return fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)) }

// freezer freezes a set of mounted file systems together and thaws them, under the eye of a guard.
//
// An inner file system, which lives in a file of an outer one, comes before it in the list: it is frozen first, since the
// write-back that a freeze begins with must get through, and thawed last. Those of one depth are frozen side by side: most of
// a freeze is waiting for all processors to have seen it, some 10 ms, and they may as well wait for all at once.
type freezer struct {
	guard  *Guard
	limit  time.Duration // when the guard thaws
	grace  *grace        // nil: the kernel takes its time
	record *record       // of what is frozen; may be nil
	since  *atomic.Int64 // when the freeze under way began, in ns since 1970; 0: there is none. May be nil
	thaws  *atomic.Int64 // counts the freezes that the guard ended; may be nil

	// Open only around a freeze, so that they can be unmounted between points.
	fds     []int // of what is frozen, in this order; the same indexes as paths and threads
	paths   []string
	threads []*freezeThread
	loose   []int // of what can't be frozen: it is written back with the others
	began   time.Time
	busy    sync.WaitGroup // threads that freeze
}

// freezeThread freezes one file system when it is told to: it is there before, on a thread of its own.
type freezeThread struct {
	depth int
	todo  chan int // files
	hold  *hold    // its place in the record; may be nil
	err   error    // of the last freeze
	held  bool     // it is frozen by us
}

func (t *freezeThread) run(ready chan<- struct{}, busy *sync.WaitGroup) {
	urgent() // to the goroutine's end
	ready <- struct{}{}
	for fd := range t.todo {
		t.hold.set(holdFreezing)
		t.err = unix.IoctlSetInt(fd, fiFreeze, 0)
		if t.held = t.err == nil; t.held {
			t.hold.frozen()
		} else {
			t.hold.set(holdNone)
		}
		busy.Done()
	}
}

// prepare opens the mount points and hands them to the guard. release undoes it.
func (f *freezer) prepare(mounts []Mount) error {
	var listed []Mount
	for _, m := range mounts {
		fd, err := m.open()
		if err != nil {
			f.release()
			return err
		}
		if !m.Freezable() {
			f.loose = append(f.loose, fd)
			continue
		}
		t := &freezeThread{depth: m.depth, todo: make(chan int, 1), hold: f.record.hold(len(f.fds))}
		listed = append(listed, m)
		ready := make(chan struct{})
		go t.run(ready, &f.busy)
		<-ready
		f.fds, f.paths, f.threads = append(f.fds, fd), append(f.paths, m.Path), append(f.threads, t)
	}
	if err := errors.Join(f.record.list(listed), f.guard.arm(f.fds)); err != nil {
		f.release()
		return err
	}
	return nil
}

// sync writes back what the file systems hold, so that the freeze itself has little to do.
func (f *freezer) sync() error {
	for i, fd := range f.fds {
		if err := unix.Syncfs(fd); err != nil {
			return fmt.Errorf("sync file system at %s: %w", f.paths[i], err)
		}
	}
	for _, fd := range f.loose {
		if err := unix.Syncfs(fd); err != nil {
			return fmt.Errorf("sync file system: %w", err)
		}
	}
	return nil
}

// freeze stops all writes. On an error nothing is left frozen. It allocates nothing unless it fails.
func (f *freezer) freeze() error {
	f.began = time.Now()
	if len(f.fds) == 0 {
		return nil
	}
	if err := f.guard.startClock(f.limit); err != nil {
		return err
	}
	if f.since != nil {
		f.since.Store(f.began.UnixNano())
	}
	for first := 0; first < len(f.fds); {
		if f.late() { // the guard has thawed those before: one more frozen now would stay so for longer than it may
			f.thaw()
			return errLate
		}
		end := first
		for end < len(f.fds) && f.threads[end].depth == f.threads[first].depth {
			f.busy.Add(1)
			f.threads[end].todo <- f.fds[end]
			end++
		}
		f.busy.Wait()
		if err := f.failed(first, end); err != nil {
			f.thaw()
			return err
		}
		first = end
	}
	return nil
}

// failed is why one of these was not frozen, if so.
func (f *freezer) failed(first, end int) error {
	for i := first; i < end; i++ {
		switch err := f.threads[i].err; {
		case errors.Is(err, unix.EBUSY):
			return fmt.Errorf("freeze file system at %s: somebody else holds it frozen (fsfreeze, a snapshot, a backup)", f.paths[i])
		case err != nil:
			return fmt.Errorf("freeze file system at %s: %w", f.paths[i], err)
		}
	}
	return nil
}

// late tells whether the guard's time is up. Where nothing is frozen there is none.
func (f *freezer) late() bool { return len(f.fds) > 0 && time.Since(f.began) > f.limit }

// thaw lets writes go on. errThawed says that they went on before.
func (f *freezer) thaw() error {
	var err error
	for i, t := range slices.Backward(f.threads) {
		if !t.held {
			continue
		}
		t.held = false
		e := unix.IoctlSetInt(f.fds[i], fiThaw, 0)
		if e == nil || errors.Is(e, unix.EINVAL) {
			t.hold.set(holdNone)
		}
		switch {
		case errors.Is(e, unix.EINVAL):
			err = errThawed
		case e != nil:
			err = e
		}
	}
	if f.since != nil {
		f.since.Store(0)
	}
	if errors.Is(err, errThawed) && f.late() {
		return errLate
	}
	return err
}

// release disarms the guard and closes the mount points.
func (f *freezer) release() {
	if len(f.fds) > 0 {
		err := f.guard.disarm() // thaw has told whether the freeze held
		if errors.Is(err, errThawed) && f.thaws != nil {
			f.thaws.Add(1)
		}
	}
	for _, t := range f.threads {
		close(t.todo)
	}
	for _, fds := range [][]int{f.fds, f.loose} {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
	f.fds, f.paths, f.threads, f.loose = f.fds[:0], f.paths[:0], f.threads[:0], f.loose[:0]
}
