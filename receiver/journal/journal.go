package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
)

// Options are what a Journal works with.
type Options struct {
	FS     FS           // nil: the real one
	Codec  block.Codec  // required
	Volume block.Device // the disk's volume. Only Fold writes it; the Journal does not close it. Without one nothing is folded
}

// Meta is whose journal it is.
type Meta struct {
	Disk       block.DiskID     `json:"disk"`
	Name       string           `json:"name"` // of the device on its host
	Host       string           `json:"host"`
	Size       block.Size       `json:"size_bytes"` // as the source last said; a point's own size is in its delta
	BlockSize  block.BlockSize  `json:"block_size"`
	Generation block.Generation `json:"generation"`
	Created    time.Time        `json:"created"`
}

// Tip is the newest sealed delta.
type Tip struct {
	Seq    block.Seq
	Digest block.Digest
	Size   block.Size // of the disk
}

// Point is a recovery point that can be read.
type Point struct {
	block.Seal
	First  block.Seq  // the oldest delta that was merged into the point's own; Seq where none was
	File   string     // base name of its delta's file; empty where the volume itself stands at the point
	Bytes  block.Size // of that file
	Pinned bool       // kept whatever the policy says
}

// Usage is what a Journal takes.
type Usage struct {
	Bytes  block.Size // of sealed deltas that are not folded
	Count  int        // of them
	Folded block.Seq  // the delta up to which all are in the volume; 0 for none

	FoldedDeltas, MergedDeltas uint64 // that were taken away since it was opened
}

// Journal holds the deltas of one disk. Its methods are safe for concurrent use; one process has it open at a time, which
// the caller sees to.
type Journal struct {
	dir    string
	fs     FS
	codec  block.Codec
	volume block.Device
	files  *fileCache

	metaMu sync.Mutex // serialises SetMeta
	pinsMu sync.Mutex // serialises Pin and Unpin
	foldMu sync.Mutex // serialises Fold and Merge

	mu     sync.Mutex // guards all below; no I/O under it
	meta   Meta
	pos    position
	doubt  block.Seq // a target that failed to be written, and may be on the disk all the same; 0: none
	deltas []*delta  // sealed and not folded, oldest first, without a gap from pos.Seq
	loose  bool      // the removal of a merged delta that failed to get its name may not be durable: see settle
	pins   map[block.Seq]bool
	going  span          // what a merge is about to put in the place of several: only its last can be pinned
	views  map[*View]int // open ones
	writer *Writer
	buffer []byte // the writer's; kept for the next one
	folded uint64 // deltas, since it was opened
	merged uint64 // the same
	damage error  // why there is nothing after the last of deltas
	broken error  // why nothing more may be written
	closed bool
}

// position is how far the volume is: it stands at Seq, or, while Target is larger, somewhere on the way from Seq to Target.
type position struct {
	Seq        block.Seq        `json:"seq"`
	Target     block.Seq        `json:"target"`
	Size       block.Size       `json:"size_bytes"` // of the disk at Seq
	Generation block.Generation `json:"generation"` // of the delta Seq
	Seal       *block.Seal      `json:"seal"`       // of the delta Seq; none when Seq is 0
}

func (p position) digest() block.Digest {
	if p.Seal == nil {
		return block.Digest{}
	}
	return p.Seal.Digest
}

// check holds what was read from a file of that name against the rules.
func (p position) check(file string) error {
	if p.Target < p.Seq || p.Size < 0 || (p.Seal == nil) != (p.Seq == 0) || p.Seal != nil && p.Seal.Seq != p.Seq {
		err := fmt.Errorf("position %v, target %v: %w", p.Seq, p.Target, block.ErrMalformed)
		return &block.CorruptionError{File: file, Err: err}
	}
	return nil
}

func newJournal(dir string, o Options) (*Journal, error) {
	if o.Codec == nil {
		return nil, errors.New("a journal needs a codec")
	}
	if o.FS == nil {
		o.FS = OS{}
	}
	j := &Journal{dir: dir, fs: o.FS, codec: o.Codec, volume: o.Volume, views: map[*View]int{}, pins: map[block.Seq]bool{}}
	j.files = newFileCache(o.FS)
	return j, nil
}

// Create makes a journal in dir, and dir if it is not there. It fails with ErrExists if there is one.
func Create(dir string, m Meta, o Options) (*Journal, error) {
	j, err := newJournal(dir, o)
	if err != nil {
		return nil, err
	}
	if err := m.BlockSize.Check(); err != nil {
		return nil, fmt.Errorf("create journal: %w", err)
	}
	if err := j.fs.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("create journal: %w", err)
	}
	names, err := j.fs.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("create journal: %w", err)
	}
	if slices.Contains(names, metaName) {
		return nil, fmt.Errorf("create journal in %s: %w", dir, ErrExists)
	}
	for _, name := range names {
		if strings.HasSuffix(name, deltaSuffix) {
			return nil, fmt.Errorf("create journal: %s holds %s but no %s: put that back, or take another directory", dir, name, metaName)
		}
	}
	j.meta = m
	// The meta file comes last: with it, the journal exists and is whole.
	err = writeRecord(j.fs, j.path(positionName), positionMagic, j.pos)
	if err == nil {
		err = writeRecord(j.fs, j.path(pinsName), pinsMagic, pinsOf(j.pins))
	}
	if err == nil {
		err = writeRecord(j.fs, j.path(metaName), metaMagic, m)
	}
	if err == nil {
		err = j.fs.SyncDir(filepath.Dir(filepath.Clean(dir)))
	}
	if err != nil {
		return nil, fmt.Errorf("create journal: %w", err)
	}
	return j, nil
}

// Open opens the journal in dir and drops what a crash left half done. It fails with fs.ErrNotExist if there is none, with
// block.ErrVersion if a later release wrote it. A damaged delta does not fail it: what is before that is served, and Damage
// tells. It reads the ends of each delta, not the frames: Check does.
func Open(dir string, o Options) (*Journal, error) {
	j, err := newJournal(dir, o)
	if err != nil {
		return nil, err
	}
	if err := readRecord(j.fs, j.path(metaName), metaMagic, &j.meta); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	err = j.readNeeded(positionName, positionMagic, &j.pos)
	if err == nil {
		err = j.pos.check(j.path(positionName))
	}
	if err == nil {
		err = j.readPins()
	}
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	if v := j.volume; v != nil && v.Geometry().Size < j.pos.Size {
		return nil, fmt.Errorf("open journal in %s: the volume has %v, less than the %v folded into it: put the right volume back",
			dir, v.Geometry().Size, j.pos.Size)
	}
	if err := j.recover(); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	return j, nil
}

// readNeeded reads a record that every journal has.
func (j *Journal) readNeeded(name, magic string, v any) error {
	err := readRecord(j.fs, j.path(name), magic, v)
	if errors.Is(err, fs.ErrNotExist) { // not wrapped: it must not look like a journal that is not there
		return &block.CorruptionError{File: j.path(name), Err: errors.New("the file is missing")}
	}
	return err
}

func (j *Journal) path(name string) string { return filepath.Join(j.dir, name) }

// Meta is whose journal it is.
func (j *Journal) Meta() Meta {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.meta
}

// SetMeta changes what is known of the disk; it is durable when nil is returned. Disk and block size can't change, and the
// generation only rises.
func (j *Journal) SetMeta(m Meta) error {
	j.metaMu.Lock()
	defer j.metaMu.Unlock()
	old := j.Meta()
	if m.Disk != old.Disk || m.BlockSize != old.BlockSize {
		return fmt.Errorf("set meta: this journal is of disk %v in blocks of %d", old.Disk, old.BlockSize)
	}
	if m.Generation < old.Generation {
		return fmt.Errorf("set meta: generation %d after %d: %w", m.Generation, old.Generation, ErrGeneration)
	}
	if err := j.usable(); err != nil {
		return err
	}
	if err := writeRecord(j.fs, j.path(metaName), metaMagic, m); err != nil {
		return fmt.Errorf("set meta: %w", err)
	}
	j.mu.Lock()
	j.meta = m
	j.mu.Unlock()
	return nil
}

// usable says why nothing may be written.
func (j *Journal) usable() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.usableLocked()
}

func (j *Journal) usableLocked() error {
	if j.closed {
		return fmt.Errorf("journal in %s: %w", j.dir, os.ErrClosed)
	}
	return j.broken
}

// Tip is the newest sealed delta, zero when there was none yet.
func (j *Journal) Tip() Tip {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.tip()
}

func (j *Journal) tip() Tip {
	if n := len(j.deltas); n > 0 {
		d := j.deltas[n-1]
		return Tip{Seq: d.header.Seq, Digest: d.seal.Digest, Size: d.header.DiskSize}
	}
	return Tip{Seq: j.pos.Seq, Digest: j.pos.digest(), Size: j.pos.Size}
}

// fence is the lowest generation that may still write.
func (j *Journal) fence() block.Generation {
	g := max(j.meta.Generation, j.pos.Generation)
	if n := len(j.deltas); n > 0 {
		g = max(g, j.deltas[n-1].header.Generation)
	}
	return g
}

// Damage says why there are deltas on the disk that are not served: a *block.CorruptionError that Open ran into, nil when
// all is well. Points before the damage can be read; nothing can be added.
func (j *Journal) Damage() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.damage
}

// Points are the recovery points that View can show, oldest first.
func (j *Journal) Points() []Point {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.points()
}

func (j *Journal) points() []Point {
	var list []Point
	j.eachPoint(func(p Point) { list = append(list, p) })
	return list
}

// eachPoint visits the points that View can show, oldest first. It needs mu.
func (j *Journal) eachPoint(visit func(Point)) {
	if j.pos.Target == j.pos.Seq && j.pos.Seal != nil && j.pos.Seal.Class.Point() {
		visit(Point{Seal: *j.pos.Seal, First: j.pos.Seq, Pinned: j.pins[j.pos.Seq]})
	}
	for _, d := range j.deltas {
		if d.seal.Class.Point() && d.header.Seq >= j.pos.Target && !j.going.swallows(d.header.Seq) {
			visit(Point{Seal: d.seal, First: d.span.first, File: d.name, Bytes: d.foot.size, Pinned: j.pins[d.header.Seq]})
		}
	}
}

// Usage is what the journal takes.
func (j *Journal) Usage() Usage {
	j.mu.Lock()
	defer j.mu.Unlock()
	u := Usage{Count: len(j.deltas), Folded: j.pos.Seq, FoldedDeltas: j.folded, MergedDeltas: j.merged}
	for _, d := range j.deltas {
		u.Bytes += d.foot.size
	}
	return u
}

// Close drops a delta that is being written and lets go of the files. Views that are still open fail from then on. No other
// call may be under way.
func (j *Journal) Close() error {
	j.mu.Lock()
	w := j.writer
	j.mu.Unlock()
	var err error
	if w != nil {
		err = w.Abort()
	}
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	return errors.Join(err, j.files.close())
}
