package journal_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/codec"
	"github.com/understudy-dr/understudy/receiver/journal"
	"github.com/understudy-dr/understudy/receiver/journal/journaltest"
)

// merge must work.
func (w *world) merge(after, upto block.Seq) {
	w.t.Helper()
	if err := w.j.Merge(context.Background(), after, upto); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) check() {
	w.t.Helper()
	if err := errors.Join(w.j.Damage(), w.j.Check(context.Background(), nil)); err != nil {
		w.t.Fatal(err)
	}
}

// expectNoPoint holds that there is no view of seq.
func (w *world) expectNoPoint(seq block.Seq) {
	w.t.Helper()
	if v, err := w.j.View(seq); !errors.Is(err, journal.ErrNoPoint) {
		w.t.Errorf("a view of %v, which is gone: %v", seq, err)
		if err == nil {
			v.Close()
		}
	}
}

func TestMerge(t *testing.T) {
	for seed := range uint64(30) {
		w := newWorld(t, 1000+seed)
		for i := range 12 {
			w.add([]block.Class{block.ClassNone, block.ClassCrash, block.ClassFuzzy}[i%3])
		}
		before := w.j.Usage().Bytes
		w.merge(2, 6)
		w.merge(8, 11)
		w.merge(2, 8) // a merged one again
		w.merge(4, 8) // nothing begins after #4
		points := w.j.Points()
		for range 2 {
			w.check()
			for _, seq := range []block.Seq{0, 1, 2, 8, 11, 12} {
				w.expect(seq)
			}
			for _, seq := range []block.Seq{3, 4, 5, 6, 7, 9, 10} {
				w.expectNoPoint(seq)
			}
			w.reopen()
		}
		if len(points) != 4 || points[1].Seq != 8 || points[1].First != 3 ||
			points[1].File != "00000000000000000003-00000000000000000008.delta" {
			t.Fatalf("points %+v", points)
		}
		if got := w.j.Usage(); got.Count != 5 || got.Bytes >= before {
			t.Errorf("usage %+v after merging, %d bytes before", got, before)
		}
		if w.fs.Size(w.file(3)) >= 0 || w.fs.Size(w.file(8)) >= 0 {
			t.Error("files of what was merged are left")
		}
		w.add(block.ClassCrash) // chained to the seal of the last that was merged
		w.merge(11, 13)
		w.expect(w.add(block.ClassCrash))
		if err := w.j.Fold(context.Background(), 8); err != nil {
			t.Fatal(err)
		}
		w.expect(8)
		if err := w.j.Fold(context.Background(), 14); err != nil {
			t.Fatal(err)
		}
		w.expect(14)
	}
}

// TestMergeDropsWhatWasOverwritten: of a disk that is written again and again one copy is left, and of frames that were
// overwritten in part the rest, in their coding.
func TestMergeDropsWhatWasOverwritten(t *testing.T) {
	_, j, _, c, id := newReal(t)
	size := block.Size(0)
	for seq := block.Seq(1); seq <= 20; seq++ {
		if err := stripe(j, c, id, seq).Write(j); err != nil {
			t.Fatal(err)
		}
		size = j.Points()[0].Bytes
	}
	if err := j.Merge(context.Background(), 0, 20); err != nil {
		t.Fatal(err)
	}
	// Merge section, another range in the footer and labels aside they are the same.
	if got := j.Points()[0].Bytes; got > size+128 {
		t.Errorf("20 deltas of %v became one of %v", size, got)
	}
	enc, err := codec.NewEncoder(codec.LevelZstd)
	if err != nil {
		t.Fatal(err)
	}
	d := &journaltest.Delta{
		Header: block.DeltaHeader{Disk: id, Seq: 21, BlockSize: 4096, DiskSize: 65536, Parent: j.Tip().Digest},
		Seal:   block.Seal{Class: block.ClassCrash, Time: time.Unix(21, 0)},
	}
	for off := 0; off < 65536; off += 8192 {
		f := enc.Data(block.Offset(off), bytes.Repeat([]byte{21}, 4096))
		d.Frames = append(d.Frames, journaltest.Frame{Header: f.Header, Payload: bytes.Clone(f.Payload)})
	}
	d.Finish(c)
	if err := d.Write(j); err != nil {
		t.Fatal(err)
	}
	if err := j.Merge(context.Background(), 0, 21); err != nil {
		t.Fatal(err)
	}
	if got := j.Points()[0].Bytes; got > 2*size {
		t.Errorf("half overwritten, %v became %v: a part that was cut must be encoded again", size, got)
	}
	if err := j.Check(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	v, err := j.View(21)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	want := bytes.Repeat(append(bytes.Repeat([]byte{21}, 4096), bytes.Repeat([]byte{20}, 4096)...), 8)
	if err := readEqual(v, 0, want); err != nil {
		t.Error(err)
	}
}

// TestMergeOfMoreThanFitsIntoMemory merges indexes that are sorted by way of a file.
func TestMergeOfMoreThanFitsIntoMemory(t *testing.T) {
	dir, j, _, c, id := newReal(t)
	const blocks, frames = 120_000, 75_000 // 150,000 in all: memory holds 131,072
	want := make([]byte, blocks*512)
	enc, err := codec.NewEncoder(codec.LevelNone)
	if err != nil {
		t.Fatal(err)
	}
	for seq := block.Seq(1); seq <= 2; seq++ {
		h := block.DeltaHeader{Disk: id, Seq: seq, BlockSize: 4096, DiskSize: block.Size(len(want)), Parent: j.Tip().Digest}
		d := &journaltest.Delta{Header: h, Seal: block.Seal{Class: block.ClassCrash, Time: time.Unix(int64(seq), 0)}}
		for _, i := range rand.New(rand.NewPCG(uint64(seq), 4)).Perm(blocks)[:frames] {
			data := bytes.Repeat([]byte{byte(i), byte(i >> 8), byte(seq), byte(i >> 16)}, 128)
			copy(want[i*512:], data)
			f := enc.Data(block.Offset(i*512), data)
			d.Frames = append(d.Frames, journaltest.Frame{Header: f.Header, Payload: f.Payload})
		}
		d.Finish(c)
		if err := d.Write(j); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Merge(context.Background(), 0, 2); err != nil {
		t.Fatal(err)
	}
	if err := j.Check(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	v, err := j.View(2)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	got := make([]byte, len(want))
	if _, err := v.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("a view of what was merged: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 5 { // three records, the volume, one delta
		t.Errorf("left: %v %v", left, err)
	}
}

// TestMergeUnderViews merges what open views read, and what lies before and after them.
func TestMergeUnderViews(t *testing.T) {
	w := newWorld(t, 40)
	for range 9 {
		w.add(block.ClassCrash)
	}
	var views []*journal.View
	for _, seq := range []block.Seq{2, 5, 9} {
		v, err := w.j.View(seq)
		if err != nil {
			t.Fatal(err)
		}
		views = append(views, v)
	}
	w.merge(0, 3)
	w.merge(3, 8)
	w.merge(0, 8)
	if err := w.j.Fold(context.Background(), 9); !errors.Is(err, journal.ErrViewOpen) || w.j.Usage().Folded != 0 {
		t.Fatalf("folding a delta that stands for more than an open view: %v, %+v", err, w.j.Usage())
	}
	for _, v := range views {
		w.expectView(v)
	}
	w.expect(8)
	for _, v := range views {
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
	}
	names, err := w.fs.ReadDir(testDir)
	if err != nil || len(names) != 5 { // three records, two deltas
		t.Errorf("left: %v %v", names, err)
	}
	w.reopen()
	w.check()
	w.expect(8)
	w.expect(9)
}

// TestMergeRefusesDamage: what is damaged is not merged, whether the merge would read it or not, and stays.
func TestMergeRefusesDamage(t *testing.T) {
	for _, seq := range []block.Seq{2, 3, 4} {
		w := newWorld(t, 41)
		for w.j.Tip().Seq < 5 {
			d, state := w.next(block.ClassCrash)
			if len(d.Frames) == 0 || d.Frames[0].Header.Payload < 21 {
				continue
			}
			if err := d.Write(w.j); err != nil {
				t.Fatal(err)
			}
			w.states[d.Header.Seq] = state
		}
		w.fs.Flip(w.file(seq), (block.DeltaHeaderSize+60)*8)
		var c *block.CorruptionError
		if err := w.j.Merge(context.Background(), 1, 4); !errors.As(err, &c) || c.File != w.file(seq) {
			t.Errorf("merging over damage in %v: %v", seq, err)
		}
		names, err := w.fs.ReadDir(testDir)
		if err != nil || len(names) != 8 || strings.Contains(strings.Join(names, " "), "-") {
			t.Errorf("left: %v %v", names, err)
		}
		if len(w.j.Points()) != 5 {
			t.Errorf("points %v", w.j.Points())
		}
	}
}

// TestMergeStops: one that is told to stop leaves all as it was.
func TestMergeStops(t *testing.T) {
	w := newWorld(t, 42)
	for range 4 {
		w.add(block.ClassCrash)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := w.j.Merge(ctx, 0, 4); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
	names, err := w.fs.ReadDir(testDir)
	if err != nil || len(names) != 7 {
		t.Errorf("left: %v %v", names, err)
	}
	w.expect(2)
}

// TestDamagedMerge: a merged delta that its ends tell is damaged costs nothing of what it was merged from, if that is still
// there, and one that reaches over the position or overlaps another is damage.
func TestDamagedMerge(t *testing.T) {
	for name, spoil := range map[string]func(w *world, merged []byte){
		"its end flipped": func(w *world, merged []byte) {
			merged[len(merged)-60] ^= 1
			w.put("00000000000000000002-00000000000000000003.delta", merged)
		},
		"under another name": func(w *world, merged []byte) {
			w.put("00000000000000000002-00000000000000000004.delta", merged)
		},
		"over the position": func(w *world, merged []byte) {
			if err := w.j.Fold(context.Background(), 2); err != nil {
				w.t.Fatal(err)
			}
			w.put("00000000000000000002-00000000000000000003.delta", merged)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 43)
			for range 4 {
				w.add(block.ClassCrash)
			}
			twin := &world{t: t, fs: w.fs.Clone(), codec: w.codec, dev: w.dev, rng: w.rng, states: w.states}
			var err error
			if twin.j, err = journal.Open(testDir, twin.options()); err != nil {
				t.Fatal(err)
			}
			twin.merge(1, 3)
			merged, err := readFile(twin.fs, testDir+"/00000000000000000002-00000000000000000003.delta")
			if err != nil {
				t.Fatal(err)
			}
			spoil(w, merged)
			w.reopen()
			if !errors.As(w.j.Damage(), new(*block.CorruptionError)) {
				t.Fatalf("damage: %v", w.j.Damage())
			}
			if name != "over the position" && w.fs.Size(w.file(2)) < 0 || w.fs.Size(w.file(3)) < 0 {
				t.Error("a file was dropped")
			}
		})
	}
}

// put makes a file of the journal's directory.
func (w *world) put(name string, content []byte) {
	w.t.Helper()
	f, err := w.fs.OpenFile(testDir+"/"+name, 0o102) // O_RDWR|O_CREATE
	if err == nil {
		_, err = f.WriteAt(content, 0)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		w.t.Fatal(err)
	}
}

// TestPinWhileMerging pins a point in between while a merge writes, which then comes to nothing, and when its file is
// getting its name, which is too late; and while a fold that passes it begins.
func TestPinWhileMerging(t *testing.T) {
	for _, late := range []bool{false, true} {
		w := newWorld(t, 44)
		for range 4 {
			w.add(block.ClassCrash)
		}
		op := map[bool]journaltest.Op{false: journaltest.OpSync, true: journaltest.OpRename}[late]
		asked, pinned := false, error(nil)
		w.fs.Fail = func(o journaltest.Op, name string) error {
			if o == op && strings.Contains(name, "-") && !asked {
				asked, pinned = true, w.j.Pin(2)
			}
			return nil
		}
		err := w.j.Merge(context.Background(), 0, 4)
		w.fs.Fail = nil
		if late {
			if err != nil || !errors.Is(pinned, journal.ErrNoPoint) {
				t.Errorf("pinned too late: %v, merge: %v", pinned, err)
			}
			w.expectPoints(4)
			continue
		}
		if !asked || pinned != nil || !errors.Is(err, journal.ErrPinned) {
			t.Fatalf("asked %v: %v, merge: %v", asked, pinned, err)
		}
		w.expectPoints(1, 2, 3, 4)
		names, err := w.fs.ReadDir(testDir)
		if err != nil || len(names) != 7 {
			t.Errorf("left: %v %v", names, err)
		}
		w.fs.Fail = func(o journaltest.Op, name string) error {
			if o == journaltest.OpWrite && strings.Contains(name, "folded") {
				pinned = w.j.Pin(1)
			}
			return nil
		}
		if err := w.j.Fold(context.Background(), 2); err != nil || !errors.Is(pinned, journal.ErrNoPoint) {
			t.Errorf("pinned what is being folded: %v, fold: %v", pinned, err)
		}
		w.fs.Fail = nil
		w.expectPoints(2, 3, 4)
	}
}
