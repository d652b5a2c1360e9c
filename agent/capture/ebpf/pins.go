package ebpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/internal/block"
)

// pinned is one set of map and links, in a folder of bpffs: DISK-ID/GENERATION/{map,done0,done1,done2,issue,requeue}. There
// is one at a time, but for the moment in which a new one replaces an old one.
type pinned struct {
	dir        string
	generation int
	m          *ebpf.Map
	mem        *memory
	links      []link.Link
	head       header
	seen       []flight // room for settle
}

const mapPin = "map"

func donePin(i int) string { return "done" + strconv.Itoa(i) }

const (
	issuePin   = "issue"
	requeuePin = "requeue"
	queuePin   = "queue" // of sets with a header of version 1
)

// pins are the links that a set has.
func (h header) pins() []string {
	var names []string
	for i := range copies {
		names = append(names, donePin(i))
	}
	switch {
	case h.Flights == 0:
		return names
	case h.Table.entries() == 0:
		return append(names, queuePin)
	}
	return append(names, issuePin, requeuePin)
}

// mountBPF makes the folder for pins, on a bpffs that it mounts if there is none.
func mountBPF(root string) error {
	const bpffs = "/sys/fs/bpf"
	var st unix.Statfs_t
	if err := unix.Statfs(bpffs, &st); err == nil && st.Type != unix.BPF_FS_MAGIC {
		if err := unix.Mount("bpf", bpffs, "bpf", 0, "mode=0700"); err != nil {
			return fmt.Errorf("mount bpffs on %s, where tracking outlives the agent: %w", bpffs, err)
		}
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return fmt.Errorf("make folder for pins: %w", err)
	}
	return nil
}

// newMap makes the array.
func newMap(l layout) (*ebpf.Map, error) {
	return ebpf.NewMap(&ebpf.MapSpec{
		Name: "understudy", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: uint32(l.words), Flags: unix.BPF_F_MMAPABLE,
	})
}

func mapMemory(m *ebpf.Map, l layout) (*memory, error) {
	raw, err := unix.Mmap(m.FD(), 0, l.words*8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the tracker's memory: %w", err)
	}
	return newMemory(l, raw), nil
}

// newSet makes, attaches and pins a set. It tracks from when newSet returns, and is not to be resumed until ready.
func newSet(root string, generation int, h header) (*pinned, error) {
	p := &pinned{dir: filepath.Join(root, strconv.Itoa(generation)), generation: generation, head: h}
	if err := p.build(); err != nil {
		p.drop()
		return nil, fmt.Errorf("attach tracker: %w", err)
	}
	return p, nil
}

func (p *pinned) build() error {
	l := p.head.layout()
	var err error
	if p.m, err = newMap(l); err != nil {
		return fmt.Errorf("make map of %d words: %w", l.words, err)
	}
	if p.mem, err = mapMemory(p.m, l); err != nil {
		return err
	}
	p.seen = make([]flight, 0, l.entries)
	p.mem.store(p.head)
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return err
	}
	if err := p.m.Pin(filepath.Join(p.dir, mapPin)); err != nil {
		return fmt.Errorf("pin map: %w", err)
	}
	for i := range copies {
		t, err := p.target(i)
		if err != nil {
			return err
		}
		if err := p.attach(t.completion(), donePin(i)); err != nil {
			return err
		}
	}
	return nil
}

func (p *pinned) target(copyIndex int) (target, error) {
	f, err := readFields()
	bs := block.BlockSize(p.head.BlockSize)
	t := target{
		fields: f, major: int64(p.head.Major), minor: int64(p.head.Minor), start: int64(p.head.Start),
		sectors: int64(p.head.Size / 512), layout: p.mem.layout, table: p.head.Table, copyIndex: copyIndex, mapFD: p.m.FD(),
	}
	for 512<<t.shift < int64(bs) {
		t.shift++
	}
	return t, err
}

// attach loads a program, attaches it, and pins the link, which holds the program.
func (p *pinned) attach(spec *ebpf.ProgramSpec, pin string) error {
	prog, err := ebpf.NewProgram(spec)
	if err != nil {
		return fmt.Errorf("load program: %w", err)
	}
	defer prog.Close()
	l, err := link.AttachTracing(link.TracingOptions{Program: prog})
	if err != nil {
		return fmt.Errorf("attach to %s: %w", spec.AttachTo, err)
	}
	p.links = append(p.links, l)
	if err := l.Pin(filepath.Join(p.dir, pin)); err != nil {
		return fmt.Errorf("pin link: %w", err)
	}
	return nil
}

// attachFlights begins to keep the table of writes in flight, and remembers it. Nothing is entered before what takes entries
// out again is there.
func (p *pinned) attachFlights() error {
	t, err := p.target(flightCopy)
	if err != nil {
		return err
	}
	if err := p.attach(t.requeue(), requeuePin); err != nil {
		return err
	}
	if err := p.attach(t.issue(), issuePin); err != nil {
		n := len(p.links) - 1
		os.Remove(filepath.Join(p.dir, requeuePin))
		p.links[n].Close()
		p.links = p.links[:n]
		return err
	}
	p.head.Flights = 1
	p.mem.store(p.head)
	return nil
}

// takeOver adds the bits of an older set, whose granularity and size may differ.
func (p *pinned) takeOver(old *pinned) {
	from, to := block.BlockSize(old.head.BlockSize), block.BlockSize(p.head.BlockSize)
	size := block.Size(old.head.Size)
	bits := block.NewBitmap(old.mem.blocks)
	copy(bits.Words(), old.mem.pendingWords())
	old.seen = old.mem.inFlight(old.seen)
	for _, e := range old.seen {
		old.markFlight(e)
	}
	add := func(w int, marks uint64) { bits.Words()[w] |= marks }
	for w := range block.WordsFor(old.mem.blocks) { // the old set is dropped whole: its marks are read, not cleared
		add(w, atomic.LoadUint64(&old.mem.words[old.mem.marks+w]))
		if atomic.LoadUint64(&old.mem.words[old.mem.coarse+w/64])&(1<<uint(w%64)) != 0 {
			add(w, old.mem.wholeWord(w))
		}
	}
	pending := block.BitmapOver(p.mem.pendingWords(), p.mem.blocks)
	for run := range bits.Runs() {
		pending.Set(run.Range(from, size).Covering(to))
	}
	if old.head.Flights == 1 && p.head.Flights == 0 && p.attachFlights() != nil {
		p.head.Missed = 1 // without it the audit can't be believed here
	}
}

// ready sets the audit's baseline and makes the set the one to resume from.
func (p *pinned) ready(s *statistics) error {
	if err := p.rebase(s); err != nil {
		return err
	}
	p.head.Ready = 1
	p.mem.store(p.head)
	return nil
}

// loadSets opens what an earlier agent pinned in dir, oldest first. What can't be opened is dropped.
func loadSets(dir string) ([]*pinned, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var sets []*pinned
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p := &pinned{dir: filepath.Join(dir, e.Name()), generation: n}
		if p.open() != nil {
			p.drop()
			continue
		}
		sets = append(sets, p)
	}
	slices.SortFunc(sets, func(a, b *pinned) int { return a.generation - b.generation })
	return sets, nil
}

func (p *pinned) open() error {
	var err error
	if p.m, err = ebpf.LoadPinnedMap(filepath.Join(p.dir, mapPin), nil); err != nil {
		return err
	}
	head, err := mapMemory(p.m, layout{words: pageWords})
	if err != nil {
		return err
	}
	h, ok := head.readHeader()
	unix.Munmap(head.raw)
	if !ok {
		return errors.New("no header")
	}
	l := h.layout()
	if int(p.m.MaxEntries()) != l.words {
		return errors.New("the map has another size than its header says")
	}
	p.head = h
	if p.mem, err = mapMemory(p.m, l); err != nil {
		return err
	}
	p.seen = make([]flight, 0, l.entries)
	for _, pin := range h.pins() {
		if err := p.openLink(pin); err != nil {
			return nil // whole tells
		}
	}
	return nil
}

func (p *pinned) openLink(pin string) error {
	l, err := link.LoadPinnedLink(filepath.Join(p.dir, pin), nil)
	if err == nil {
		p.links = append(p.links, l)
	}
	return err
}

// whole tells whether every program is still attached.
func (p *pinned) whole() bool { return len(p.links) == len(p.head.pins()) }

// fits tells whether the set can go on as the one that h describes.
func (p *pinned) fits(h header) bool {
	return p.head.Ready == 1 && p.head.Size == h.Size && p.head.BlockSize == h.BlockSize && p.head.Table == h.Table && p.whole()
}

// close lets go of the set, which goes on marking.
func (p *pinned) close() error {
	var err error
	for _, l := range p.links {
		err = errors.Join(err, l.Close())
	}
	p.links = nil
	if p.mem != nil {
		err = errors.Join(err, unix.Munmap(p.mem.raw))
		p.mem = nil
	}
	if p.m != nil {
		err = errors.Join(err, p.m.Close())
		p.m = nil
	}
	return err
}

// drop ends tracking by this set. Links go first: a set without its map would be taken for damaged, one without its links
// for one that has missed writes.
func (p *pinned) drop() {
	pins, _ := filepath.Glob(filepath.Join(p.dir, "*"))
	for _, pin := range pins {
		if filepath.Base(pin) != mapPin {
			os.Remove(pin)
		}
	}
	os.Remove(filepath.Join(p.dir, mapPin))
	p.close()
	os.Remove(p.dir)
}

func closeAll(sets []*pinned) {
	for _, p := range sets {
		p.close()
	}
}

// Pinned are the disks that have pins under pinRoot ("": the default).
func Pinned(pinRoot string) ([]block.DiskID, error) {
	if pinRoot == "" {
		pinRoot = defaultPinRoot
	}
	entries, err := os.ReadDir(pinRoot)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var ids []block.DiskID
	for _, e := range entries {
		if id, err := block.ParseDiskID(e.Name()); err == nil {
			ids = append(ids, id)
		}
	}
	return ids, err
}

// RemovePins ends the tracking of a disk that no agent holds.
func RemovePins(pinRoot string, id block.DiskID) error {
	if pinRoot == "" {
		pinRoot = defaultPinRoot
	}
	t := &Tracker{opt: Options{Device: id.String(), PinRoot: pinRoot}, dir: filepath.Join(pinRoot, id.String())}
	if err := t.acquire(); err != nil {
		return err
	}
	defer t.lock.Close()
	sets, err := loadSets(t.dir)
	for _, p := range sets {
		p.drop()
	}
	return errors.Join(err, t.removeDir())
}
