package journal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/understudy-dr/understudy/internal/block"
)

// foldBytes is about how much is folded between two positions: what a crash makes the next fold do again.
const foldBytes = 256 * block.MiB

// resizer is a volume that can grow.
type resizer interface {
	Truncate(size block.Size) error
}

// Fold applies the deltas up to upto, or to the tip if that is less, to the volume and drops their files. It can be stopped
// and killed at any time, and goes on from there. Points before upto can't be read from the moment it begins with them. It
// does not pass an open view or a pinned point: it folds up to the oldest and returns ErrViewOpen or ErrPinned.
//
// In steps of about 256 MiB of deltas:
//
//  1. the position says: on the way from Seq to Target. Durable before the volume is touched
//  2. the deltas are checked and written to the volume in order, and the volume synced
//  3. the position says: at Target. Durable before a file is dropped
//  4. the files are removed, those that a view reads when it is closed
func (j *Journal) Fold(ctx context.Context, upto block.Seq) error {
	j.foldMu.Lock()
	defer j.foldMu.Unlock()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		batch, before, err := j.nextBatch(upto)
		if err != nil || len(batch) == 0 {
			return err
		}
		last := batch[len(batch)-1]
		if err := j.foldBatch(ctx, batch, before); err != nil {
			return fmt.Errorf("fold up to %v: %w", last.header.Seq, err)
		}
	}
}

// nextBatch picks what to fold next, none when upto is reached, and makes its end the target; before is what that was.
func (j *Journal) nextBatch(upto block.Seq) (batch []*delta, before block.Seq, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.usableLocked(); err != nil {
		return nil, 0, fmt.Errorf("fold: %w", err)
	}
	if j.pos.Target > j.pos.Seq { // a fold that was begun must get to its end first: no view is open before it
		if tip := j.tip().Seq; tip < j.pos.Target {
			return nil, 0, fmt.Errorf("fold: %w", j.damage)
		}
		upto = max(upto, j.pos.Target)
	}
	limit, why := j.foldLimit(upto)
	var bytes block.Size
	for _, d := range j.deltas {
		if d.header.Seq > limit || bytes > foldBytes && d.header.Seq > j.pos.Target {
			break
		}
		batch = append(batch, d)
		bytes += d.foot.size
	}
	if len(batch) == 0 && limit < min(upto, j.tip().Seq) {
		return nil, 0, fmt.Errorf("fold up to %v: it ends at %v: %w", upto, limit, why)
	}
	if len(batch) > 0 && j.volume == nil {
		return nil, 0, errors.New("fold: the journal was opened without its volume")
	}
	before = j.pos.Target
	if len(batch) > 0 { // from here on no view before the target can be opened
		j.pos.Target = batch[len(batch)-1].header.Seq
	}
	return batch, before, nil
}

// foldLimit is how far towards upto the volume may go, and why not further. A pin of what is gone already binds nobody.
func (j *Journal) foldLimit(upto block.Seq) (block.Seq, error) {
	limit, why := upto, error(nil)
	for v := range j.views {
		if v.seq < limit {
			limit, why = v.seq, ErrViewOpen
		}
	}
	for seq := range j.pins {
		if seq >= j.pos.Target && seq < limit {
			limit, why = seq, ErrPinned
		}
	}
	return limit, why
}

// foldBatch does steps 1 to 4. The volume is not touched before the position that says so is durable, even when it says so
// already in memory: what is on the disk may be the position of a fold whose last step failed.
func (j *Journal) foldBatch(ctx context.Context, batch []*delta, before block.Seq) error {
	j.mu.Lock()
	pos := j.pos
	j.mu.Unlock()
	if err := j.settle(); err != nil {
		j.mu.Lock()
		j.pos.Target = before
		j.mu.Unlock()
		return err
	}
	if err := writeRecord(j.fs, j.path(positionName), positionMagic, pos); err != nil {
		j.mu.Lock()
		j.pos.Target = before // nothing was touched: the points before it can be read as ever
		j.doubt = max(j.doubt, pos.Target)
		j.mu.Unlock()
		return err
	}
	if err := j.resize(pos.Size, batch[len(batch)-1].header.DiskSize); err != nil {
		return err
	}
	for _, d := range batch {
		if err := j.apply(ctx, d); err != nil {
			return err
		}
	}
	if err := j.volume.Sync(); err != nil {
		return fmt.Errorf("sync volume: %w", err)
	}
	last := batch[len(batch)-1]
	pos = position{
		Seq: last.header.Seq, Target: last.header.Seq, Size: last.header.DiskSize,
		Generation: last.header.Generation, Seal: &last.seal,
	}
	if err := writeRecord(j.fs, j.path(positionName), positionMagic, pos); err != nil {
		return err
	}
	j.mu.Lock()
	j.pos, j.doubt = pos, 0
	j.folded += uint64(len(batch))
	j.deltas = j.deltas[len(batch):]
	for _, d := range batch {
		d.dropped = true
		d.refs++ // and unref removes those that nothing else holds
	}
	j.mu.Unlock()
	return j.unref(batch)
}

// resize makes the volume hold a disk that grew, and what it grew by zeroes, whatever was on the volume there.
func (j *Journal) resize(from, to block.Size) error {
	if to == from {
		return nil
	}
	if have := j.volume.Geometry().Size; have < to {
		r, ok := j.volume.(resizer)
		if !ok {
			return fmt.Errorf("the disk has grown to %v, the volume has %v and can't grow: make it larger", to, have)
		}
		if err := r.Truncate(to); err != nil {
			return fmt.Errorf("grow volume: %w", err)
		}
	}
	if err := block.ZeroRange(j.volume, block.Range{Off: block.Offset(from), Len: to - from}); err != nil {
		return fmt.Errorf("zero what the volume grew by: %w", err)
	}
	return nil
}

// apply writes one delta to the volume.
func (j *Journal) apply(ctx context.Context, d *delta) error {
	f, err := j.files.acquire(d)
	if err != nil {
		return err
	}
	defer j.files.release(f)
	return d.walk(ctx, f, j.codec, func(h block.FrameHeader, _ block.Offset, plain []byte) error {
		var err error
		if h.Kind == block.FrameZero {
			err = block.ZeroRange(j.volume, h.Range)
		} else {
			_, err = j.volume.WriteAt(plain, int64(h.Range.Off))
		}
		if err != nil {
			return fmt.Errorf("write volume: %w", err)
		}
		return nil
	})
}

// ref takes hold of the delta's file, unless it is on its way out.
func (j *Journal) ref(d *delta) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if d.dropped {
		return false
	}
	d.refs++
	return true
}

// unref lets go of the deltas' files and removes those that are folded and that nothing else holds.
func (j *Journal) unref(list []*delta) error {
	var gone []*delta
	j.mu.Lock()
	for _, d := range list {
		if d.refs--; d.refs == 0 && d.dropped {
			gone = append(gone, d)
		}
	}
	j.mu.Unlock()
	var err error
	for _, d := range gone {
		j.files.forget(d)
		if e := j.fs.Remove(d.path); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e) // the next Open removes it
		}
	}
	return err
}
