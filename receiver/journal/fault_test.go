package journal_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/receiver/journal"
	"github.com/understudy-dr/understudy/receiver/journal/journaltest"
	"github.com/understudy-dr/understudy/receiver/volume/volumetest"
)

// TestNoSpace fills the disk at every size at which a delta can run out of it: the delta does not exist, all else is as it was,
// and when there is room the same delta goes in.
func TestNoSpace(t *testing.T) {
	w := newWorld(t, 20)
	w.add(block.ClassCrash)
	d, state := w.next(block.ClassCrash)
	var used, refused int
	names, err := w.fs.ReadDir(testDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		used += w.fs.Size(testDir + "/" + name)
	}
	for room := 0; ; room += 97 {
		w.fs.Limit = block.Size(used + room + 1)
		err := d.Write(w.j)
		if err == nil {
			break
		}
		refused++
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("%d bytes of room: %v", room, err)
		}
		if w.j.Tip().Seq != 1 || w.fs.Size(w.file(2)) >= 0 || w.fs.Size(w.file(2)+".open") >= 0 {
			t.Fatalf("%d bytes of room: tip %v, %d, %d", room, w.j.Tip().Seq, w.fs.Size(w.file(2)), w.fs.Size(w.file(2)+".open"))
		}
		w.expect(1)
	}
	if refused == 0 {
		t.Fatal("never out of space")
	}
	w.states[2] = state
	w.expect(2)
	w.fs.Limit = 1
	if err := w.j.Fold(context.Background(), 2); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("folding without room for the position: %v", err)
	}
	if len(w.j.Points()) != 2 {
		t.Errorf("points %v: nothing was folded, both should be there", w.j.Points())
	}
	w.expect(1)
	w.fs.Limit = 0
	if err := w.j.Fold(context.Background(), 2); err != nil {
		t.Fatal(err)
	}
	w.expect(2)
}

// TestEachOperationFails fails one operation after the other, once each, of a history. What nil was returned for must be
// there, now and after opening again.
func TestEachOperationFails(t *testing.T) {
	failures := 0
	for n := 0; ; n++ {
		w, left, hit := newWorld(t, 21), n, false
		fail := func() error {
			if left--; left == -1 {
				hit = true
				return errFault
			}
			return nil
		}
		w.fs.Fail = func(journaltest.Op, string) error { return fail() }
		w.dev.Fail = func(volumetest.Op, block.Range) error { return fail() }
		for i := range 6 {
			tip := w.j.Tip().Seq
			d, state := w.next(block.ClassCrash)
			if err := d.Write(w.j); err == nil {
				w.states[d.Header.Seq] = state
			} else if !errors.Is(err, errFault) || w.j.Tip().Seq != tip {
				t.Fatalf("operation %d: %v, tip %v after %v", n, err, w.j.Tip().Seq, tip)
			}
			if i%3 == 2 {
				if err := w.j.Fold(context.Background(), w.j.Tip().Seq-1); err != nil && !errors.Is(err, errFault) {
					t.Fatalf("operation %d: fold: %v", n, err)
				}
			}
		}
		w.fs.Fail = nil
		left = -2
		for range 2 {
			for _, p := range w.j.Points() {
				w.expect(p.Seq)
			}
			w.expect(w.j.Tip().Seq)
			w.reopen()
			if err := errors.Join(w.j.Damage(), w.j.Check(context.Background(), nil)); err != nil {
				t.Fatalf("operation %d: %v", n, err)
			}
		}
		w.expect(w.add(block.ClassCrash))
		if !hit {
			break
		}
		failures++
	}
	if failures < 50 {
		t.Errorf("only %d operations failed", failures)
	}
}

// TestEveryFlippedBit flips a bit of every byte of every file. Open, Check and Damage must tell, naming file and offset; a
// view or a fold may fail but never give or write other bytes than the model has.
func TestEveryFlippedBit(t *testing.T) {
	w := newWorld(t, 22)
	for range 6 {
		w.add(block.ClassCrash)
	}
	if err := w.j.Fold(context.Background(), 1); err != nil {
		t.Fatal(err)
	}
	if err := w.j.Merge(context.Background(), 3, 5); err != nil {
		t.Fatal(err)
	}
	if err := w.j.Pin(3); err != nil {
		t.Fatal(err)
	}
	names, err := w.fs.ReadDir(testDir)
	if err != nil || len(names) != 7 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		path := testDir + "/" + name
		step := max(1, w.fs.Size(path)/700)
		for off := 0; off < w.fs.Size(path); off += step {
			bit := off*8 + w.rng.IntN(8)
			w.fs.Flip(path, bit)
			w.expectFound(path, off)
			w.fs.Flip(path, bit)
		}
	}
	w.reopen()
	if err := w.j.Check(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
}

// expectFound opens a journal with a flipped byte.
func (w *world) expectFound(path string, off int) {
	w.t.Helper()
	j, err := journal.Open(testDir, w.options())
	if err != nil {
		var c *block.CorruptionError
		if !(errors.As(err, &c) && c.File == path) && !(errors.Is(err, block.ErrVersion) && strings.Contains(err.Error(), path)) {
			w.t.Fatalf("%s, byte %d: open: %v", path, off, err)
		}
		return
	}
	defer j.Close()
	var c *block.CorruptionError
	if err := j.Check(context.Background(), nil); !errors.As(err, &c) || c.File != path || int(c.Off) > off {
		w.t.Fatalf("%s, byte %d: check: %v", path, off, err)
	}
	for seq := block.Seq(1); seq <= 6; seq++ {
		v, err := j.View(seq)
		if err != nil {
			if !errors.Is(err, journal.ErrNoPoint) && !errors.As(err, new(*block.CorruptionError)) {
				w.t.Fatalf("%s, byte %d: view: %v", path, off, err)
			}
			continue
		}
		for pos := 0; pos < len(w.states[seq]); pos += 4096 {
			err := readEqual(v, int64(pos), w.states[seq][pos:min(pos+4096, len(w.states[seq]))])
			if err != nil && !errors.As(err, new(*block.CorruptionError)) {
				w.t.Fatalf("%s, byte %d: view %v: %v", path, off, seq, err)
			}
		}
		v.Close()
	}
}

// TestDamageStopsFold: the volume of a damaged journal does not get to a point that it is not.
func TestDamageStopsFold(t *testing.T) {
	w := newWorld(t, 23)
	for w.j.Tip().Seq < 4 {
		d, state := w.next(block.ClassCrash)
		if len(d.Frames) == 0 || d.Frames[0].Header.Payload < 21 {
			continue
		}
		if err := d.Write(w.j); err != nil {
			t.Fatal(err)
		}
		w.states[d.Header.Seq] = state
	}
	w.fs.Flip(w.file(3), (block.DeltaHeaderSize+60)*8)
	err := w.j.Fold(context.Background(), 4)
	var c *block.CorruptionError
	if !errors.As(err, &c) || c.File != w.file(3) || c.Off != block.DeltaHeaderSize || c.Seq != 3 {
		t.Fatalf("folding over damage: %v", err)
	}
	if got := w.j.Usage().Folded; got >= 3 {
		t.Errorf("folded up to %v", got)
	}
	if w.fs.Size(w.file(3)) < 0 || w.fs.Size(w.file(4)) < 0 {
		t.Error("files were dropped")
	}
}

// TestDamagedEnds: damage that Open finds leaves what is before it in service, and takes nothing more in.
func TestDamagedEnds(t *testing.T) {
	for name, spoil := range map[string]func(w *world){
		"header": func(w *world) { w.fs.Flip(w.file(3), 100) },
		"footer": func(w *world) { w.fs.Flip(w.file(3), (w.fs.Size(w.file(3))-20)*8) },
		"missing": func(w *world) {
			if err := w.fs.Remove(w.file(3)); err != nil {
				w.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 24)
			for range 4 {
				w.add(block.ClassCrash)
			}
			next, _ := w.next(block.ClassCrash)
			spoil(w)
			w.reopen()
			var c *block.CorruptionError
			if err := w.j.Damage(); !errors.As(err, &c) || c.File != w.file(3) {
				t.Fatalf("damage: %v", err)
			}
			if len(w.j.Points()) != 2 {
				t.Errorf("points %v", w.j.Points())
			}
			w.expect(2)
			if _, err := w.j.View(4); !errors.As(err, &c) {
				t.Errorf("a view beyond the damage: %v", err)
			}
			if _, err := w.j.Begin(next.Header); !errors.As(err, &c) {
				t.Errorf("a delta beyond the damage: %v", err)
			}
			again := fmt.Sprint(w.j.Damage())
			if w.reopen(); fmt.Sprint(w.j.Damage()) != again {
				t.Errorf("opened again it says %v", w.j.Damage())
			}
			if w.fs.Size(w.file(4)) < 0 {
				t.Error("opening dropped a delta that was acknowledged")
			}
		})
	}
}
