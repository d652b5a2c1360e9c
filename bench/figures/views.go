package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/codec"
	"github.com/understudy-dr/understudy/receiver/journal"
	"github.com/understudy-dr/understudy/receiver/volume"
)

// What a view is to reach: so much of the rate of a raw file, and to open in so many seconds.
const (
	viewGoal     = 0.7
	viewOpenGoal = 1.0
)

// The journal that is read: so many points of so many random blocks each lie over a volume that is full.
const (
	viewDisk    = 256 * block.MiB
	viewPoints  = 1000
	viewChanges = 128
	hotReads    = 100_000
	coldReads   = 1500
)

// The journal that is opened.
const (
	openDisk    = block.TiB
	openPoints  = 10_000
	openChanges = 20
)

// viewRow is one state of the page cache.
type viewRow struct {
	Name  string    `json:"name"`
	Raw   []float64 `json:"raw_reads_per_second"`
	View  []float64 `json:"view_reads_per_second"`
	Ratio spread    `json:"ratio"`
	Goal  float64   `json:"goal"`
}

// viewTable is what reading and opening views costs.
type viewTable struct {
	Points    int       `json:"points"`
	Rows      []viewRow `json:"rows"`
	OpenTimes []float64 `json:"open_seconds"`
	OpenHeap  int64     `json:"open_heap_bytes"`
	Extents   int       `json:"open_extents"` // at most: overlaps are few
	Open      spread    `json:"open"`
}

// views reads 4 KiB at random places of a raw file and of a view of the same size, in turn, and opens a view of a large disk.
func (f *figures) views(ctx context.Context) (*viewTable, error) {
	table := &viewTable{Points: viewPoints, Extents: openPoints * openChanges}
	if err := f.readViews(ctx, table); err != nil {
		return nil, err
	}
	if err := f.openViews(ctx, table); err != nil {
		return nil, err
	}
	table.Open = spreadOf(table.OpenTimes)
	return table, nil
}

// copyBed is a journal with its volume in a folder of its own.
type copyBed struct {
	dir   string
	j     *journal.Journal
	v     *journal.View // of the newest point, once reopen has opened it
	vol   *volume.File
	codec *codec.Codec
	enc   *codec.Encoder
	id    block.DiskID
	rng   *rand.Rand
}

func (f *figures) newCopy(name string) (*copyBed, error) {
	b := &copyBed{dir: filepath.Join(f.bed.Dir(), name), id: block.NewDiskID(), rng: rand.New(rand.NewPCG(5, 6))}
	err := os.Mkdir(b.dir, 0o700)
	if err == nil {
		b.codec, err = codec.New()
	}
	if err == nil {
		b.enc, err = codec.NewEncoder(codec.LevelNone)
	}
	if err == nil {
		b.vol, err = volume.OpenFile(filepath.Join(b.dir, "volume.raw"), true, 0)
	}
	if err == nil {
		m := journal.Meta{Disk: b.id, Name: "sda", Host: "bench", Size: 1, BlockSize: 4096, Created: time.Now()}
		b.j, err = journal.Create(b.dir, m, b.options())
	}
	return b, err
}

func (b *copyBed) options() journal.Options { return journal.Options{Codec: b.codec, Volume: b.vol} }

// reopen opens the journal and the view anew: what was mapped of their files is not any more, and can leave the page cache.
// Opening the view opens the files.
func (b *copyBed) reopen() error {
	err := b.closeJournal()
	if err != nil {
		return err
	}
	j, err := journal.Open(b.dir, b.options())
	if err != nil {
		return err
	}
	b.j = j
	b.v, err = j.View(j.Tip().Seq)
	return err
}

func (b *copyBed) closeJournal() error {
	if b.v == nil {
		return b.j.Close()
	}
	return errors.Join(b.v.Close(), b.j.Close())
}

func (b *copyBed) close() error {
	return errors.Join(b.closeJournal(), b.vol.Close(), os.RemoveAll(b.dir))
}

// add makes a point with new content for some ranges.
func (b *copyBed) add(size block.Size, ranges []block.Range) error {
	tip := b.j.Tip()
	h := block.DeltaHeader{Disk: b.id, Seq: tip.Seq + 1, BlockSize: 4096, DiskSize: size, Parent: tip.Digest}
	w, err := b.j.Begin(h)
	if err != nil {
		return err
	}
	chain := block.NewChain(b.codec, h)
	s := block.Seal{Class: block.ClassCrash, Seq: h.Seq, Time: time.Now().UTC()}
	data := make([]byte, block.MaxFrameData)
	for i, r := range ranges {
		content := data[:r.Len]
		for k := range content {
			content[k] = byte(b.rng.Uint32())
		}
		frame := b.enc.Data(r.Off, content)
		frame.Header.Number = uint32(i)
		raw := append(frame.Header.Append(nil), frame.Payload...)
		chain.Write(raw)
		if err := w.Append(frame.Header, raw); err != nil {
			return errors.Join(err, w.Abort())
		}
		s.Frames, s.Payload, s.Covered = s.Frames+1, s.Payload+block.Size(frame.Header.Payload), s.Covered+r.Len
	}
	s.Digest = chain.Seal(s)
	return w.Commit(s)
}

// random are that many blocks of 4 KiB of a disk.
func (b *copyBed) random(size block.Size, n int) []block.Range {
	list := make([]block.Range, n)
	for i := range list {
		list[i] = block.Range{Off: block.Offset(b.rng.Int64N(int64(size)/4096)) * 4096, Len: 4096}
	}
	return list
}

func (f *figures) readViews(ctx context.Context, table *viewTable) (err error) {
	if err := f.room(2 << 30); err != nil {
		return err
	}
	progress("views: %d points of %d random blocks", viewPoints, viewChanges)
	b, err := f.newCopy("views")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	var whole []block.Range
	for off := block.Size(0); off < viewDisk; off += block.MaxFrameData {
		whole = append(whole, block.Range{Off: block.Offset(off), Len: block.MaxFrameData})
	}
	if err := b.add(viewDisk, whole); err != nil {
		return err
	}
	if err := b.j.Fold(ctx, 1); err != nil {
		return err
	}
	for range viewPoints {
		if err := b.add(viewDisk, b.random(viewDisk, viewChanges)); err != nil {
			return err
		}
	}
	if err := b.reopen(); err != nil {
		return err
	}
	raw, err := f.rawCopy(b.v)
	if err != nil {
		return err
	}
	defer raw.Close()
	return f.compareReads(ctx, table, b, raw)
}

// rawCopy is the view as a raw file.
func (f *figures) rawCopy(v *journal.View) (*os.File, error) {
	raw, err := os.Create(filepath.Join(f.bed.Dir(), "raw"))
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(raw, io.NewSectionReader(v, 0, int64(viewDisk)))
	if err = errors.Join(err, raw.Sync()); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return raw, nil
}

func (f *figures) compareReads(ctx context.Context, table *viewTable, b *copyBed, raw *os.File) error {
	table.Rows = []viewRow{{Name: "in memory", Goal: viewGoal}, {Name: "from the disk", Goal: viewGoal}}
	if inMemory(b.dir) {
		table.Rows = table.Rows[:1]
	}
	for i := range table.Rows {
		row, reads := &table.Rows[i], hotReads
		if i == 1 {
			reads = coldReads
		}
		for round := range f.rounds {
			for _, k := range turn(round, 2) {
				if err := ctx.Err(); err != nil {
					return err
				}
				if i == 1 {
					if err := errors.Join(b.reopen(), forget(b.dir, raw.Name())); err != nil {
						return err
					}
				}
				rate, err := readRate(b.rng, []io.ReaderAt{raw, b.v}[k], reads)
				if err != nil {
					return err
				}
				if k == 0 {
					row.Raw = append(row.Raw, rate)
				} else {
					row.View = append(row.View, rate)
				}
			}
			progress("views: %s, round %2d of %d: %8.0f reads a second of the file, %8.0f of the view",
				row.Name, round+1, f.rounds, row.Raw[round], row.View[round])
		}
		row.Ratio = spreadOf(ratios(row.View, row.Raw))
	}
	return nil
}

// readRate reads 4 KiB at random places, and tells how many a second.
func readRate(rng *rand.Rand, from io.ReaderAt, reads int) (float64, error) {
	p := block.AlignedBuffer(4096)
	began := time.Now()
	for range reads {
		if _, err := from.ReadAt(p, rng.Int64N(int64(viewDisk)/4096)*4096); err != nil {
			return 0, err
		}
	}
	return float64(reads) / time.Since(began).Seconds(), nil
}

func inMemory(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) != nil || st.Type == unix.TMPFS_MAGIC
}

// forget drops a folder's files and another from the page cache.
func forget(dir, other string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return err
	}
	for _, name := range append(names, other) {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		if err = errors.Join(drop(int(f.Fd())), f.Close()); err != nil {
			return fmt.Errorf("drop %s from the page cache: %w", name, err)
		}
	}
	return nil
}

// drop drops an open file from the page cache, and makes sure: pages that somebody has mapped stay.
func drop(fd int) error {
	err := unix.Fdatasync(fd)
	if err == nil {
		err = unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED)
	}
	if err != nil {
		return err
	}
	var left unix.Cachestat_t
	err = unix.Cachestat(uint(fd), &unix.CachestatRange{}, &left, 0)
	if errors.Is(err, unix.ENOSYS) { // before Linux 6.5 nobody can tell
		return nil
	}
	if err == nil && left.Cache > 0 {
		err = fmt.Errorf("%d pages are still there", left.Cache)
	}
	return err
}

func (f *figures) openViews(ctx context.Context, table *viewTable) (err error) {
	progress("views: %d points of a disk of %v", openPoints, openDisk)
	b, err := f.newCopy("open")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	for n := range openPoints {
		if err := errors.Join(ctx.Err(), b.add(openDisk, b.random(openDisk, openChanges))); err != nil {
			return err
		}
		if n == 0 { // the volume has its size
			if err := b.j.Fold(ctx, 1); err != nil {
				return err
			}
		}
	}
	for range 7 {
		before := heap()
		began := time.Now()
		v, err := b.j.View(b.j.Tip().Seq)
		if err != nil {
			return err
		}
		table.OpenTimes = append(table.OpenTimes, time.Since(began).Seconds())
		table.OpenHeap = max(table.OpenHeap, heap()-before)
		progress("views: opened in %.3f s", table.OpenTimes[len(table.OpenTimes)-1])
		if err := v.Close(); err != nil {
			return err
		}
	}
	return nil
}

// heap is what the process holds in memory that it can reach.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func (t *viewTable) print(w io.Writer) {
	fmt.Fprintf(w, "\n4 KiB random reads of a view with %d points between it and the volume, as a ratio to a raw file; median of %d rounds and quartiles\n",
		t.Points, len(t.Rows[0].Raw))
	for _, row := range t.Rows {
		fmt.Fprintf(w, "  %-13s  %.3f  (%.3f to %.3f)  of %8.0f reads a second   goal %.2f: %s\n", row.Name, row.Ratio.Median,
			row.Ratio.Low, row.Ratio.High, spreadOf(row.Raw).Median, row.Goal, verdict(row.Ratio.Median, row.Goal))
	}
	verdict := "reached"
	if t.Open.Median > viewOpenGoal {
		verdict = "missed"
	}
	fmt.Fprintf(w, "Opening a view of %v with %d points and %d extents: %.3f s (%.3f to %.3f), %.1f MiB, %.0f bytes an extent   goal %.0f s: %s\n",
		openDisk, openPoints, t.Extents, t.Open.Median, t.Open.Low, t.Open.High, float64(t.OpenHeap)/(1<<20),
		float64(t.OpenHeap)/float64(t.Extents), viewOpenGoal, verdict)
}
