package ebpf

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/bench/testbed"
	"github.com/understudy-dr/understudy/internal/block"
)

// copier keeps a copy of a disk up to date by its marks alone, as the agent does.
type copier struct {
	d      *disk
	tr     *Tracker
	image  []byte
	passes int
	blocks int
}

// newCopier attaches first and copies after.
func newCopier(t *testing.T, d *disk, flights Flights) *copier {
	c := &copier{d: d, tr: attach(t, d.path, Options{PinRoot: pinRoot(t), Flights: flights})}
	c.image = d.image()
	return c
}

func (c *copier) pass(t *testing.T) {
	t.Helper()
	for _, r := range take(t, c.tr) {
		bytes := r.Range(4096, block.Size(c.d.size))
		copy(c.image[bytes.Off:], c.d.read(int64(bytes.Off), int(bytes.Len)))
		c.blocks += int(r.N)
	}
	c.passes++
}

// check holds the copy against the disk. A difference is a lost write: it is an error, unless the audit has found it and the
// table of writes in flight, which would have caught it, was off.
func (c *copier) check(t *testing.T) {
	t.Helper()
	c.pass(t)
	now := c.d.image()
	a, err := c.tr.Audit()
	if err != nil {
		t.Fatal(err)
	}
	lost := 0
	for off := 0; off < len(now); off += 4096 {
		if !bytes.Equal(now[off:off+4096], c.image[off:off+4096]) {
			lost++
		}
	}
	t.Logf("%d passes copied %d blocks; %d lost; audit: %q", c.passes, c.blocks, lost, a.Reason)
	if lost > 0 && (!a.Missed || c.tr.opt.Flights == FlightsOn) {
		t.Errorf("%d blocks differ; missed: %v", lost, a.Missed)
	}
	if c.passes < 3 || c.blocks < 1000 {
		t.Errorf("%d passes, %d blocks: that proves nothing", c.passes, c.blocks)
	}
}

// while copies in passes as long as work goes on.
func (c *copier) while(t *testing.T, work ...func()) {
	t.Helper()
	var busy sync.WaitGroup
	var done atomic.Bool
	for _, w := range work {
		busy.Go(w)
	}
	go func() { busy.Wait(); done.Store(true) }()
	for !done.Load() {
		c.pass(t)
	}
}

// TestLiveCopy: the copy is made while writers, discards and zero-outs go on, and ends up equal. It is the test of everything
// at once: marks at completion, copies, order of take and read, atomic bits.
func TestLiveCopy(t *testing.T) {
	for _, flights := range []Flights{FlightsOff, FlightsOn} {
		t.Run("flights "+string(flights), func(t *testing.T) { liveCopy(t, newDisk(t, 64<<20), flights) })
		for _, path := range spareDisks() {
			t.Run(filepath.Base(path)+" flights "+string(flights), func(t *testing.T) {
				liveCopy(t, openDisk(t, nil, path, "", 64<<20), flights)
			})
		}
	}
}

// spareDisks are further disks of 64 MiB to write to, with other drivers: packaging/kernels.sh has some.
func spareDisks() []string { return strings.Fields(os.Getenv("UNDERSTUDY_TEST_DISKS")) }

func liveCopy(t *testing.T, d *disk, flights Flights) {
	c := newCopier(t, d, flights)
	var work []func()
	for i := range 8 {
		work = append(work, func() { hammer(d, uint64(i), 4000) })
	}
	c.while(t, work...)
	c.check(t)
}

// hammer does n random writes, some of them discards or zero-outs.
func hammer(d *disk, seed uint64, n int) {
	rng := rand.New(rand.NewPCG(seed, 11))
	buf := aligned(128 << 10)
	for range n {
		size := 512 << rng.IntN(9)
		off := rng.Int64N((d.size-int64(size))/512) * 512
		switch rng.IntN(20) {
		case 0:
			rangedIoctl(d.fd, unix.BLKDISCARD, off, int64(size))
		case 1:
			rangedIoctl(d.fd, unix.BLKZEROOUT, off, int64(size))
		default:
			for i := 0; i < size; i += 8 {
				buf[i] = byte(rng.Uint32())
			}
			unix.Pwrite(d.fd, buf[:size], off)
		}
	}
}

// TestLiveCopyOfFileSystems does the same below mounted file systems, with files made, changed, synced and removed.
func TestLiveCopyOfFileSystems(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			d := newDisk(t, 320<<20)
			if err := testbed.Mkfs(t.Context(), d.path, kind); err != nil {
				t.Fatal(err)
			}
			m, err := d.bed.Mount(d.path, "mnt", kind)
			if err != nil {
				t.Fatal(err)
			}
			c := newCopier(t, d, FlightsOn)
			var failed [4]error
			c.while(t,
				func() { failed[0] = churn(m.Dir, 1) }, func() { failed[1] = churn(m.Dir, 2) },
				func() { failed[2] = churn(m.Dir, 3) }, func() { failed[3] = churn(m.Dir, 4) })
			for _, err := range failed {
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := m.Unmount(); err != nil {
				t.Fatal(err)
			}
			c.check(t)
		})
	}
}

// churn makes, grows, overwrites and removes files.
func churn(dir string, seed uint64) error {
	rng := rand.New(rand.NewPCG(seed, 13))
	data := make([]byte, 256<<10)
	var names []string
	for i := range 400 {
		if len(names) > 40 {
			gone := rng.IntN(len(names))
			if err := os.Remove(names[gone]); err != nil {
				return err
			}
			names = slices.Delete(names, gone, gone+1)
		}
		name := filepath.Join(dir, fmt.Sprintf("%d-%d", seed, i))
		if len(names) > 10 && rng.IntN(2) == 0 {
			name = names[rng.IntN(len(names))]
		} else {
			names = append(names, name)
		}
		for j := range data {
			data[j] = byte(i) ^ byte(j*int(seed))
		}
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		if _, err = f.WriteAt(data[:1+rng.IntN(len(data))], rng.Int64N(64<<10)); err == nil && rng.IntN(8) == 0 {
			err = f.Sync()
		}
		if f.Close(); err != nil {
			return err
		}
	}
	return nil
}
