package block_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/internal/block"
)

// TestBitmapAgainstModel drives a Bitmap and a slice of bools with the same random calls and compares them.
func TestBitmapAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 400).Draw(t, "n")
		b, model := block.NewBitmap(block.Count(n)), make([]bool, n)
		for range rapid.IntRange(0, 20).Draw(t, "steps") {
			first := rapid.IntRange(0, n-1).Draw(t, "first")
			length := rapid.IntRange(0, n-first).Draw(t, "length")
			set := rapid.Bool().Draw(t, "set")
			r := block.Run{First: block.Index(first), N: block.Count(length)}
			if set {
				b.Set(r)
			} else {
				b.Clear(r)
			}
			for i := first; i < first+length; i++ {
				model[i] = set
			}
		}
		if rapid.IntRange(0, 9).Draw(t, "all") == 0 {
			b.SetAll()
			for i := range model {
				model[i] = true
			}
		}
		count := 0
		for i, want := range model {
			if b.Get(block.Index(i)) != want {
				t.Fatalf("bit %d is %v", i, !want)
			}
			if want {
				count++
			}
		}
		if b.Count() != block.Count(count) {
			t.Fatalf("count %d, want %d", b.Count(), count)
		}
		checkRuns(t, b, model)
	})
}

// checkRuns holds that the runs are maximal, ascending, and cover exactly the set bits.
func checkRuns(t *rapid.T, b *block.Bitmap, model []bool) {
	seen, end := make([]bool, len(model)), block.Index(-1)
	for r := range b.Runs() {
		if r.N <= 0 || r.First <= end {
			t.Fatalf("run %+v after one that ended at %d: empty, out of order or not maximal", r, end)
		}
		end = r.End()
		for i := r.First; i < r.End(); i++ {
			seen[i] = true
		}
	}
	for i := range model {
		if seen[i] != model[i] {
			t.Fatalf("runs say %v of bit %d", seen[i], i)
		}
	}
}

func TestRangeCovering(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bs := block.BlockSize(512 << rapid.IntRange(0, 8).Draw(t, "shift"))
		r := block.Range{
			Off: block.Offset(rapid.Int64Range(0, 1<<40).Draw(t, "off")),
			Len: block.Size(rapid.Int64Range(1, 1<<30).Draw(t, "len")),
		}
		run := r.Covering(bs)
		if bs.At(run.First) > r.Off || bs.At(run.First+1) <= r.Off {
			t.Fatalf("%v in %v starts outside of block %d", r, bs, run.First)
		}
		if bs.At(run.End()) < r.End() || bs.At(run.End()-1) >= r.End() {
			t.Fatalf("%v in %v ends outside of block %d", r, bs, run.End()-1)
		}
	})
}

func TestRangeInIsNotFooledByOverflow(t *testing.T) {
	for name, r := range map[string]block.Range{
		"wraps":           {Off: 1, Len: 1<<63 - 1},
		"negative offset": {Off: -1, Len: 1},
		"negative length": {Off: 0, Len: -1},
		"past the end":    {Off: 1024, Len: 1},
	} {
		if r.In(1024) {
			t.Errorf("%s: %v lies in 1024 bytes", name, r)
		}
	}
	if !(block.Range{Off: 1024}).In(1024) {
		t.Error("the empty range at the end is outside")
	}
}

func TestDeltaPartsSurviveTheRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := block.DeltaHeader{
			Disk: block.NewDiskID(), Seq: block.Seq(rapid.Uint64Min(1).Draw(t, "seq")),
			Generation: block.Generation(rapid.Uint32().Draw(t, "generation")), BlockSize: 4096,
			DiskSize: block.Size(rapid.Int64Range(1, int64(block.MaxDiskSize)).Draw(t, "size")),
		}
		copy(h.Parent[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "parent"))
		if got, err := block.ParseDeltaHeader(h.Append(nil)); err != nil || got != h {
			t.Fatalf("delta header %+v came back as %+v, %v", h, got, err)
		}
		s := block.Seal{
			Class: block.Class(rapid.IntRange(0, 2).Draw(t, "class")), Seq: h.Seq,
			Time:   time.Unix(0, rapid.Int64().Draw(t, "time")).UTC(),
			Frames: rapid.Uint64().Draw(t, "frames"), Payload: 17, Covered: 4096, Digest: h.Parent,
			Labels: rapid.MapOfN(rapid.StringN(1, 10, 63), rapid.StringN(0, 40, 200), 0, block.MaxLabels).Draw(t, "labels"),
		}
		raw := s.Append([]byte("before"))[6:]
		got, n, err := block.ParseSeal(append(raw, "after"...))
		if err != nil || n != len(raw) || !got.Time.Equal(s.Time) || len(got.Labels) != len(s.Labels) {
			t.Fatalf("seal %+v came back as %+v, %d of %d bytes, %v", s, got, n, len(raw), err)
		}
		if again := got.Append(nil); !bytes.Equal(again, raw) {
			t.Fatal("the seal read back encodes otherwise")
		}
	})
}

// TestEveryFlippedBitIsSeen flips each bit of each part of a delta: none may be taken for the original.
func TestEveryFlippedBitIsSeen(t *testing.T) {
	header := block.DeltaHeader{Disk: block.NewDiskID(), Seq: 7, BlockSize: 4096, DiskSize: 1 << 30}
	frame := block.FrameHeader{Kind: block.FrameData, Payload: 4096, Range: block.Range{Off: 8192, Len: 4096}, Sum: 99}
	seal := block.Seal{Class: block.ClassCrash, Seq: 7, Time: time.Unix(5, 6), Labels: map[string]string{"host": "web1"}}
	for name, part := range map[string]struct {
		raw   []byte
		parse func([]byte) error
	}{
		"header": {header.Append(nil), func(b []byte) error { _, err := block.ParseDeltaHeader(b); return err }},
		"frame":  {frame.Append(nil), func(b []byte) error { _, err := block.ParseFrameHeader(b); return err }},
		"seal":   {seal.Append(nil), func(b []byte) error { _, _, err := block.ParseSeal(b); return err }},
	} {
		if err := part.parse(part.raw); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for bit := range len(part.raw) * 8 {
			part.raw[bit/8] ^= 1 << (bit % 8)
			if part.parse(part.raw) == nil {
				t.Errorf("%s: bit %d flipped unseen", name, bit)
			}
			part.raw[bit/8] ^= 1 << (bit % 8)
		}
		for n := range part.raw {
			if part.parse(part.raw[:n:n]) == nil {
				t.Errorf("%s: cut to %d bytes unseen", name, n)
			}
		}
	}
}

func TestFileDevice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := block.OpenFile(path, block.Mode{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte{7}, 8192)
	if _, err := f.WriteAt(data, 65536); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(data, 1<<20-4096); !errors.Is(err, block.ErrOutOfRange) {
		t.Fatalf("a write past the end: %v", err)
	}
	var holes, bytesOfData block.Size
	pos := block.Offset(0)
	err = f.Extents(block.Range{Len: 1 << 20}, func(e block.Extent) bool {
		if e.Off != pos {
			t.Fatalf("extent %v does not begin at %d", e, pos)
		}
		pos = e.End()
		if e.Hole {
			holes += e.Len
		} else {
			bytesOfData += e.Len
		}
		return true
	})
	if err != nil || pos != 1<<20 || bytesOfData != 8192 {
		t.Fatalf("extents: %d of data, %d of hole, end %d, %v", bytesOfData, holes, pos, err)
	}
	if err := f.Zero(block.Range{Off: 65536, Len: 4096}); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 8192)
	if _, err := f.ReadAt(got, 65536); err != nil || !bytes.Equal(got[:4096], make([]byte, 4096)) || !bytes.Equal(got[4096:], data[4096:]) {
		t.Fatalf("after zeroing the first half: %v", err)
	}
	ro, err := block.OpenFile(path, block.Mode{})
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	if !ro.Geometry().ReadOnly {
		t.Error("opened for reading, not said to be read-only")
	}
}
