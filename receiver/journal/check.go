package journal

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/understudy-dr/understudy/internal/block"
)

// Check reads every byte of every delta, and of the meta and position files, and holds them against their checksums and each
// other: headers, frames, payloads, index, seal, and the digests that chain them. Damage is a *block.CorruptionError. progress,
// which may be nil, hears of bytes of deltas. Deltas that are folded meanwhile, or come in after it began, are not its concern.
// The volume has no checksums of its own: it is proven against the source.
func (j *Journal) Check(ctx context.Context, progress func(done, total block.Size)) error {
	j.mu.Lock()
	err := j.damage
	list := append([]*delta(nil), j.deltas...)
	j.mu.Unlock()
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if err := j.checkRecords(); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	var done, total block.Size
	for _, d := range list {
		total += d.foot.size
	}
	for i, d := range list {
		if i > 0 && d.header.Parent != list[i-1].seal.Digest {
			return fmt.Errorf("check: %w", d.corrupt(0, fmt.Errorf("does not follow %v: %w", list[i-1].header.Seq, block.ErrMalformed)))
		}
		if err := j.checkDelta(ctx, d); err != nil {
			return fmt.Errorf("check: %w", err)
		}
		if done += d.foot.size; progress != nil {
			progress(done, total)
		}
	}
	return nil
}

// checkRecords reads the records as Open would. They may be replaced meanwhile: each is read whole, the old one or the new.
func (j *Journal) checkRecords() error {
	var m Meta
	var p position
	var pins pinList
	if err := readRecord(j.fs, j.path(metaName), metaMagic, &m); err != nil {
		return err
	}
	if m.Disk != j.Meta().Disk {
		return &block.CorruptionError{File: j.path(metaName), Err: fmt.Errorf("it is of disk %v: %w", m.Disk, block.ErrMalformed)}
	}
	if err := readRecord(j.fs, j.path(positionName), positionMagic, &p); err != nil {
		return err
	}
	if err := p.check(j.path(positionName)); err != nil {
		return err
	}
	return readRecord(j.fs, j.path(pinsName), pinsMagic, &pins)
}

func (j *Journal) checkDelta(ctx context.Context, d *delta) error {
	if !j.ref(d) {
		return nil
	}
	err := j.checkHeld(ctx, d)
	return errors.Join(err, j.unref([]*delta{d}))
}

// checkHeld walks the frames beside the index, which must name each of them.
func (j *Journal) checkHeld(ctx context.Context, d *delta) error {
	// Opened anew, not from the cache: what is checked is what the name leads to.
	one, err := openDelta(j.fs, d.path, d.span)
	if err != nil {
		return err
	}
	f, err := j.files.acquire(d)
	if err != nil {
		return err
	}
	defer j.files.release(f)
	nop := func(uint64, indexEntry) error { return nil }
	if err := one.readIndex(f, nop); err != nil {
		return err
	}
	next, stop := one.indexEntries(f)
	defer stop()
	end := block.Offset(0)
	return d.walk(ctx, f, j.codec, func(h block.FrameHeader, pos block.Offset, _ []byte) error {
		got, err := next()
		if err == nil && got != (indexEntry{rng: h.Range, pos: pos, payload: h.Payload}) || errors.Is(err, io.EOF) {
			return d.corrupt(d.foot.indexAt, fmt.Errorf("index of frame %d at %d: %w", h.Number, int64(pos), block.ErrMalformed))
		}
		if err == nil && d.merged() && h.Range.Off < end {
			return d.corrupt(pos, fmt.Errorf("frame %d of range %v lies over the one before: %w", h.Number, h.Range, block.ErrMalformed))
		}
		end = h.Range.End()
		return err
	})
}
