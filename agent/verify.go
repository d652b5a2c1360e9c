package agent

import (
	"context"
	"fmt"
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
//
// Deltas go on meanwhile, so a difference counts only if the block was clean in the dirty set before and after it was read
// with the same delta acknowledged; and only if it stays for several looks, since a write that has reached the disk but has
// not completed is not marked yet.
func (u *upload) verify(ctx context.Context, s *link.Session, progress func(done, total block.Size)) (VerifyReport, error) {
	d, start := u.disk, time.Now()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(u.ctx, func() { cancel(context.Cause(u.ctx)) })()
	report := VerifyReport{Disk: d.id, Device: d.path, Size: d.pump.size}
	coarse, end, err := newScanner(ctx, d, s)
	if err != nil {
		return report, err
	}
	defer end()
	fine, endFine, err := newScanner(ctx, d, s)
	if err != nil {
		return report, err
	}
	defer endFine()
	var suspects []block.Range
	var failed error
	err = coarse.run(ctx, func(r block.Range) { suspects = append(suspects, r) }, func(done block.Size) {
		for _, r := range suspects {
			if failed == nil {
				failed = u.inspect(ctx, fine, r, &report)
			}
		}
		suspects = suspects[:0]
		progress(done, d.pump.size)
	})
	if err == nil {
		err = failed
	}
	report.Seq = d.current().Acked.Seq
	report.Seconds = time.Since(start).Seconds()
	return report, err
}

// inspect looks at a chunk that differs, block by block.
func (u *upload) inspect(ctx context.Context, fine *scanner, r block.Range, report *VerifyReport) error {
	const looks, pause = 4, 300 * time.Millisecond
	d := u.disk
	bs := d.set.BlockSize()
	whole := r.Covering(bs).Range(bs, d.pump.size)
	var bad []block.Range
	for look := 0; look < looks; {
		var changed block.Size
		var settled bool
		var err error
		bad, changed, settled, err = u.look(fine, whole)
		if err != nil {
			return err
		}
		if len(bad) == 0 && settled {
			report.Changed += changed
			return nil
		}
		if settled {
			look++
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-u.ctx.Done():
			return fmt.Errorf("verify %s: %w", d.path, context.Cause(u.ctx))
		case <-time.After(pause):
		}
	}
	for _, b := range bad {
		report.Different += b.Len
		if len(report.Ranges) < maxReported {
			report.Ranges = append(report.Ranges, b)
		}
		d.set.Mark(b.Covering(bs))
	}
	return nil
}

// look compares the blocks of r once. settled is false when a delta was acknowledged in between: then it says nothing.
func (u *upload) look(fine *scanner, r block.Range) (bad []block.Range, changed block.Size, settled bool, err error) {
	d := u.disk
	bs := d.set.BlockSize()
	before := d.current().Acked
	if err := fine.request(r, block.Size(bs)); err != nil {
		return nil, 0, false, err
	}
	var differ []block.Range
	seq, err := fine.differing(r, block.Size(bs), func(b block.Range) { differ = append(differ, b) })
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
