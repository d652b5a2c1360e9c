package agent

import (
	"context"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/codec"
)

// noWrites is a tracker of a disk that nobody writes to.
type noWrites struct {
	n    block.Count
	keep capture.Keep
}

func (m *noWrites) Take(func(int, uint64)) error             { return nil }
func (m *noWrites) Geometry() (block.BlockSize, block.Count) { return 4096, m.n }
func (m *noWrites) Audit() (capture.Audit, error)            { return capture.Audit{}, nil }
func (m *noWrites) Keep() capture.Keep                       { return m.keep }
func (m *noWrites) Status() capture.Status                   { return capture.Status{} }
func (m *noWrites) Close() error                             { return nil }
func (m *noWrites) Remove() error                            { return nil }

// forgetful takes a delta in and forgets it.
type forgetful struct{}

func (forgetful) SendDeltaHeader(block.DeltaHeader) error   { return nil }
func (forgetful) SendFrame(block.FrameHeader, []byte) error { return nil }
func (forgetful) SendSeal(block.Seal) error                 { return nil }
func (forgetful) Flush() error                              { return nil }

// comparedDisk is a disk of the given size after a gap in tracking, and an upload of it that sends nothing anywhere.
func comparedDisk(t *testing.T, size block.Size) (*disk, *upload) {
	t.Helper()
	n := block.BlockSize(4096).Count(size)
	tracker := &noWrites{n: n, keep: capture.Keep{Pending: make([]uint64, block.WordsFor(n)), Note: make([]byte, capture.NoteSize)}}
	d := &disk{tracker: tracker, set: capture.NewSet(tracker), noteMem: tracker.keep.Note, pump: &pump{size: size}}
	d.update(func(n *note) { n.Acked, n.Sealed, n.Size = tip{Seq: 7}, tip{Seq: 7}, size })
	return d, &upload{disk: d, clock: &sealClock{}, log: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

// beginNowhere is upload.begin without a target.
func (u *upload) beginNowhere(t *testing.T) {
	t.Helper()
	u.disk.merge()
	u.begun = u.disk.current()
	cd, err := codec.New()
	if err != nil {
		t.Fatal(err)
	}
	if u.open, err = beginDelta(forgetful{}, cd, block.DeltaHeader{Seq: 8, BlockSize: 4096, DiskSize: u.disk.pump.size}); err != nil {
		t.Fatal(err)
	}
}

func (u *upload) sealNow() block.Seal {
	return u.finish(block.ClassCrash, 0, time.Now(), map[string]string{"host": "web1"})
}

// TestAPointIsConsistentFromTheDeltaThatBeganWhole: not from the moment on at which the comparison ended, since what it
// found last is not in the delta that was open then.
func TestAPointIsConsistentFromTheDeltaThatBeganWhole(t *testing.T) {
	d, u := comparedDisk(t, 64*block.MiB)
	hurry := func() {}
	d.finds.begin(0, d.missedCount())
	u.beginNowhere(t)
	if s := u.sealNow(); s.Class != block.ClassFuzzy || s.Proven() || s.Labels["scan"] == "" || s.Labels["host"] != "web1" {
		t.Errorf("nothing compared: %+v", s)
	}
	late := block.Range{Off: block.Offset(63 * block.MiB), Len: 64 * block.KiB}
	u.beginNowhere(t)
	if err := d.finds.add(context.Background(), late, hurry); err != nil {
		t.Fatal(err)
	}
	d.finds.advance(block.Offset(64 * block.MiB))
	if d.set.Left() != 0 || d.current().Synced || d.current().Scanned != 0 {
		t.Errorf("a find reached the open delta, or the note: %+v", d.current())
	}
	if s := u.sealNow(); s.Class != block.ClassFuzzy {
		t.Errorf("the delta that was open when the comparison ended: %+v", s)
	}
	u.beginNowhere(t)
	if d.set.Left() != 16 || !d.current().Synced {
		t.Errorf("the next delta has %d blocks, %+v", d.set.Left(), d.current())
	}
	if s := u.sealNow(); s.Class != block.ClassCrash || !s.Proven() || s.Labels["scan"] != "" {
		t.Errorf("the first whole delta: %+v", s)
	}
	if readNote(d.noteMem) != d.current() {
		t.Error("the note in memory is another one")
	}
}

// TestACheckThatEndsDuringACutProvesTheNextPoint: the same of an audit that failed.
func TestACheckThatEndsDuringACutProvesTheNextPoint(t *testing.T) {
	d, u := comparedDisk(t, block.MiB)
	d.update(func(n *note) { n.Synced = true })
	u.distrust("a test")
	d.finds.begin(0, d.missedCount())
	u.beginNowhere(t)
	d.finds.advance(block.Offset(block.MiB))
	d.merge()
	if d.current().Missed {
		t.Fatal("the comparison has ended and is not taken for it")
	}
	if s := u.sealNow(); s.Class != block.ClassCrash || s.Proven() {
		t.Errorf("the delta that was open: %+v", s)
	}
	u.beginNowhere(t)
	if s := u.sealNow(); !s.Proven() {
		t.Errorf("the next: %+v", s)
	}

	d, u = comparedDisk(t, block.MiB)
	d.finds.begin(0, 0)
	u.beginNowhere(t)
	d.finds.advance(block.Offset(block.MiB))
	d.merge()
	if s := u.sealNow(); !d.current().Synced || s.Class != block.ClassFuzzy {
		t.Errorf("the delta that was open when a gap was closed: %+v", s)
	}
}

// TestAnAuditThatFailsDuringAComparison makes it worth nothing as a proof, and the next one begins anew.
func TestAnAuditThatFailsDuringAComparison(t *testing.T) {
	d, u := comparedDisk(t, 64*block.MiB)
	d.finds.begin(0, d.missedCount())
	d.finds.advance(block.Offset(32 * block.MiB))
	d.merge()
	if d.current().Scanned != 32*block.MiB {
		t.Fatalf("note %+v", d.current())
	}
	u.distrust("a test")
	d.finds.advance(block.Offset(48 * block.MiB))
	d.merge()
	if n := d.current(); n.Scanned != 0 || !n.Missed {
		t.Errorf("in the middle: %+v", n)
	}
	d.finds.advance(block.Offset(64 * block.MiB))
	d.merge()
	if n := d.current(); n.proven() || n.Scanned != 0 {
		t.Errorf("at the end: %+v", n)
	}
	d.finds.begin(d.current().Scanned, d.missedCount())
	d.finds.advance(block.Offset(64 * block.MiB))
	d.merge()
	if n := d.current(); !n.proven() {
		t.Errorf("after the next comparison: %+v", n)
	}
}

// TestFindsWaitForADelta: no more than maxFound is held, and a delta is asked for.
func TestFindsWaitForADelta(t *testing.T) {
	d, _ := comparedDisk(t, 2*maxFound)
	d.finds.begin(0, 0)
	hurried := make(chan struct{}, 1)
	hurry := func() {
		select {
		case hurried <- struct{}{}:
		default:
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	added, done := 0, make(chan error, 1)
	go func() {
		for off := block.Size(0); off < 2*maxFound; off += codec.ChunkSize {
			if err := d.finds.add(ctx, block.Range{Off: block.Offset(off), Len: codec.ChunkSize}, hurry); err != nil {
				done <- err
				return
			}
			added++
		}
		done <- nil
	}()
	<-hurried
	d.finds.mu.Lock()
	if d.finds.bytes != maxFound {
		t.Errorf("%v wait, %v may", d.finds.bytes, maxFound)
	}
	d.finds.mu.Unlock()
	d.merge()
	if err := <-done; err != nil || added != int(2*maxFound/codec.ChunkSize) {
		t.Errorf("%d added: %v", added, err)
	}
	go func() { done <- d.finds.last(ctx, hurry) }()
	cancel()
	if err := <-done; err == nil {
		t.Error("the end of the comparison was waited for, though nothing can come any more")
	}
}

// TestWaterMark: windows that are finished out of order count when the gap before them is closed.
func TestWaterMark(t *testing.T) {
	m := waterMark{ends: map[block.Offset]block.Offset{}}
	var at block.Offset
	finish := func(first, n int) {
		m.finish(block.Range{Off: block.Offset(first), Len: block.Size(n)}, func(to block.Offset) { at = to })
	}
	for _, c := range []struct {
		first, n int
		want     block.Offset
	}{{10, 10, 0}, {30, 5, 0}, {0, 10, 20}, {20, 10, 35}} {
		if finish(c.first, c.n); at != c.want {
			t.Errorf("after %d+%d at %d, want %d", c.first, c.n, at, c.want)
		}
	}
}
