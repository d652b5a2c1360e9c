package agent

import (
	"sync"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
)

// The frozen section: from the freeze to the thaw, the agent must need nothing that a frozen disk, or a host that is short of
// memory because its writes have stopped, could keep from it. So what runs there
//
//   - writes to no file, and reads none but the protected disks themselves, O_DIRECT, below any file system;
//   - allocates nothing: lists and buffers were made before, and the garbage collector is off, so that no other goroutine's
//     garbage stops the world (TestTheFrozenSectionAllocatesNothing counts);
//   - logs nothing and takes no lock that is held while something is logged;
//   - starts no goroutine and no thread: the readers wait on threads of their own from the start of the session;
//   - touches no page that is not in memory: lockMemory, and arena.warm;
//   - waits for no processor that others use: urgent.
//
// What other goroutines of the agent do meanwhile (answer an operator, log a lost link) may hang until the thaw, and hangs
// alone.

// cutter does the frozen section. One goroutine uses it; stop ends its readers.
type cutter struct {
	freezer *freezer
	members []*upload
	before  []uint64 // marks taken, per member
	busy    []bool   // per member: a write completed between its swap and the last read
	times   cutTimes // of the last cut

	wake    []chan struct{} // one a reader
	reading sync.WaitGroup
	readers sync.WaitGroup
}

const (
	// maxReaders bounds the readers, whose threads take some memory each.
	maxReaders = 32
	// freezeDepth is how many pieces a reader has read at once.
	freezeDepth = 64
	// freezeReads and freezeBytes are the most that a reader takes before it looks at the time again.
	freezeReads = 4 * freezeDepth
	freezeBytes = 8 * block.MiB
)

// freezeReader is what a reader works with.
type freezeReader struct {
	at    int // of all readers
	batch *block.Batch
	reads []block.Read
}

// startCutter starts the readers: one a disk, which keeps that busy by itself. An I/O scheduler that shares a disk out between threads
// has several wait for each other.
func startCutter(f *freezer, disks int) *cutter {
	c := &cutter{freezer: f, before: make([]uint64, disks), busy: make([]bool, disks)}
	for at := range min(disks, maxReaders) {
		wake := make(chan struct{}, 1)
		c.wake = append(c.wake, wake)
		w := &freezeReader{at: at, batch: block.NewBatch(freezeDepth), reads: make([]block.Read, 0, freezeReads)}
		c.readers.Go(func() { c.readWhenWoken(w, wake) })
	}
	return c
}

// stop waits for the readers' end.
func (c *cutter) stop() {
	for _, wake := range c.wake {
		close(wake)
	}
	c.readers.Wait()
}

// cut freezes, swaps, reads, swaps and thaws. The members' busy flags are set when it returns nil.
func (c *cutter) cut(members []*upload) error {
	c.members = members
	defer urgent()()
	return withoutCollector(c.frozen)
}

// frozen is the frozen section.
func (c *cutter) frozen() error {
	start := time.Now()
	err := c.freezer.freeze()
	c.times = cutTimes{freeze: time.Since(start)}
	if err != nil {
		return err
	}
	err = c.readAll()
	c.times.read = time.Since(start) - c.times.freeze
	if e := c.freezer.thaw(); e != nil && err == nil {
		err = e
	}
	c.times.thaw = time.Since(start) - c.times.freeze - c.times.read
	return err
}

// cutTimes are the parts of a cut: until all is frozen, while it is read, until all is thawed.
type cutTimes struct{ freeze, read, thaw time.Duration }

func (t cutTimes) all() time.Duration { return t.freeze + t.read + t.thaw }

// readAll reads what every member lacks, and finds out whether a write completed on any of them from the first swap to the
// last read.
func (c *cutter) readAll() error {
	for i, u := range c.members {
		var err error
		if c.before[i], err = u.disk.set.Take(); err != nil {
			return err
		}
	}
	for _, u := range c.members {
		if err := u.disk.residue.collect(u.disk.pump); err != nil {
			return err
		}
	}
	c.reading.Add(len(c.wake))
	for _, wake := range c.wake {
		wake <- struct{}{}
	}
	c.reading.Wait()
	for i, u := range c.members {
		after, err := u.disk.set.Take()
		if err != nil {
			return err
		}
		if err := u.disk.residue.failed; err != nil {
			return err
		}
		c.busy[i] = after != c.before[i]
	}
	return nil
}

// readWhenWoken reads what is left of its members.
func (c *cutter) readWhenWoken(w *freezeReader, wake <-chan struct{}) {
	urgent() // on a thread that is there already
	defer w.batch.Close()
	for range wake {
		for i := w.at; i < len(c.members); i += len(c.wake) {
			d := c.members[i].disk
			for d.residue.readSome(d.dev, w) {
				if c.freezer.late() {
					d.residue.fail(errLate)
				}
			}
		}
		c.reading.Done()
	}
}

// residueBytes is how much the last cut read.
func (c *cutter) residueBytes() (n block.Size) {
	for _, u := range c.members {
		n += u.disk.residue.used
	}
	return n
}

// timed is how long f took.
func timed(f func() error) (time.Duration, error) {
	start := time.Now()
	err := f()
	return time.Since(start), err
}
