package volumetest

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/understudy-dr/understudy/internal/block"
)

// conformSize is the size of the Devices under test.
const conformSize = 1 * block.MiB

// Conform tests that what open makes behaves as a writable block.Device must. open makes a Device of the given size, or one
// that is larger, each time over storage of its own; the suite closes it. Zeroer, Extenter and growing are tested where the
// Device has them.
func Conform(t *testing.T, open func(t *testing.T, size block.Size) block.Device) {
	for name, test := range map[string]func(*testing.T, block.Device){
		"geometry":            testGeometry,
		"random against copy": testAgainstCopy,
		"ends":                testEnds,
		"zero":                testZero,
		"extents":             testExtents,
		"side by side":        testConcurrent,
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t, conformSize)
			defer func() {
				if err := d.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}()
			test(t, d)
		})
	}
}

func testGeometry(t *testing.T, d block.Device) {
	g := d.Geometry()
	if g.Size < conformSize || g.ReadOnly || g.Logical.Check() != nil {
		t.Fatalf("geometry %+v of a writable device of at least %v", g, conformSize)
	}
}

// testAgainstCopy writes at random places, aligned and not, and reads back.
func testAgainstCopy(t *testing.T, d block.Device) {
	rng := rand.New(rand.NewPCG(1, 2))
	want := make([]byte, conformSize)
	if _, err := d.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		off := rng.IntN(len(want))
		n := 1 + rng.IntN(min(len(want)-off, 20000))
		if i%2 == 0 {
			fill(rng, want[off:off+n])
			if n2, err := d.WriteAt(want[off:off+n], int64(off)); err != nil || n2 != n {
				t.Fatalf("write %d at %d: %d, %v", n, off, n2, err)
			}
		}
		got := make([]byte, n)
		if n2, err := d.ReadAt(got, int64(off)); (err != nil && err != io.EOF) || n2 != n {
			t.Fatalf("read %d at %d: %d, %v", n, off, n2, err)
		}
		if !bytes.Equal(got, want[off:off+n]) {
			t.Fatalf("read %d at %d: other bytes than were written", n, off)
		}
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	expect(t, d, want)
}

func fill(rng *rand.Rand, p []byte) {
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
}

// expect holds the start of the device against want.
func expect(t *testing.T, d block.Device, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := d.ReadAt(got, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("byte %d is %#x, want %#x", i, got[i], want[i])
		}
	}
}

// testEnds reads and writes across the end.
func testEnds(t *testing.T, d block.Device) {
	size := int64(d.Geometry().Size)
	p := make([]byte, 4096)
	if n, err := d.ReadAt(p, size-1000); n != 1000 || !errors.Is(err, io.EOF) {
		t.Errorf("a read across the end: %d, %v", n, err)
	}
	if n, err := d.ReadAt(p, size); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("a read at the end: %d, %v", n, err)
	}
	for _, off := range []int64{size - 1000, size, size + 4096} {
		if _, err := d.WriteAt(p, off); !errors.Is(err, block.ErrOutOfRange) {
			t.Errorf("a write of %d at %d of %d: %v", len(p), off, size, err)
		}
	}
	if _, err := d.WriteAt(p, size-4096); err != nil {
		t.Errorf("a write up to the end: %v", err)
	}
	if got := int64(d.Geometry().Size); got != size {
		t.Errorf("size %d has become %d", size, got)
	}
}

// testZero zeroes ranges, aligned and not, amid data.
func testZero(t *testing.T, d block.Device) {
	z, ok := d.(block.Zeroer)
	if !ok {
		return
	}
	want := bytes.Repeat([]byte{0xaa}, int(conformSize))
	if _, err := d.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	for _, r := range []block.Range{{Off: 8192, Len: 4096}, {Off: 100, Len: 7}, {Off: 65000, Len: 70001}, {Off: 300000, Len: 0}, {Off: 511, Len: 2}} {
		if err := z.Zero(r); err != nil {
			t.Fatalf("zero %v: %v", r, err)
		}
		clear(want[r.Off:r.End()])
		expect(t, d, want)
	}
	if err := z.Zero(block.Range{Off: block.Offset(d.Geometry().Size) - 512, Len: 1024}); !errors.Is(err, block.ErrOutOfRange) {
		t.Errorf("zeroing past the end: %v", err)
	}
}

// testExtents holds that extents cover what was asked, in order, and that holes read as zeroes.
func testExtents(t *testing.T, d block.Device) {
	x, ok := d.(block.Extenter)
	if !ok {
		return
	}
	if err := block.ZeroRange(d, block.Range{Len: conformSize}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteAt(bytes.Repeat([]byte{1}, 8192), 65536); err != nil {
		t.Fatal(err)
	}
	ask := block.Range{Off: 4096, Len: conformSize - 8192}
	pos := ask.Off
	err := x.Extents(ask, func(e block.Extent) bool {
		if e.Off != pos || e.Empty() {
			t.Fatalf("extent %v where one from %d should be", e, pos)
		}
		pos = e.End()
		if !e.Hole {
			return true
		}
		got := make([]byte, e.Len)
		if _, err := d.ReadAt(got, int64(e.Off)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, make([]byte, e.Len)) {
			t.Fatalf("the hole %v holds data", e.Range)
		}
		return true
	})
	if err != nil || pos != ask.End() {
		t.Fatalf("extents end at %d, want %d; %v", pos, ask.End(), err)
	}
	calls := 0
	err = x.Extents(ask, func(block.Extent) bool { calls++; return false })
	if err != nil || calls != 1 {
		t.Fatalf("%d calls after the visitor had enough; %v", calls, err)
	}
}

// testConcurrent has goroutines write and read ranges of their own.
func testConcurrent(t *testing.T, d block.Device) {
	var wg sync.WaitGroup
	const each = int(conformSize) / 4
	for g := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 3))
			for range 50 {
				off, p := g*each+rng.IntN(each-8192), make([]byte, 1+rng.IntN(8192))
				fill(rng, p)
				got := make([]byte, len(p))
				_, err := d.WriteAt(p, int64(off))
				if err == nil {
					_, err = d.ReadAt(got, int64(off))
				}
				if err != nil || !bytes.Equal(got, p) {
					t.Errorf("%d bytes at %d beside others: %v", len(p), off, err)
					return
				}
			}
		})
	}
	wg.Wait()
}
