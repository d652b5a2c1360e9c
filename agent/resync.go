package agent

import (
	"context"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/link"
)

// A resync compares the whole disk with its copy while new writes go on being sent and points go on being sealed. It runs
// after a gap in tracking (not Synced), when the points are no instants until it has ended (block.ClassFuzzy), and after an
// audit that failed (Missed), when they are flagged unproven until then.
//
// What differs does not go into the dirty set at once, but waits until the next delta begins (upload.begin calls merge). So
// a delta has all that was found before it began and nothing that was found later: whether it is the first that makes the
// copy whole is known when it begins, and no find arrives in the middle of a freeze. What waits is bounded, and the scan
// waits with it: it finds no faster than the line drains.
//
// merge also moves the position in the note, after the marks are set. It has their lifetime: after a break, a restart or an
// upgrade of the agent the comparison goes on from there, and after a reboot, or where the target holds anything else than
// what the note says, it begins anew.

// maxFound is how much of a disk may wait for a delta: 65,536 blocks of 4 KiB, a list of 1 MiB.
const maxFound = 256 * block.MiB

// finds is what a resync under way has found and no delta has taken over yet.
type finds struct {
	mu      sync.Mutex
	active  bool          // a resync is under way
	misses  int           // audits that had failed when it began: one more, and it proves nothing
	ranges  []block.Range // that differ
	bytes   block.Size
	found   block.Size    // in all
	reached block.Size    // all before it was compared, and what differs is in ranges or was merged
	merged  chan struct{} // closed by the next merge
	over    bool          // the merge that took over the last find has been made
}

// begin starts anew at from.
func (f *finds) begin(from block.Size, misses int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.active, f.over, f.misses, f.reached = true, false, misses, from
	f.ranges, f.bytes, f.found, f.merged = f.ranges[:0], 0, 0, make(chan struct{})
}

// end drops what no delta has taken over: the note's position is before it.
func (f *finds) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.active, f.ranges, f.bytes = false, f.ranges[:0], 0
}

// add keeps a find, and waits for a delta to take the others over when there are too many.
func (f *finds) add(ctx context.Context, r block.Range, hurry func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.wait(ctx, func() bool { return f.bytes < maxFound }, hurry); err != nil {
		return err
	}
	f.ranges = append(f.ranges, r)
	f.bytes += r.Len
	f.found += r.Len
	return nil
}

// advance notes how far the comparison has come.
func (f *finds) advance(to block.Offset) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reached = block.Size(to)
}

// merge makes what was found part of the dirty set, and says in the note how far the disk has been compared. It is called
// when a delta begins.
func (d *disk) merge() {
	f := &d.finds
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.active {
		return
	}
	for _, r := range f.ranges {
		d.set.Mark(r.Covering(d.set.BlockSize()))
	}
	f.ranges, f.bytes = f.ranges[:0], 0
	whole := f.reached >= d.pump.size
	d.mu.Lock()
	if d.missed == f.misses {
		d.note.Scanned = f.reached
		if whole {
			d.note.Synced, d.note.Missed, d.note.Scanned = true, false, 0
		}
	} else if whole { // compared, but not while every write was seen
		d.note.Synced, d.note.Missed, d.note.Scanned = true, true, 0
	}
	d.note.write(d.noteMem)
	d.mu.Unlock()
	if whole {
		f.active, f.over = false, true
	}
	close(f.merged)
	f.merged = make(chan struct{})
}

// resync compares the disk from where the note says to its end, and returns when a delta has taken over all that differs.
func (u *upload) resync(s *link.Session) error {
	d := u.disk
	n := d.current()
	from := min(n.Scanned, d.pump.size)
	u.log.Info(resyncReason(n), "disk", d.path, "from", from, "size", d.pump.size)
	d.finds.begin(from, d.missedCount())
	defer d.finds.end()
	d.show(func(st *DiskStatus) {
		st.Scan = &ScanStatus{Total: d.pump.size, Done: from, eta: eta{time.Now(), from}}
	})
	defer d.show(func(st *DiskStatus) { st.Scan = nil })
	c := comparison{
		disk: d, session: s, readers: scanReaders, pace: &pacer{rate: u.cfg.ScanRate}, narrow: true,
		part:    block.Range{Off: block.Offset(from), Len: d.pump.size - from},
		visit:   func(_ *scanner, r block.Range) error { return d.finds.add(u.ctx, r, u.hurry) },
		reached: func(to block.Offset) { d.finds.advance(to); d.showScan() },
	}
	if err := c.run(u.ctx); err != nil {
		return err
	}
	if err := d.finds.last(u.ctx, u.hurry); err != nil {
		return err
	}
	u.log.Info("compared the disk with the target", "disk", d.path, "size", d.pump.size-from, "differing", d.finds.found)
	return nil
}

// last returns when the last find has been merged.
func (f *finds) last(ctx context.Context, hurry func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wait(ctx, func() bool { return f.over }, hurry)
}

// wait is called with mu held, which it gives up between merges, until ok. hurry asks for a delta to begin.
func (f *finds) wait(ctx context.Context, ok func() bool, hurry func()) error {
	for !ok() {
		merged := f.merged
		f.mu.Unlock()
		hurry()
		select {
		case <-merged:
		case <-ctx.Done():
		}
		f.mu.Lock()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

func resyncReason(n note) string {
	switch {
	case n.Scanned > 0:
		return "the comparison with the target goes on where it was"
	case n.Synced:
		return "a write may have been missed: the disk is compared with the target"
	}
	return "tracking had a gap: comparing the disk with the target"
}

// ScanStatus is how far a resync is.
type ScanStatus struct {
	Total     block.Size `json:"total_bytes"`
	Done      block.Size `json:"done_bytes"`
	Differing block.Size `json:"differing_bytes"`       // found since it began or went on
	Left      float64    `json:"eta_seconds,omitempty"` // a guess; 0 where there is none yet
	eta       eta
}

func (d *disk) showScan() {
	d.finds.mu.Lock()
	done, found := d.finds.reached, d.finds.found
	d.finds.mu.Unlock()
	d.show(func(st *DiskStatus) {
		if st.Scan != nil {
			next := *st.Scan // Status has handed out the other one
			next.Done, next.Differing = done, found
			st.Scan = &next
		}
	})
}
