package journal_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/receiver/journal"
	"github.com/understudy-dr/understudy/receiver/journal/journaltest"
)

func TestPointsAndViews(t *testing.T) {
	w := newWorld(t, 1)
	if got := w.j.Tip(); got != (journal.Tip{}) || len(w.j.Points()) != 0 {
		t.Fatalf("a new journal has tip %+v and points %v", got, w.j.Points())
	}
	w.expect(0)
	for i := range 12 {
		w.add([]block.Class{block.ClassNone, block.ClassCrash, block.ClassApplication}[i%3])
	}
	for range 2 {
		for seq := range block.Seq(13) {
			w.expect(seq)
		}
		points := w.j.Points()
		if len(points) != 8 || points[0].Seq != 2 || points[0].Class != block.ClassCrash || points[0].Labels["host"] != "web1" {
			t.Fatalf("points %+v", points)
		}
		if points[7].Bytes != block.Size(w.fs.Size(w.file(12))) || points[7].File != "00000000000000000012.delta" {
			t.Fatalf("newest point %+v, the file has %d bytes", points[7], w.fs.Size(w.file(12)))
		}
		if err := w.j.Check(context.Background(), nil); err != nil {
			t.Fatal(err)
		}
		w.reopen()
	}
	_, err := w.j.View(13)
	if !errors.Is(err, journal.ErrNoPoint) || !strings.Contains(err.Error(), "#12") {
		t.Errorf("a view of what is not there: %v: it should name the nearest", err)
	}
	if got := w.j.Meta(); got != w.meta {
		t.Errorf("meta %+v, want %+v", got, w.meta)
	}
}

func TestBeginChecks(t *testing.T) {
	w := newWorld(t, 2)
	w.add(block.ClassCrash)
	m := w.meta
	m.Generation = 3
	if err := w.j.SetMeta(m); err != nil {
		t.Fatal(err)
	}
	w.reopen()
	good, _ := w.next(block.ClassCrash)
	good.Header.Generation = 3
	for name, c := range map[string]struct {
		change func(h *block.DeltaHeader)
		want   error
	}{
		"too new":         {func(h *block.DeltaHeader) { h.Seq++ }, journal.ErrTip},
		"again":           {func(h *block.DeltaHeader) { h.Seq-- }, journal.ErrTip},
		"another parent":  {func(h *block.DeltaHeader) { h.Parent[5]++ }, journal.ErrTip},
		"another disk":    {func(h *block.DeltaHeader) { h.Disk[0]++ }, nil},
		"old generation":  {func(h *block.DeltaHeader) { h.Generation = 2 }, journal.ErrGeneration},
		"smaller disk":    {func(h *block.DeltaHeader) { h.DiskSize = 4096 }, journal.ErrShrunk},
		"impossible disk": {func(h *block.DeltaHeader) { h.DiskSize = block.MaxDiskSize + 1 }, block.ErrOutOfRange},
		"no block size":   {func(h *block.DeltaHeader) { h.BlockSize = 1000 }, nil},
	} {
		h := good.Header
		c.change(&h)
		if _, err := w.j.Begin(h); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	first, err := w.j.Begin(good.Header)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.j.Begin(good.Header); !errors.Is(err, journal.ErrBusy) {
		t.Errorf("two at a time: %v", err)
	}
	if err := errors.Join(first.Abort(), first.Abort()); err != nil {
		t.Error(err)
	}
	if err := first.Append(block.FrameHeader{}, nil); err == nil {
		t.Error("a frame after Abort")
	}
	m.Generation = 2
	if err := w.j.SetMeta(m); !errors.Is(err, journal.ErrGeneration) {
		t.Errorf("generation lowered: %v", err)
	}
	m.Generation, m.Disk = 4, block.NewDiskID()
	if err := w.j.SetMeta(m); err == nil {
		t.Error("another disk in the meta")
	}
}

func TestTheDeltasOwnGenerationFences(t *testing.T) {
	w := newWorld(t, 3)
	d, state := w.next(block.ClassCrash)
	d.Header.Generation = 5
	d.Finish(w.codec)
	if err := d.Write(w.j); err != nil {
		t.Fatal(err)
	}
	w.states[1] = state
	for _, folded := range []bool{false, true} {
		if folded {
			if err := w.j.Fold(context.Background(), 1); err != nil {
				t.Fatal(err)
			}
		}
		w.reopen()
		old, _ := w.next(block.ClassCrash)
		old.Header.Generation = 4
		if _, err := w.j.Begin(old.Header); !errors.Is(err, journal.ErrGeneration) {
			t.Errorf("folded %v: generation 4 after 5: %v", folded, err)
		}
	}
}

// TestAppendAndCommitCheck holds that a frame or seal that does not fit leaves no delta behind, and that the next one can come.
func TestAppendAndCommitCheck(t *testing.T) {
	w := newWorld(t, 4)
	w.add(block.ClassCrash)
	for name, spoil := range map[string]func(d *journaltest.Delta){
		"frame past the end": func(d *journaltest.Delta) { d.Header.DiskSize = w.j.Tip().Size; d.Frames[0].Header.Range.Off = 1 << 30 },
		"payload cut":        func(d *journaltest.Delta) { d.Frames[0].Payload = d.Frames[0].Payload[1:] },
		"seal's frames":      func(d *journaltest.Delta) { d.Seal.Frames++ },
		"seal's payload":     func(d *journaltest.Delta) { d.Seal.Payload++ },
		"seal's covered":     func(d *journaltest.Delta) { d.Seal.Covered-- },
		"seal's digest":      func(d *journaltest.Delta) { d.Seal.Digest[31] ^= 1 },
		"seal's class":       func(d *journaltest.Delta) { d.Seal.Class = block.ClassApplication },
		"seal's seq":         func(d *journaltest.Delta) { d.Seal.Seq++ },
		"frame's order":      func(d *journaltest.Delta) { d.Frames[0], d.Frames[1] = d.Frames[1], d.Frames[0] },
		"no such class":      func(d *journaltest.Delta) { d.Seal.Class = 9 },
	} {
		d, _ := w.next(block.ClassCrash)
		for len(d.Frames) < 2 || d.Frames[0].Header.Kind != block.FrameData {
			d, _ = w.next(block.ClassCrash)
		}
		spoil(d)
		if err := d.Write(w.j); err == nil {
			t.Errorf("%s: taken", name)
		} else if strings.HasPrefix(name, "seal's") && !errors.Is(err, journal.ErrSeal) {
			t.Errorf("%s: %v", name, err)
		}
		if got := w.j.Tip().Seq; got != 1 {
			t.Fatalf("%s: tip %v", name, got)
		}
	}
	names, err := w.fs.ReadDir(testDir)
	if err != nil || len(names) != 4 {
		t.Errorf("files left: %v, %v", names, err)
	}
	w.expect(w.add(block.ClassCrash))
}

func TestFold(t *testing.T) {
	w, ctx := newWorld(t, 5), context.Background()
	for range 10 {
		w.add(block.ClassCrash)
	}
	if err := w.j.Fold(ctx, 4); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if u := w.j.Usage(); u.Folded != 4 || u.Count != 6 || u.Bytes == 0 {
			t.Fatalf("usage %+v", u)
		}
		points := w.j.Points()
		if len(points) != 7 || points[0].Seq != 4 || points[0].File != "" {
			t.Fatalf("points %+v", points)
		}
		for seq := block.Seq(4); seq <= 10; seq++ {
			w.expect(seq)
		}
		if _, err := w.j.View(3); !errors.Is(err, journal.ErrNoPoint) {
			t.Errorf("a view of what the volume has passed: %v", err)
		}
		w.reopen()
	}
	if err := w.j.Fold(ctx, 1000); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(w.states[10]))
	if _, err := w.vol.ReadAt(got, 0); err != nil || !bytes.Equal(got, w.states[10]) {
		t.Errorf("the volume is not the newest point: %v", err)
	}
	w.expect(10)
	w.reopen()
	w.expect(w.add(block.ClassCrash))
	if u := w.j.Usage(); u.Folded != 10 || u.Count != 1 {
		t.Errorf("usage %+v", u)
	}
}

// TestViewsHoldUpFold folds under open views: theirs must not change, and nothing may pass them.
func TestViewsHoldUpFold(t *testing.T) {
	w, ctx := newWorld(t, 6), context.Background()
	for range 8 {
		w.add(block.ClassCrash)
	}
	three, err := w.j.View(3)
	if err != nil {
		t.Fatal(err)
	}
	six, err := w.j.View(6)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.j.Fold(ctx, 8); !errors.Is(err, journal.ErrViewOpen) {
		t.Fatalf("folding past an open view: %v", err)
	}
	if u := w.j.Usage(); u.Folded != 3 {
		t.Fatalf("folded up to %v with a view of #3 open", u.Folded)
	}
	w.expectView(three)
	w.expectView(six)
	if w.fs.Size(w.file(2)) < 0 {
		t.Error("a file that a view reads was removed")
	}
	if err := three.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.j.Retain(ctx, journal.Policy{MaxPoints: 1}); err != nil {
		t.Fatal(err)
	}
	if u := w.j.Usage(); u.Folded != 6 {
		t.Fatalf("folded up to %v with a view of #6 open", u.Folded)
	}
	w.expectView(six)
	if err := errors.Join(six.Close(), six.Close()); err != nil {
		t.Fatal(err)
	}
	for seq := block.Seq(1); seq <= 6; seq++ {
		if w.fs.Size(w.file(seq)) >= 0 {
			t.Errorf("the file of %v is still there", seq)
		}
	}
	if _, err := six.ReadAt(make([]byte, 1), 0); !errors.Is(err, block.ErrClosed) {
		t.Errorf("a read of a closed view: %v", err)
	}
	w.expect(8)
}

func TestRetain(t *testing.T) {
	now := time.Unix(1e9+9, 0)
	for name, c := range map[string]struct {
		policy func(w *world) journal.Policy
		oldest block.Seq
	}{
		"nothing asked": {func(*world) journal.Policy { return journal.Policy{} }, 3},
		"points":        {func(*world) journal.Policy { return journal.Policy{MaxPoints: 2} }, 8},
		"one point":     {func(*world) journal.Policy { return journal.Policy{MaxPoints: 1} }, 9},
		"time": {func(*world) journal.Policy {
			return journal.Policy{Tiers: []journal.Tier{{Span: 4 * time.Second}}, Now: now}
		}, 6},
		"all too old": {func(*world) journal.Policy {
			return journal.Policy{Tiers: []journal.Tier{{Span: time.Second}}, Now: now.Add(time.Hour)}
		}, 9},
		"no bytes but one": {func(*world) journal.Policy { return journal.Policy{MaxBytes: 1} }, 9},
		"bytes of the last 2": {func(w *world) journal.Policy {
			return journal.Policy{MaxBytes: block.Size(w.fs.Size(w.file(8)) + w.fs.Size(w.file(9)))}
		}, 7},
		"bytes but for 1 of the last 2": {func(w *world) journal.Policy {
			return journal.Policy{MaxBytes: block.Size(w.fs.Size(w.file(8)) + w.fs.Size(w.file(9)) - 1)}
		}, 8},
	} {
		t.Run(name, func(t *testing.T) {
			w, ctx := newWorld(t, 7), context.Background()
			for i := range 9 {
				class := block.ClassCrash
				if i < 2 {
					class = block.ClassNone
				}
				w.add(class)
				if i == 0 {
					if err := w.j.Retain(ctx, journal.Policy{}); err != nil || w.j.Usage().Folded != 1 {
						t.Fatalf("a part of the first sync was not folded: %v", err)
					}
				}
			}
			if err := w.j.Retain(ctx, c.policy(w)); err != nil {
				t.Fatal(err)
			}
			points := w.j.Points()
			if points[0].Seq != c.oldest || points[len(points)-1].Seq != 9 || w.j.Usage().Folded != c.oldest {
				t.Errorf("points from %v to %v, folded %v, want from %v", points[0].Seq, points[len(points)-1].Seq, w.j.Usage().Folded, c.oldest)
			}
			for _, p := range points {
				w.expect(p.Seq)
			}
		})
	}
}

func TestCreateAndOpenRefuse(t *testing.T) {
	w := newWorld(t, 8)
	w.add(block.ClassCrash)
	if _, err := journal.Create(testDir, w.meta, w.options()); !errors.Is(err, journal.ErrExists) {
		t.Errorf("created twice: %v", err)
	}
	if _, err := journal.Open("/store/other", w.options()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opened what is not there: %v", err)
	}
	if err := w.fs.Remove(testDir + "/folded.json"); err != nil {
		t.Fatal(err)
	}
	if _, err := journal.Open(testDir, w.options()); !errors.As(err, new(*block.CorruptionError)) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opened without its position: %v", err)
	}
	if err := w.fs.Remove(testDir + "/journal.json"); err != nil {
		t.Fatal(err)
	}
	if _, err := journal.Create(testDir, w.meta, w.options()); err == nil || errors.Is(err, journal.ErrExists) {
		t.Errorf("created over deltas: %v", err)
	}
	if _, err := journal.Create("/store/new", w.meta, journal.Options{FS: w.fs}); err == nil {
		t.Error("created without a codec")
	}
}

func TestNewerVersionIsRefused(t *testing.T) {
	w := newWorld(t, 9)
	f, err := w.fs.OpenFile(testDir+"/journal.json", 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("USJOURNAL 2\nsome thing of the future"), 0); err != nil {
		t.Fatal(err)
	}
	_, err = journal.Open(testDir, w.options())
	if !errors.Is(err, block.ErrVersion) || !strings.Contains(err.Error(), "install the release") || !strings.Contains(err.Error(), testDir) {
		t.Errorf("%v", err)
	}
}

func TestVolumeMustBeThere(t *testing.T) {
	w, ctx := newWorld(t, 10), context.Background()
	w.add(block.ClassCrash)
	o := w.options()
	o.Volume = nil
	j, err := journal.Open(testDir, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Fold(ctx, 1); err == nil {
		t.Error("folded without a volume")
	}
	if err := w.j.Fold(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if j, err = journal.Open(testDir, o); err != nil {
		t.Fatal(err)
	}
	if _, err := j.View(1); err == nil {
		t.Error("a view without the volume that it needs")
	}
	if err := w.vol.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	if _, err := journal.Open(testDir, w.options()); err == nil || !strings.Contains(err.Error(), "volume") {
		t.Errorf("a volume too small: %v", err)
	}
}
