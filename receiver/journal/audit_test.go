package journal_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/receiver/journal"
	"github.com/understudy-dr/understudy/receiver/journal/journaltest"
	"github.com/understudy-dr/understudy/receiver/volume/volumetest"
)

func TestAuditOfACleanCopy(t *testing.T) {
	w := newWorld(t, 70)
	for range 6 {
		w.add(block.ClassCrash)
	}
	if err := w.j.Fold(context.Background(), 2); err != nil {
		t.Fatal(err)
	}
	w.merge(3, 5)
	var last, total block.Size
	a, err := w.j.Audit(context.Background(), func(done, all block.Size) error {
		if done < last {
			t.Errorf("%v after %v", done, last)
		}
		last, total = done, all
		return nil
	})
	if err != nil || !a.Clean() || a.Err() != nil || last != total || total == 0 {
		t.Fatalf("%+v, %v, %v of %v", a, err, last, total)
	}
	digest := w.codec.NewDigest()
	digest.Write(w.states[2])
	if a.Deltas != 3 || a.Tip != w.j.Tip() || a.Volume.Seq != 2 || a.Volume.Digest == nil || [32]byte(digest.Sum(nil)) != *a.Volume.Digest {
		t.Errorf("%+v", a)
	}
	stop := errors.New("gone")
	if _, err := w.j.Audit(context.Background(), func(block.Size, block.Size) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("nobody listens: %v", err)
	}
	if err := w.j.Fold(context.Background(), 5); err != nil || w.j.Usage().Folded != 5 {
		t.Errorf("an audit that ended holds folding up: %v", err)
	}
}

// TestAuditNamesAllDamage: it goes on after the first, and tells what of the volume can't be read.
func TestAuditNamesAllDamage(t *testing.T) {
	w := newWorld(t, 71)
	for range 6 {
		w.add(block.ClassCrash)
	}
	if err := w.j.Fold(context.Background(), 1); err != nil {
		t.Fatal(err)
	}
	w.fs.Flip(w.file(3), (block.DeltaHeaderSize+10)*8)
	w.fs.Flip(w.file(5), (w.fs.Size(w.file(5))-60)*8)
	w.fs.Flip(testDir+"/pins.json", 100)
	bad := block.Range{Off: 12288, Len: 5000} // of two blocks
	w.dev.Fail = func(op volumetest.Op, r block.Range) error {
		if op == volumetest.OpRead && !r.Intersect(bad).Empty() {
			return io.ErrClosedPipe
		}
		return nil
	}
	a, err := w.j.Audit(context.Background(), nil)
	if err != nil || a.Clean() || a.Err() == nil {
		t.Fatalf("%+v, %v", a, err)
	}
	var files []string
	for _, d := range a.Damage {
		files = append(files, d.File)
		if d.File == w.file(3) && d.Offset != block.DeltaHeaderSize {
			t.Errorf("damage at %v", d.Offset)
		}
	}
	slices.Sort(files)
	want := []string{w.file(3), w.file(5), testDir + "/pins.json"}
	if !slices.Equal(files, want) {
		t.Errorf("damage in %v, want %v", files, want)
	}
	if v := a.Volume; !slices.Equal(v.Unreadable, []block.Range{{Off: 12288, Len: 8192}}) || v.Digest != nil || v.Error == "" {
		t.Errorf("volume %+v", v)
	}
}

// TestAuditTellsDamageFromAReadThatFailed: the one stops the copy, the other may go away.
func TestAuditTellsDamageFromAReadThatFailed(t *testing.T) {
	w := newWorld(t, 73)
	for range 3 {
		w.add(block.ClassCrash)
	}
	w.fs.Fail = func(op journaltest.Op, name string) error {
		if op == journaltest.OpRead && name == w.file(2) {
			return errFault
		}
		return nil
	}
	a, err := w.j.Audit(context.Background(), nil)
	if err != nil || a.Clean() || a.Err() != nil || a.Damage[0].File != w.file(2) {
		t.Errorf("%+v, %v, %v", a, a.Err(), err)
	}
}

// TestAuditHoldsFolding: as long as it runs the volume stays where it is.
func TestAuditHoldsFolding(t *testing.T) {
	w := newWorld(t, 72)
	for range 5 {
		w.add(block.ClassCrash)
	}
	asked := false
	a, err := w.j.Audit(context.Background(), func(done, total block.Size) error {
		if !asked {
			asked = true
			w.merge(0, 3)
			if err := w.j.Fold(context.Background(), 5); !errors.Is(err, journal.ErrViewOpen) {
				t.Errorf("folding under an audit: %v", err)
			}
		}
		if w.j.Usage().Folded != 0 {
			t.Error("folded under an audit")
		}
		return nil
	})
	if err != nil || !a.Clean() || a.Deltas != 5 {
		t.Errorf("%+v, %v", a, err)
	}
	if w.fs.Size(w.file(2)) >= 0 {
		t.Error("a file that was merged away under an audit is still there")
	}
}
