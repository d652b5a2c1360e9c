package journal_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/receiver/journal"
	"github.com/understudy-dr/understudy/receiver/journal/journaltest"
)

// failSyncAfter fails the first sync of the directory after a rename to a name with that part.
func (w *world) failSyncAfter(part string) {
	armed := false
	w.fs.Fail = func(op journaltest.Op, name string) error {
		switch {
		case op == journaltest.OpRename && strings.Contains(name, part):
			armed = true
		case op == journaltest.OpSyncDir && armed:
			armed, part = false, "no such name"
			return errFault
		}
		return nil
	}
}

// TestTargetInDoubt: a fold whose target failed to be made durable may have begun as far as the disk is concerned. What that
// would take can't be pinned, and no delta up to it is merged.
func TestTargetInDoubt(t *testing.T) {
	w, ctx := newWorld(t, 80), context.Background()
	for range 6 {
		w.add(block.ClassCrash)
	}
	w.failSyncAfter("folded")
	if err := w.j.Fold(ctx, 3); !errors.Is(err, errFault) {
		t.Fatalf("fold: %v", err)
	}
	w.fs.Fail = nil
	w.expectPoints(1, 2, 3, 4, 5, 6)
	if err := w.j.Pin(2); !errors.Is(err, journal.ErrFolding) {
		t.Errorf("pinned what a crash may take: %v", err)
	}
	w.merge(0, 6)
	w.expectPoints(1, 2, 3, 6)
	if err := w.j.Pin(3); err != nil {
		t.Errorf("pin the target: %v", err)
	}
	w.reopen() // the disk kept what failed to be synced
	w.expectPoints(3, 6)
	if err := w.j.Fold(ctx, 3); err != nil {
		t.Fatal(err)
	}
	w.expectPoints(3, 6)
}

// TestMergeInDoubt: a merged delta that failed to get its name may come back with a crash. Before a position or another merge
// is written, its removal is made durable.
func TestMergeInDoubt(t *testing.T) {
	for name, next := range map[string]func(w *world) error{
		"fold":  func(w *world) error { return w.j.Fold(context.Background(), 2) },
		"merge": func(w *world) error { return w.j.Merge(context.Background(), 1, 5) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 81)
			for range 6 {
				w.add(block.ClassCrash)
			}
			w.failSyncAfter("-")
			if err := w.j.Merge(context.Background(), 0, 4); !errors.Is(err, errFault) {
				t.Fatalf("merge: %v", err)
			}
			w.expectPoints(1, 2, 3, 4, 5, 6)
			synced, tooEarly := false, false
			w.fs.Fail = func(op journaltest.Op, name string) error {
				synced = synced || op == journaltest.OpSyncDir
				tooEarly = tooEarly || op == journaltest.OpRename && !synced
				return nil
			}
			if err := next(w); err != nil || tooEarly {
				t.Errorf("%v, too early %v", err, tooEarly)
			}
			w.fs.Fail = nil
			w.check()
			w.reopen()
			w.check()
			w.expect(6)
		})
	}
}
