package journal_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/codec"
	"github.com/understudy-dr/understudy/receiver/journal"
	"github.com/understudy-dr/understudy/receiver/journal/journaltest"
	"github.com/understudy-dr/understudy/receiver/volume"
)

var update = flag.Bool("update", false, "write testdata anew")

// newReal makes a journal with a volume on the real filesystem.
func newReal(t testing.TB) (string, *journal.Journal, *volume.File, *codec.Codec, block.DiskID) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := codec.New()
	if err != nil {
		t.Fatal(err)
	}
	v, err := volume.OpenFile(filepath.Join(dir, "volume.raw"), true, 0)
	if err != nil {
		t.Fatal(err)
	}
	id, err := block.ParseDiskID("6f1c0a52-93c4-4b8e-8a39-5f0f3d1c7e21")
	if err != nil {
		t.Fatal(err)
	}
	m := journal.Meta{Disk: id, Name: "sda", Host: "web1", Size: 1 << 30, BlockSize: 4096, Created: time.Unix(1767225600, 0).UTC()}
	j, err := journal.Create(dir, m, journal.Options{Codec: c, Volume: v})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(j.Close(), v.Close()); err != nil {
			t.Error(err)
		}
	})
	return dir, j, v, c, id
}

// example is the delta of docs/JOURNAL.md.
func example(c block.Codec, id block.DiskID) *journaltest.Delta {
	enc, err := codec.NewEncoder(codec.LevelZstd)
	if err != nil {
		panic(err)
	}
	d := &journaltest.Delta{
		Header: block.DeltaHeader{Disk: id, Seq: 1, BlockSize: 4096, DiskSize: 1 << 20},
		Seal:   block.Seal{Class: block.ClassCrash, Time: time.Unix(1767225605, 250e6).UTC(), Labels: map[string]string{"host": "web1"}},
	}
	plain := make([]byte, 4096)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range plain {
		plain[i] = byte(rng.Uint32())
	}
	for _, data := range [][]byte{plain, bytes.Repeat([]byte("understudy"), 820)[:8192]} {
		f := enc.Data(block.Offset(len(data)), data)
		d.Frames = append(d.Frames, journaltest.Frame{Header: f.Header, Payload: bytes.Clone(f.Payload)})
	}
	d.Frames = append(d.Frames, journaltest.Frame{Header: codec.Zero(block.Range{Off: 16384, Len: 1<<20 - 16384})})
	d.Finish(c)
	return d
}

// TestDump holds the listing of a fixed delta against the text that docs/JOURNAL.md shows.
func TestDump(t *testing.T) {
	dir, j, _, c, id := newReal(t)
	if err := example(c, id).Write(j); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "00000000000000000001.delta")
	var text bytes.Buffer
	if err := journal.Dump(&text, file, c, false); err != nil {
		t.Fatal(err)
	}
	if err := journal.Dump(&text, filepath.Join(dir, "journal.json"), c, false); err != nil {
		t.Fatal(err)
	}
	if err := j.Fold(context.Background(), 0); err != nil {
		t.Fatal(err)
	}
	if err := journal.Dump(&text, filepath.Join(dir, "folded.json"), c, false); err != nil {
		t.Fatal(err)
	}
	kinds := dumpKinds(t, file, c)
	if got := strings.Join(kinds, " "); got != "header frame frame frame index seal footer" {
		t.Errorf("JSON lines: %s", got)
	}
	merged := mergeExample(t, dir, j, c, id)
	for _, file := range []string{merged, filepath.Join(dir, "pins.json")} {
		if err := journal.Dump(&text, file, c, false); err != nil {
			t.Fatal(err)
		}
	}
	golden := filepath.Join("testdata", "dump.txt")
	if *update {
		if err := os.WriteFile(golden, text.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if text.String() != string(want) {
		t.Errorf("the dump is now\n%s", text.String())
	}
	doc, err := os.ReadFile("../../docs/JOURNAL.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(doc), string(want)) {
		t.Error("docs/JOURNAL.md shows another dump than testdata/dump.txt")
	}
	kinds = dumpKinds(t, merged, c)
	if got := strings.Join(kinds, " "); got != "header frame frame frame frame index seal merge footer" {
		t.Errorf("JSON lines: %s", got)
	}
}

// mergeExample merges the example and a delta that overwrites a part of its second frame, and pins the point that is left.
func mergeExample(t *testing.T, dir string, j *journal.Journal, c block.Codec, id block.DiskID) string {
	t.Helper()
	enc, err := codec.NewEncoder(codec.LevelZstd)
	if err != nil {
		t.Fatal(err)
	}
	d := &journaltest.Delta{
		Header: block.DeltaHeader{Disk: id, Seq: 2, BlockSize: 4096, DiskSize: 1 << 20, Parent: j.Tip().Digest},
		Seal:   block.Seal{Class: block.ClassCrash, Time: time.Unix(1767225610, 250e6).UTC(), Labels: map[string]string{"host": "web1"}},
	}
	f := enc.Data(12288, bytes.Repeat([]byte("stage "), 683)[:4096])
	d.Frames = []journaltest.Frame{{Header: f.Header, Payload: bytes.Clone(f.Payload)}}
	d.Finish(c)
	if err := errors.Join(d.Write(j), j.Merge(context.Background(), 0, 2), j.Pin(2)); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "00000000000000000001-00000000000000000002.delta")
}

// dumpKinds are the kinds of the JSON lines.
func dumpKinds(t *testing.T, file string, c block.Codec) (kinds []string) {
	t.Helper()
	var out bytes.Buffer
	if err := journal.Dump(&out, file, c, true); err != nil {
		t.Fatal(err)
	}
	for dec := json.NewDecoder(&out); ; {
		var line struct{ Is string }
		err := dec.Decode(&line)
		if errors.Is(err, io.EOF) {
			return kinds
		}
		if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, line.Is)
	}
}

func TestDumpOfDamageAndOfUnfinished(t *testing.T) {
	dir, j, _, c, id := newReal(t)
	d := example(c, id)
	w, err := j.Begin(d.Header)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Abort(); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(dir, "copy.open")
	raw := d.Header.Append(nil)
	raw = append(append(raw, d.Frames[0].Raw()...), d.Frames[1].Raw()[:50]...)
	if err := os.WriteFile(open, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(dumpKinds(t, open, c), " "); got != "header frame unsealed" {
		t.Errorf("unfinished: %s", got)
	}
	if err := d.Write(j); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "00000000000000000001.delta")
	raw, err = os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	raw[block.DeltaHeaderSize+40+4096+45] ^= 4
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	var c2 *block.CorruptionError
	if err := journal.Dump(io.Discard, file, c, false); !errors.As(err, &c2) || c2.Off != block.DeltaHeaderSize+40+4096 || c2.File != file {
		t.Errorf("damaged: %v", err)
	}
	if err := journal.Dump(io.Discard, filepath.Join(dir, "volume.raw"), c, false); err == nil {
		t.Error("a volume was taken for a file of the journal")
	}
}

// TestManyFrames makes the index of a delta spill, and reads all of it back, from the delta and from the volume.
func TestManyFrames(t *testing.T) {
	_, j, v, c, id := newReal(t)
	const frames = 100_000 // 2.7 MiB of index
	h := block.DeltaHeader{Disk: id, Seq: 1, BlockSize: 4096, DiskSize: frames * 512}
	d := &journaltest.Delta{Header: h, Seal: block.Seal{Class: block.ClassCrash, Time: time.Unix(5, 0)}}
	want := make([]byte, h.DiskSize)
	enc, err := codec.NewEncoder(codec.LevelNone)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range rand.New(rand.NewPCG(3, 3)).Perm(frames) {
		p := want[i*512 : (i+1)*512]
		copy(p, bytes.Repeat([]byte{byte(i), byte(i >> 8), 7, byte(i >> 16)}, 128))
		f := enc.Data(block.Offset(i*512), p)
		d.Frames = append(d.Frames, journaltest.Frame{Header: f.Header, Payload: f.Payload})
	}
	d.Finish(c)
	if err := d.Write(j); err != nil {
		t.Fatal(err)
	}
	if err := j.Check(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		view, err := j.View(1)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if _, err := view.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("a view of many frames: %v", err)
		}
		if err := view.Close(); err != nil {
			t.Fatal(err)
		}
		if err := j.Fold(context.Background(), 1); err != nil {
			t.Fatal(err)
		}
	}
	if v.Geometry().Size != h.DiskSize {
		t.Errorf("volume of %v", v.Geometry().Size)
	}
}

// TestSideBySide appends, views, folds, merges, pins and checks at once; the race detector watches.
func TestSideBySide(t *testing.T) {
	_, j, _, c, id := newReal(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	loop := func(what string, f func() error) {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := f(); err != nil && ctx.Err() == nil {
					t.Errorf("%s: %v", what, err)
					return
				}
			}
		})
	}
	loop("retain", func() error {
		tiers := []journal.Tier{{Span: 4 * time.Second}, {Span: 20 * time.Second, Every: 5 * time.Second}, {Span: time.Minute, Every: 20 * time.Second}}
		return j.Retain(ctx, journal.Policy{Tiers: tiers, Now: time.Unix(int64(j.Tip().Seq), 0)})
	})
	loop("pin", func() error { return pinOne(j) })
	loop("check", func() error { return j.Check(ctx, nil) })
	for range 2 {
		loop("view", func() error { return readOne(j) })
	}
	for seq := block.Seq(1); seq <= 150; seq++ {
		if err := stripe(j, c, id, seq).Write(j); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	wg.Wait()
}

// stripe is a delta after which each block of the disk holds its number's low byte: all 64 KiB are of one value.
func stripe(j *journal.Journal, c block.Codec, id block.DiskID, seq block.Seq) *journaltest.Delta {
	d := &journaltest.Delta{
		Header: block.DeltaHeader{Disk: id, Seq: seq, BlockSize: 4096, DiskSize: 65536, Parent: j.Tip().Digest},
		Seal:   block.Seal{Class: block.ClassCrash, Time: time.Unix(int64(seq), 0)},
	}
	enc, err := codec.NewEncoder(codec.LevelS2)
	if err != nil {
		panic(err)
	}
	for off := 0; off < 65536; off += 8192 {
		f := enc.Data(block.Offset(off), bytes.Repeat([]byte{byte(seq)}, 8192))
		d.Frames = append(d.Frames, journaltest.Frame{Header: f.Header, Payload: bytes.Clone(f.Payload)})
	}
	d.Finish(c)
	return d
}

// pinOne pins a point for a moment, and misses it if it goes meanwhile.
func pinOne(j *journal.Journal) error {
	points := j.Points()
	if len(points) == 0 {
		return nil
	}
	seq := points[rand.IntN(len(points))].Seq
	if err := j.Pin(seq); errors.Is(err, journal.ErrNoPoint) { // gone meanwhile
		return nil
	} else if err != nil {
		return err
	}
	for range 3 {
		v, err := j.View(seq)
		if err != nil {
			return err
		}
		if err := errors.Join(readStripe(v), v.Close()); err != nil {
			return err
		}
	}
	return j.Unpin(seq)
}

// readOne reads some point, twice over, in small pieces.
func readOne(j *journal.Journal) error {
	points := j.Points()
	if len(points) == 0 {
		return nil
	}
	seq := points[rand.IntN(len(points))].Seq
	v, err := j.View(seq)
	if errors.Is(err, journal.ErrNoPoint) { // folded or merged meanwhile
		return nil
	}
	if err != nil {
		return err
	}
	defer v.Close()
	return readStripe(v)
}

func readStripe(v *journal.View) error {
	for off := int64(0); off < 65536; off += 1000 {
		n := min(1000, 65536-off)
		if err := readEqual(v, off, bytes.Repeat([]byte{byte(v.Seq())}, int(n))); err != nil {
			return err
		}
	}
	for range 2 { // whole frames are read anew, the second time through a map
		for off := int64(0); off < 65536; off += 8192 {
			if err := readEqual(v, off, bytes.Repeat([]byte{byte(v.Seq())}, 8192)); err != nil {
				return err
			}
		}
	}
	return nil
}

// TestAppendDoesNotAllocate: a frame costs a copy and a digest, no memory.
func TestAppendDoesNotAllocate(t *testing.T) {
	_, j, _, _, id := newReal(t)
	w, err := j.Begin(block.DeltaHeader{Disk: id, Seq: 1, BlockSize: 4096, DiskSize: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	frame, n := make([]byte, 0, 40+65536), uint32(0)
	payload := make([]byte, 65536)
	add := func() {
		h := block.FrameHeader{Kind: block.FrameData, Payload: 65536, Range: block.Range{Off: 0, Len: 65536}, Number: n}
		n++
		frame = append(h.Append(frame[:0]), payload...)
		if err := w.Append(h, frame); err != nil {
			t.Fatal(err)
		}
	}
	for range 200 { // the index's memory grows
		add()
	}
	w.Abort()
	if w, err = j.Begin(block.DeltaHeader{Disk: id, Seq: 1, BlockSize: 4096, DiskSize: 1 << 40}); err != nil {
		t.Fatal(err)
	}
	n = 0
	for range 150 {
		add()
	}
	if got := testing.AllocsPerRun(100, add); got > 0 {
		t.Errorf("%v allocations for a frame", got)
	}
}

// BenchmarkAppend is the journal's part of what comes in: 64 KiB frames, a commit each 64 MiB.
func BenchmarkAppend(b *testing.B) {
	_, j, _, c, id := newReal(b)
	payload := make([]byte, 65536)
	b.SetBytes(65536)
	b.ReportAllocs()
	var w *journal.Writer
	var chain *block.Chain
	var s block.Seal
	frame := make([]byte, 0, 40+65536)
	commit := func() {
		s.Digest = chain.Seal(s)
		if err := w.Commit(s); err != nil {
			b.Fatal(err)
		}
		w = nil
	}
	for b.Loop() {
		if w == nil {
			h := block.DeltaHeader{Disk: id, Seq: j.Tip().Seq + 1, BlockSize: 4096, DiskSize: 1 << 40, Parent: j.Tip().Digest}
			var err error
			if w, err = j.Begin(h); err != nil {
				b.Fatal(err)
			}
			chain, s = block.NewChain(c, h), block.Seal{Seq: h.Seq, Time: time.Now()}
		}
		h := block.FrameHeader{Kind: block.FrameData, Payload: 65536, Range: block.Range{Len: 65536}, Number: uint32(s.Frames)}
		frame = append(h.Append(frame[:0]), payload...)
		chain.Write(frame)
		if err := w.Append(h, frame); err != nil {
			b.Fatal(err)
		}
		s.Frames, s.Payload, s.Covered = s.Frames+1, s.Payload+65536, s.Covered+65536
		if s.Frames == 1024 {
			commit()
		}
	}
	if w != nil {
		commit()
	}
}
