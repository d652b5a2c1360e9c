package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/codec"
	"github.com/understudy-dr/understudy/receiver/journal"
	"github.com/understudy-dr/understudy/receiver/journal/journaltest"
	"github.com/understudy-dr/understudy/receiver/volume/volumetest"
)

const testDir = "/store/disk"

// world is a journal in memory with its volume, and a model of every state of the disk.
type world struct {
	t      testing.TB
	rng    *rand.Rand
	fs     *journaltest.FS
	vol    *volumetest.Forgetting
	dev    *volumetest.Failing
	codec  *codec.Codec
	enc    []*codec.Encoder
	meta   journal.Meta
	j      *journal.Journal
	states map[block.Seq][]byte // the disk as of each delta that is durable
	steady bool                 // the disk does not grow any more
}

// newWorld makes a journal for a disk on a volume that is not empty: what is there already must never be seen.
func newWorld(t testing.TB, seed uint64) *world {
	t.Helper()
	w := &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 7)), fs: journaltest.New(), vol: volumetest.NewForgetting(16384, 0xee),
		states: map[block.Seq][]byte{0: {}},
		meta: journal.Meta{
			Disk: block.NewDiskID(), Name: "sda", Host: "web1", Size: 65536, BlockSize: 4096, Created: time.Unix(1e9, 0).UTC(),
		},
	}
	w.dev = &volumetest.Failing{Device: w.vol, Fail: func(volumetest.Op, block.Range) error { return nil }}
	var err error
	if w.codec, err = codec.New(); err != nil {
		t.Fatal(err)
	}
	for _, level := range []codec.Level{codec.LevelNone, codec.LevelS2, codec.LevelZstd} {
		e, err := codec.NewEncoder(level)
		if err != nil {
			t.Fatal(err)
		}
		w.enc = append(w.enc, e)
	}
	if w.j, err = journal.Create(testDir, w.meta, w.options()); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) options() journal.Options {
	return journal.Options{FS: w.fs, Codec: w.codec, Volume: w.dev}
}

// file is the path of a delta.
func (w *world) file(seq block.Seq) string {
	return fmt.Sprintf("%s/%020d.delta", testDir, uint64(seq))
}

// next makes the delta that follows the tip, with random frames that overlap, and the disk as it is after it.
func (w *world) next(class block.Class) (*journaltest.Delta, []byte) {
	tip := w.j.Tip()
	size := max(tip.Size, 32768)
	if w.rng.IntN(6) == 0 && !w.steady {
		size += block.Size(w.rng.IntN(8)) * 4096
	}
	state := append(bytes.Clone(w.states[tip.Seq]), make([]byte, size-tip.Size)...)
	d := &journaltest.Delta{
		Header: block.DeltaHeader{Disk: w.meta.Disk, Seq: tip.Seq + 1, BlockSize: 4096, DiskSize: size, Parent: tip.Digest},
		Seal:   block.Seal{Class: class, Time: time.Unix(1e9+int64(tip.Seq), 5).UTC(), Labels: map[string]string{"host": "web1"}},
	}
	for range w.rng.IntN(12) {
		off := block.Offset(w.rng.IntN(int(size)/512)) * 512
		n := block.Size(1+w.rng.IntN(16)) * 512
		r := block.Range{Off: off, Len: min(n, size-block.Size(off))}
		if w.rng.IntN(4) == 0 {
			clear(state[r.Off:r.End()])
			d.Frames = append(d.Frames, journaltest.Frame{Header: codec.Zero(r)})
			continue
		}
		data := state[r.Off:r.End()]
		mark := byte(w.rng.Uint32())
		for i := range data {
			data[i] = mark + byte(i/100)
		}
		f := w.enc[w.rng.IntN(len(w.enc))].Data(r.Off, data)
		d.Frames = append(d.Frames, journaltest.Frame{Header: f.Header, Payload: bytes.Clone(f.Payload)})
	}
	d.Finish(w.codec)
	return d, state
}

// add makes a delta durable.
func (w *world) add(class block.Class) block.Seq {
	w.t.Helper()
	d, state := w.next(class)
	if err := d.Write(w.j); err != nil {
		w.t.Fatal(err)
	}
	w.states[d.Header.Seq] = state
	return d.Header.Seq
}

func (w *world) reopen() {
	w.t.Helper()
	if err := w.j.Close(); err != nil {
		w.t.Fatal(err)
	}
	var err error
	if w.j, err = journal.Open(testDir, w.options()); err != nil {
		w.t.Fatal(err)
	}
}

// expect holds a view of seq against the model, in reads of random size.
func (w *world) expect(seq block.Seq) {
	w.t.Helper()
	v, err := w.j.View(seq)
	if err != nil {
		w.t.Fatal(err)
	}
	defer v.Close()
	w.expectView(v)
}

func (w *world) expectView(v *journal.View) {
	w.t.Helper()
	want := w.states[v.Seq()]
	if got := v.Geometry().Size; got != block.Size(len(want)) {
		w.t.Fatalf("view %v has %d bytes, want %d", v.Seq(), got, len(want))
	}
	for pos := 0; pos < len(want); {
		n := min(1+w.rng.IntN(9000), len(want)-pos)
		if err := readEqual(v, int64(pos), want[pos:pos+n]); err != nil {
			w.t.Fatal(err)
		}
		pos += n
	}
	if n, err := v.ReadAt(make([]byte, 10), int64(len(want))-4); len(want) > 4 && (n != 4 || !errors.Is(err, io.EOF)) {
		w.t.Fatalf("a read across the end: %d, %v", n, err)
	}
	w.expectExtents(v, want)
}

func readEqual(v *journal.View, pos int64, want []byte) error {
	got := make([]byte, len(want))
	if n, err := v.ReadAt(got, pos); n != len(got) || err != nil {
		return fmt.Errorf("%d of %d bytes at %d: %w", n, len(got), pos, err)
	}
	if !bytes.Equal(got, want) {
		i := 0
		for got[i] == want[i] {
			i++
		}
		return fmt.Errorf("view %v: byte %d is %#x, want %#x: %w", v.Seq(), pos+int64(i), got[i], want[i], errServed)
	}
	return nil
}

// errServed tells wrong content from an error.
var errServed = errors.New("wrong content was served")

// expectExtents holds that a view's extents cover it and that no hole has data.
func (w *world) expectExtents(v *journal.View, want []byte) {
	w.t.Helper()
	pos, lastHole := block.Offset(0), false
	err := v.Extents(block.Range{Len: block.Size(len(want))}, func(e block.Extent) bool {
		if e.Off != pos || e.Empty() || pos > 0 && e.Hole == lastHole {
			w.t.Fatalf("view %v: extent %+v after one that ends at %d", v.Seq(), e, pos)
		}
		pos, lastHole = e.End(), e.Hole
		if e.Hole && !codec.IsZero(want[e.Off:e.End()]) {
			w.t.Fatalf("view %v: data in the hole %v", v.Seq(), e.Range)
		}
		return true
	})
	if err != nil || pos != block.Offset(len(want)) {
		w.t.Fatalf("view %v: extents end at %d of %d: %v", v.Seq(), pos, len(want), err)
	}
}
