package agent

import (
	"context"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/link"
)

// VerifyReport is the outcome of comparing a whole replica with its live source.
type VerifyReport struct {
	Disk      block.DiskID  `json:"disk"`
	Device    string        `json:"device"`
	Size      block.Size    `json:"size_bytes"`
	Seq       block.Seq     `json:"seq"`           // the target's newest delta when the verification ended
	Changed   block.Size    `json:"changed_bytes"` // changed since the newest delta: due to be sent, so not compared
	Different block.Size    `json:"different_bytes"`
	Ranges    []block.Range `json:"ranges,omitempty"` // the first of what differs
	Seconds   float64       `json:"seconds"`
}

// maxReported bounds VerifyReport.Ranges.
const maxReported = 100

// Equal tells whether no difference was found.
func (r VerifyReport) Equal() bool { return r.Different == 0 }

// verify compares every chunk of the disk with the target. What differs and is not due to be sent is a difference: it is
// reported, and marked, so that the next delta repairs it.
func (u *upload) verify(ctx context.Context, s *link.Session, progress func(done, total block.Size)) (VerifyReport, error) {
	d, start := u.disk, time.Now()
	i := inspection{upload: u, report: VerifyReport{Disk: d.id, Device: d.path, Size: d.pump.size}}
	err := i.compare(ctx, s, block.Range{Len: d.pump.size}, scanReaders, &pacer{}, func(to block.Offset) {
		progress(block.Size(to), d.pump.size)
	})
	i.report.Seq = d.current().Acked.Seq
	i.report.Seconds = time.Since(start).Seconds()
	return i.report, err
}

// inspection looks closer at what a comparison found. Deltas go on meanwhile, so a difference counts only if the block was
// clean in the dirty set before and after it was read with the same delta acknowledged; and only if it stays for several
// looks, since a write that has reached the disk but has not completed is not marked yet.
type inspection struct {
	upload *upload

	mu     sync.Mutex // several readers find something at once
	report VerifyReport
}

// compare inspects a part of the disk.
func (i *inspection) compare(ctx context.Context, s *link.Session, part block.Range, readers int, pace *pacer, reached func(block.Offset)) error {
	u := i.upload
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(u.ctx, func() { cancel(context.Cause(u.ctx)) })()
	c := comparison{
		disk: u.disk, session: s, part: part, readers: readers, pace: pace, reached: reached,
		visit: func(fine *scanner, r block.Range) error { return i.inspect(ctx, fine, r) },
	}
	return c.run(ctx)
}

// inspect looks at a chunk that differs, block by block.
func (i *inspection) inspect(ctx context.Context, fine *scanner, r block.Range) error {
	const looks, pause = 4, 300 * time.Millisecond
	d := i.upload.disk
	bs := d.set.BlockSize()
	whole := r.Covering(bs).Range(bs, d.pump.size)
	var bad []block.Range
	for look := 0; look < looks; {
		var changed block.Size
		var settled bool
		var err error
		bad, changed, settled, err = i.upload.look(ctx, fine, whole)
		if err != nil {
			return err
		}
		if len(bad) == 0 && settled {
			i.mu.Lock()
			i.report.Changed += changed
			i.mu.Unlock()
			return nil
		}
		if settled {
			look++
		}
		if sleep(ctx, pause); ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, b := range bad {
		i.report.Different += b.Len
		d.counts.repaired.Add(int64(b.Len))
		if len(i.report.Ranges) < maxReported {
			i.report.Ranges = append(i.report.Ranges, b)
		}
		d.set.Mark(b.Covering(bs))
	}
	return nil
}

// look compares the blocks of r once. settled is false when a delta was acknowledged in between: then it says nothing.
func (u *upload) look(ctx context.Context, fine *scanner, r block.Range) (bad []block.Range, changed block.Size, settled bool, err error) {
	d := u.disk
	bs := d.set.BlockSize()
	before := d.current().Acked
	var differ []block.Range
	seq, err := fine.differing(ctx, r, block.Size(bs), func(b block.Range) { differ = append(differ, b) })
	if err != nil {
		return nil, 0, false, err
	}
	if _, err := d.set.Take(); err != nil {
		return nil, 0, false, err
	}
	for _, b := range differ {
		dirty := false
		d.set.Dirty(b.Covering(bs), func(block.Index) { dirty = true })
		if dirty {
			changed += b.Len
		} else {
			bad = append(bad, b)
		}
	}
	return bad, changed, d.current().Acked == before && seq == before.Seq, nil
}
