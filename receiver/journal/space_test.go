package journal_test

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/codec"
	"github.com/understudy-dr/understudy/receiver/journal"
	"github.com/understudy-dr/understudy/receiver/journal/journaltest"
)

// used is what all files take.
func (w *world) used() int {
	w.t.Helper()
	names, err := w.fs.ReadDir(testDir)
	if err != nil {
		w.t.Fatal(err)
	}
	n := 0
	for _, name := range names {
		n += w.fs.Size(testDir + "/" + name)
	}
	return n
}

// spacePhase is something that takes room.
type spacePhase struct {
	step int // by which the room grows, in bytes
	do   func(w *world) error
	done func(w *world) bool
}

// TestNoSpaceInEachPhase runs out of room at each size at which what is done can: it fails with ENOSPC and leaves everything as it
// was, files included, opened again too; and it works when there is room.
func TestNoSpaceInEachPhase(t *testing.T) {
	ctx := context.Background()
	for name, phase := range map[string]spacePhase{
		"merge": {
			173,
			func(w *world) error { return w.j.Merge(ctx, 1, 5) },
			func(w *world) bool { return w.j.Usage().Count == 3 },
		},
		"pin": {
			1,
			func(w *world) error { return w.j.Pin(3) },
			func(w *world) bool { return w.j.Points()[2].Pinned },
		},
		"unpin": {
			1,
			func(w *world) error { return w.j.Unpin(2) },
			func(w *world) bool { return !w.j.Points()[1].Pinned },
		},
		"meta": {
			5,
			func(w *world) error { m := w.j.Meta(); m.Name = "another"; return w.j.SetMeta(m) },
			func(w *world) bool { return w.j.Meta().Name == "another" },
		},
		"position": {
			29,
			func(w *world) error { return w.j.Fold(ctx, 1) },
			func(w *world) bool { return w.j.Usage().Folded == 1 },
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 60)
			for range 6 {
				w.add(block.ClassCrash)
			}
			if name == "unpin" {
				if err := w.j.Pin(2); err != nil {
					t.Fatal(err)
				}
			}
			w.runOut(phase)
			w.check()
			for _, p := range w.j.Points() {
				w.expect(p.Seq)
			}
			w.expect(w.add(block.ClassCrash))
		})
	}
}

// runOut does it with more and more room until it works.
func (w *world) runOut(phase spacePhase) {
	w.t.Helper()
	before, refused := w.used(), 0
	for room := 1; ; room += phase.step {
		w.fs.Limit = block.Size(before + room)
		err := phase.do(w)
		if err == nil {
			break
		}
		refused++
		if !errors.Is(err, syscall.ENOSPC) {
			w.t.Fatalf("%d bytes of room: %v", room, err)
		}
		w.fs.Limit = 0
		if refused%20 == 1 {
			w.reopen()
			w.check()
		}
		if phase.done(w) || w.used() != before {
			w.t.Fatalf("%d bytes of room: done all the same, or %d bytes where %d were", room, w.used(), before)
		}
	}
	if w.fs.Limit = 0; refused == 0 || !phase.done(w) {
		w.t.Fatalf("refused %d times, done %v", refused, phase.done(w))
	}
}

// TestNoSpaceForTheIndex fills the disk where the index of a delta spills, and where that of a merge is sorted by way of a file.
func TestNoSpaceForTheIndex(t *testing.T) {
	w := newWorld(t, 61)
	const frames, size = 70_000, 70_000 * 512
	big := func(seq block.Seq) *journaltest.Delta {
		d := &journaltest.Delta{
			Header: block.DeltaHeader{Disk: w.meta.Disk, Seq: seq, BlockSize: 4096, DiskSize: size, Parent: w.j.Tip().Digest},
			Seal:   block.Seal{Class: block.ClassCrash, Time: time.Unix(int64(seq), 0)},
		}
		for i := range frames {
			off := block.Offset(i*7919%frames) * 512
			d.Frames = append(d.Frames, journaltest.Frame{Header: codec.Zero(block.Range{Off: off, Len: 512})})
		}
		d.Finish(w.codec)
		return d
	}
	spilled := false
	w.fs.Fail = func(op journaltest.Op, name string) error {
		if op == journaltest.OpOpen && (strings.HasSuffix(name, ".spill") || strings.HasSuffix(name, ".sort")) {
			w.fs.Limit, spilled = 1, true // whatever it writes is too much
		}
		return nil
	}
	names := func() int {
		list, err := w.fs.ReadDir(testDir)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	for seq := block.Seq(1); seq <= 2; seq++ {
		d := big(seq)
		fail := w.fs.Fail
		if err := d.Write(w.j); !errors.Is(err, syscall.ENOSPC) || !spilled || w.j.Tip().Seq != seq-1 || names() != 2+int(seq) {
			t.Fatalf("no room for the index of %v: %v, spilled %v, %d files", seq, err, spilled, names())
		}
		w.fs.Fail, w.fs.Limit, spilled = nil, 0, false
		if err := d.Write(w.j); err != nil {
			t.Fatal(err)
		}
		w.fs.Fail = fail
	}
	if err := w.j.Merge(context.Background(), 0, 2); !errors.Is(err, syscall.ENOSPC) || !spilled || len(w.j.Points()) != 2 || names() != 5 {
		t.Fatalf("no room to sort: %v, spilled %v, %d files", err, spilled, names())
	}
	w.fs.Limit = 0
	// A bit that flips in that file would lead to other content, silently.
	w.fs.Fail = func(op journaltest.Op, name string) error {
		if op == journaltest.OpOpen && strings.Contains(name, "-") && strings.HasSuffix(name, ".open") {
			w.fs.Flip(strings.TrimSuffix(name, ".open")+".sort", 4_000_000*8)
		}
		return nil
	}
	var c *block.CorruptionError
	if err := w.j.Merge(context.Background(), 0, 2); !errors.As(err, &c) || !strings.HasSuffix(c.File, ".sort") || names() != 5 {
		t.Fatalf("a flipped bit in the sorted index: %v, %d files", err, names())
	}
	w.fs.Fail = nil
	if err := w.j.Merge(context.Background(), 0, 2); err != nil {
		t.Fatal(err)
	}
	w.check()
}

// TestRetainWithoutRoomForMerging: history gets shorter where there is no room to make it thinner.
func TestRetainWithoutRoomForMerging(t *testing.T) {
	w := newWorld(t, 62)
	for range 12 {
		w.add(block.ClassCrash)
	}
	p := journal.Policy{
		Tiers:    []journal.Tier{{Span: 100 * time.Second}, {Span: time.Hour, Every: 4 * time.Second}},
		MaxBytes: w.j.Usage().Bytes / 2, Now: time.Unix(1e9+12, 0),
	}
	w.fs.Limit = block.Size(w.used() + 2000) // for the position, not for a merge
	w.fs.Fail = func(op journaltest.Op, name string) error {
		if op == journaltest.OpWrite && strings.Contains(name, "-") {
			return syscall.ENOSPC
		}
		return nil
	}
	if err := w.j.Retain(context.Background(), p); err != nil {
		t.Fatal(err)
	}
	if got := w.j.Usage(); got.Bytes > p.MaxBytes || got.Folded == 0 {
		t.Errorf("%+v, at most %v wanted", got, p.MaxBytes)
	}
	for _, pt := range w.j.Points() {
		w.expect(pt.Seq)
	}
	w.expect(12)
}
