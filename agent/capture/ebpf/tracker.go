package ebpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/internal/block"
)

// Flights says whether writes in flight are kept in a table, besides being marked when they complete.
type Flights string

// The choices. It costs a few per cent at high depth, and is needed where the kernel withholds completion events.
const (
	FlightsAuto Flights = "auto" // on once an audit has fallen short; the default
	FlightsOn   Flights = "on"
	FlightsOff  Flights = "off"
)

// Options say what to track and where to pin it.
type Options struct {
	Device    string          // whole disk, partition or loop device
	Disk      block.DiskID    // names the pins
	BlockSize block.BlockSize // 0: 4096, coarser until one bitmap fits MaxBitmap
	MaxBitmap block.Size      // 0: 16 MiB
	PinRoot   string          // "": /sys/fs/bpf/understudy
	Flights   Flights         // "": auto
}

const defaultPinRoot = "/sys/fs/bpf/understudy"

// Tracker implements capture.Tracker. Its programs and its memory are pinned: they outlive it.
type Tracker struct {
	opt    Options
	dev    device
	dir    string // of the pins
	lock   *os.File
	set    *pinned
	stats  *statistics
	resume bool
	told   bool // the last Audit reported a miss

	auditing sync.Mutex // guards stats, what is made of them, and the header: Take and Audit may run at once
	least    offsets    // of all readings since the last audit
	observed bool       // there was one

	mu      sync.Mutex // guards what Status reads
	flights bool
	closed  bool
}

func (o Options) withDefaults(size block.Size) (Options, error) {
	if o.PinRoot == "" {
		o.PinRoot = defaultPinRoot
	}
	if o.MaxBitmap == 0 {
		o.MaxBitmap = 16 * block.MiB
	}
	if o.Flights == "" {
		o.Flights = FlightsAuto
	}
	if o.BlockSize == 0 {
		o.BlockSize = block.DefaultBlockSize
		for block.Size(o.BlockSize.Count(size)) > 8*o.MaxBitmap && o.BlockSize < 64<<20 {
			o.BlockSize *= 2
		}
	}
	return o, o.BlockSize.Check()
}

// Attach begins to track, or takes over what an earlier agent left.
func Attach(opt Options) (*Tracker, error) {
	dev, err := lookAt(opt.Device)
	if err != nil {
		return nil, err
	}
	if opt, err = opt.withDefaults(dev.size); err != nil {
		return nil, err
	}
	if err := mountBPF(opt.PinRoot); err != nil {
		return nil, err
	}
	t := &Tracker{opt: opt, dev: dev, dir: filepath.Join(opt.PinRoot, opt.Disk.String())}
	if err := t.makeDir(); err != nil {
		return nil, fmt.Errorf("make folder for pins: %w", err)
	}
	if err := t.acquire(); err != nil {
		return nil, err
	}
	if t.stats, err = openStatistics(dev); err != nil {
		t.lock.Close()
		return nil, err
	}
	if err := t.adopt(); err != nil {
		t.stats.close()
		t.lock.Close()
		if why := Probe(); why != nil {
			return nil, why // says it in a sentence
		}
		return nil, err
	}
	return t, nil
}

// makeDir makes the folder for the pins. Whoever removes the last disk takes the root away too, maybe just as it was found.
func (t *Tracker) makeDir() (err error) {
	for range 10 {
		if err = os.MkdirAll(t.dir, 0o700); !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return err
}

// removeDir removes the emptied folder, and the root if this was the last disk.
func (t *Tracker) removeDir() error {
	err := os.Remove(t.dir)
	_ = os.Remove(t.opt.PinRoot) // fails while other disks are tracked
	return err
}

// acquire holds the disk for this process.
func (t *Tracker) acquire() error {
	f, err := os.Open(t.dir)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return fmt.Errorf("%s is %w: stop it first", t.opt.Device, capture.ErrInUse)
	}
	t.lock = f
	return nil
}

// adopt takes over the newest set of pins that is of this device, or makes one. Where the size or granularity differs, the
// new set is attached before the old one is read and dropped: no write falls between them.
func (t *Tracker) adopt() error {
	olds, err := loadSets(t.dir)
	if err != nil {
		return err
	}
	h := t.dev.identity(t.opt.BlockSize)
	var mine []*pinned
	for _, p := range olds {
		if !t.dev.same(p.head) {
			p.drop() // another boot or another disk: what it holds means nothing now
			continue
		}
		if p.head.Size > h.Size {
			closeAll(olds)
			return fmt.Errorf("%s: %w: it has %v, tracked are %v", t.opt.Device, capture.ErrShrunk, t.dev.size, block.Size(p.head.Size))
		}
		mine = append(mine, p)
	}
	if len(mine) == 1 && mine[0].fits(h) {
		t.set, t.resume = mine[0], true
	} else if err := t.replace(mine, h); err != nil {
		closeAll(mine)
		return err
	}
	t.flights = t.set.head.Flights == 1
	if t.opt.Flights == FlightsOn {
		return t.keepFlights()
	}
	return nil
}

// replace makes a new set, takes over the bits of the old ones, and drops those.
func (t *Tracker) replace(olds []*pinned, h header) error {
	generation := 0
	for _, p := range olds {
		generation = max(generation, p.generation+1)
	}
	set, err := newSet(t.dir, generation, h)
	if err != nil {
		return err
	}
	for _, p := range olds {
		if p.head.Ready != 1 {
			continue
		}
		t.resume = p.whole()
		copy(set.mem.note(), p.mem.note())
		set.takeOver(p)
	}
	if err := set.ready(t.stats); err != nil {
		set.drop()
		return err
	}
	for _, p := range olds {
		p.drop()
	}
	t.set = set
	return nil
}

// Geometry implements capture.Tracker.
func (t *Tracker) Geometry() (block.BlockSize, block.Count) {
	return t.opt.BlockSize, t.set.mem.blocks
}

// Take implements capture.Tracker. It hands over what is in flight too, where there is a table of that.
func (t *Tracker) Take(sink func(word int, marks uint64)) error {
	t.auditing.Lock()
	t.set.settle(t.stats)
	t.observe()
	t.auditing.Unlock()
	t.set.mem.take(sink)
	return nil
}

// Keep implements capture.Tracker.
func (t *Tracker) Keep() capture.Keep {
	return capture.Keep{Pending: t.set.mem.pendingWords(), Note: t.set.mem.note(), Resumed: t.resume}
}

// Status implements capture.Tracker.
func (t *Tracker) Status() capture.Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := capture.Status{
		Kind: "ebpf", Device: "/dev/" + t.dev.name, Granularity: t.opt.BlockSize,
		Detail: fmt.Sprintf("writes of %s are marked when they complete, %d copies of the program", t.dev.name, copies),
	}
	if t.flights {
		s.Detail += "; writes in flight are kept in a table, since this kernel does not tell of every completion"
	}
	if t.closed {
		return s
	}
	s.Counters = map[string]uint64{}
	for c := range copies {
		sectors := t.set.mem.load(c, counterSectors)
		s.Counters[fmt.Sprintf("copy%d_sectors", c)] = sectors
		s.Marked = max(s.Marked, block.Size(sectors)*512)
	}
	s.Counters["found_sectors"] = t.set.mem.load(flightCopy, counterFound)
	return s
}

// keepFlights attaches the programs that keep the table of writes in flight.
func (t *Tracker) keepFlights() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.flights {
		return nil
	}
	if err := t.set.attachFlights(); err != nil {
		return err
	}
	t.flights = true
	return nil
}

// Close implements capture.Tracker.
func (t *Tracker) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.closed = true
	t.stats.close()
	return errors.Join(t.set.close(), t.lock.Close())
}

// Remove implements capture.Tracker.
func (t *Tracker) Remove() error {
	t.mu.Lock()
	t.set.drop()
	t.stats.close()
	t.closed = true
	t.mu.Unlock()
	return errors.Join(t.removeDir(), t.lock.Close())
}
