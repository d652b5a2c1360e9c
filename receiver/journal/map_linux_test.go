package journal_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/codec"
	"github.com/understudy-dr/understudy/receiver/journal"
	"github.com/understudy-dr/understudy/receiver/journal/journaltest"
)

// mapper is a file that can be mapped.
type mapper interface {
	Map(n int64) (journal.File, error)
}

// countingFS is the real filesystem; it counts what is opened and read by system calls. A read through a map takes as long
// as is said.
type countingFS struct {
	journal.OS
	opens, reads atomic.Int64
	delay        time.Duration
}

func (c *countingFS) OpenFile(name string, flag int) (journal.File, error) {
	c.opens.Add(1)
	f, err := c.OS.OpenFile(name, flag)
	return countingFile{f, c}, err
}

type countingFile struct {
	journal.File
	fs *countingFS
}

func (c countingFile) ReadAt(p []byte, off int64) (int, error) {
	c.fs.reads.Add(1)
	return c.File.ReadAt(p, off)
}

func (c countingFile) Map(n int64) (journal.File, error) {
	f, err := c.File.(mapper).Map(n)
	return slowFile{f, c.fs}, err
}

type slowFile struct {
	journal.File
	fs *countingFS
}

func (s slowFile) ReadAt(p []byte, off int64) (int, error) {
	time.Sleep(s.fs.delay)
	return s.File.ReadAt(p, off)
}

// mapBed, for a test in a bubble of synctest, where no read is slow unless it is said, is a journal in a real folder, each delta of one frame for each coding. A read of a whole frame is never
// answered from what was decoded before.
type mapBed struct {
	t     testing.TB
	dir   string
	fs    countingFS
	j     *journal.Journal
	v     *journal.View
	frame int // how much of the disk each is about, in bytes
	plain [][]byte
	pos   []block.Offset // of the frames in their deltas
	size  []int          // header and payload
}

var mapLevels = []codec.Level{codec.LevelNone, codec.LevelS2, codec.LevelZstd}

// newMapBed makes that many deltas and a view of the last.
func newMapBed(t testing.TB, deltas, frame int) *mapBed {
	t.Helper()
	b := &mapBed{t: t, dir: filepath.Join(t.TempDir(), "disk"), frame: frame}
	id, c, rng := block.NewDiskID(), must(codec.New()), rand.New(rand.NewPCG(3, 4))
	m := journal.Meta{Disk: id, Name: "sda", Host: "web1", Size: 4 << 20, BlockSize: 4096, Created: time.Unix(1e9, 0).UTC()}
	b.j = must(journal.Create(b.dir, m, journal.Options{FS: &b.fs, Codec: c}))
	for seq := 1; seq <= deltas; seq++ {
		d := &journaltest.Delta{
			Header: block.DeltaHeader{Disk: id, Seq: block.Seq(seq), BlockSize: 4096, DiskSize: 4 << 20, Parent: b.j.Tip().Digest},
			Seal:   block.Seal{Class: block.ClassCrash, Time: time.Unix(1e9+int64(seq), 0)},
		}
		pos := block.Offset(block.DeltaHeaderSize)
		for _, level := range mapLevels {
			data := make([]byte, frame)
			for i := range frame * 3 / 4 {
				data[i] = byte(rng.Uint32())
			}
			f := must(codec.NewEncoder(level)).Data(block.Offset(len(b.plain)*frame), data)
			d.Frames = append(d.Frames, journaltest.Frame{Header: f.Header, Payload: bytes.Clone(f.Payload)})
			b.plain, b.pos, b.size = append(b.plain, data), append(b.pos, pos), append(b.size, block.FrameHeaderSize+len(f.Payload))
			pos += block.Offset(block.FrameHeaderSize + len(f.Payload))
		}
		d.Finish(c)
		if err := d.Write(b.j); err != nil {
			t.Fatal(err)
		}
	}
	b.v = must(b.j.View(block.Seq(deltas)))
	t.Cleanup(func() {
		if err := errors.Join(b.v.Close(), b.j.Close()); err != nil {
			t.Error(err)
		}
	})
	return b
}

// read reads frame i and tells by how many system calls.
func (b *mapBed) read(i int) (calls int64, err error) {
	before := b.fs.reads.Load()
	err = readEqual(b.v, int64(i*b.frame), b.plain[i])
	return b.fs.reads.Load() - before, err
}

// path is the file of the delta of frame i.
func (b *mapBed) path(i int) string {
	names := must(filepath.Glob(filepath.Join(b.dir, "*.delta")))
	return names[i/len(mapLevels)]
}

// maps is how many maps of the journal's files there are.
func (b *mapBed) maps() int {
	return strings.Count(string(must(os.ReadFile("/proc/self/maps"))), b.dir)
}

// expectRead reads frame i by that many system calls.
func (b *mapBed) expectRead(i int, calls int64) {
	b.t.Helper()
	if n, err := b.read(i); err != nil || n != calls {
		b.t.Fatalf("frame %d was read by %d system calls, want %d: %v", i, n, calls, err)
	}
}

// TestOnlyFreshFramesAreMapped: a frame is read through the map only if it was read a moment ago, for else the page cache may
// not hold it, and a map makes a processor wait for the disk.
func TestOnlyFreshFramesAreMapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMapBed(t, 1, 4096)
		for i := range b.plain {
			if b.expectRead(i, 1); b.maps() > min(i, 1) {
				t.Fatal("it was mapped for one read")
			}
			b.expectRead(i, 0)
			time.Sleep(9 * time.Second)
			b.expectRead(i, 0)
			time.Sleep(9 * time.Second)
			b.expectRead(i, 0) // fresh by the read before
			time.Sleep(12 * time.Second)
			b.expectRead(i, 1)
		}
		if b.maps() != 1 {
			t.Errorf("%d maps", b.maps())
		}
		if err := errors.Join(b.v.Close(), b.j.Close()); err != nil || b.maps() != 0 {
			t.Errorf("%d maps are left: %v", b.maps(), err)
		}
	})
}

// TestLargeFramesAreNotMapped: a system call counts for little beside their copy, which takes as long as a disk.
func TestLargeFramesAreNotMapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMapBed(t, 1, 20<<10)
		b.expectRead(0, 1)
		b.expectRead(0, 1)
	})
}

// TestASlowMapIsPassedBy: a read through a map that was slow has waited for the disk, so the next go by system calls.
func TestASlowMapIsPassedBy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMapBed(t, 1, 4096)
		b.expectRead(0, 1)
		b.fs.delay = 29 * time.Microsecond
		b.expectRead(0, 0)
		b.expectRead(0, 0)
		b.fs.delay = 31 * time.Microsecond
		b.expectRead(0, 0)
		for range 64 {
			b.expectRead(0, 1)
		}
		b.expectRead(0, 0)
		b.expectRead(0, 1)
	})
}

// TestFlippedBitsOfAMap flips bits of each byte of frames that are mapped: none is ever served, and each is named.
func TestFlippedBitsOfAMap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMapBed(t, 1, 4096)
		path := b.path(0)
		f := must(os.OpenFile(path, os.O_RDWR, 0))
		defer f.Close()
		raw := must(os.ReadFile(path))
		for i := range b.plain {
			b.expectRead(i, 1)
			for at := int64(b.pos[i]); at < int64(b.pos[i])+int64(b.size[i]); at++ {
				for _, bit := range []int64{at % 8, (at + 5) % 8} {
					must(f.WriteAt([]byte{raw[at] ^ 1<<bit}, at))
					n, err := b.read(i)
					var c *block.CorruptionError
					if n != 0 || !errors.As(err, &c) || c.File != path || c.Off != b.pos[i] {
						t.Fatalf("frame %d, byte %d, bit %d, %d system calls: %v", i, at, bit, n, err)
					}
				}
				must(f.WriteAt(raw[at:at+1], at))
				b.expectRead(i, 0)
			}
		}
	})
}

// TestAFileThatShrinksUnderItsMap: a fault is damage that is named, not the end of the process.
func TestAFileThatShrinksUnderItsMap(t *testing.T) {
	for name, size := range map[string]int64{"to nothing": 0, "within a frame": 3000, "by a page": 4096} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newMapBed(t, 1, 4096)
				b.expectRead(0, 1)
				b.expectRead(0, 0)
				if err := os.Truncate(b.path(0), size); err != nil {
					t.Fatal(err)
				}
				_, err := b.read(0)
				var c *block.CorruptionError
				if !errors.As(err, &c) || c.File != b.path(0) || c.Off != b.pos[0] {
					t.Errorf("a read of what is gone: %v", err)
				}
			})
		})
	}
}

// TestIdleFilesAndMapsAreBounded reads more deltas than files may be open, and one of them all the time.
func TestIdleFilesAndMapsAreBounded(t *testing.T) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	low := limit
	low.Cur = 512 // of which one disk gets 32
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	synctest.Test(t, idleFiles)
}

func idleFiles(t *testing.T) {
	b := newMapBed(t, 100, 4096)
	const busy = 50 * 3
	b.expectRead(busy, 1)
	b.expectRead(busy, 0)
	before := b.fs.opens.Load()
	for i := 0; i < len(b.plain); i += len(mapLevels) {
		if _, err := b.read(i); err != nil {
			t.Fatal(err)
		}
		b.expectRead(busy, 0)
	}
	if n := b.fs.opens.Load() - before; n > 99 {
		t.Errorf("%d files were opened to read 99 others: the busy one was closed", n)
	}
	for i := 0; i < len(b.plain); i += len(mapLevels) {
		_, err := b.read(i)
		b.expectRead(i, 0)
		if files, maps := openIn(b.dir), b.maps(); err != nil || files > 32 || maps > files {
			t.Fatalf("%d open files, %d maps: %v", files, maps, err)
		}
	}
	if b.maps() != 32 {
		t.Errorf("%d maps", b.maps())
	}
}

// openIn is how many open files of this process are in dir.
func openIn(dir string) int {
	n := 0
	for _, fd := range must(os.ReadDir("/proc/self/fd")) {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, dir) {
			n++
		}
	}
	return n
}

// TestMapsOfTheProcessAreBounded: the kernel's bound on maps is the Go runtime's too.
func TestMapsOfTheProcessAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	f := must(journal.OS{}.OpenFile(path, os.O_RDONLY))
	defer f.Close()
	var all []journal.File
	defer func() {
		for _, m := range all {
			_ = m.Close() // they share one file: all but the first say that it is closed
		}
	}()
	for len(all) <= 16384 {
		m, err := f.(mapper).Map(4096)
		if err != nil {
			break
		}
		all = append(all, m)
	}
	if len(all) != 16384 {
		t.Errorf("%d maps", len(all))
	}
}
