package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/understudy-dr/understudy/internal/block"
)

// recover makes the directory what the position and the sealed deltas say:
//
//  1. the directory is synced: what is read here may have been renamed by a process that was killed before it synced, and
//     what is concluded from it, the tip that the source is told for one, must hold through a loss of power
//  2. files that were being written are removed: nothing of them was acknowledged
//  3. deltas up to the position are removed: the volume has them
//  4. the others must follow the position without a gap, each chained to the one before; the first that does not is damage
//
// It is called before the Journal is shared.
func (j *Journal) recover() error {
	if err := j.fs.SyncDir(j.dir); err != nil {
		return err
	}
	names, err := j.fs.ReadDir(j.dir)
	if err != nil {
		return err
	}
	var seqs []block.Seq
	for _, name := range names {
		seq, isDelta := parseDeltaName(name)
		switch {
		case isDelta && seq > j.pos.Seq:
			seqs = append(seqs, seq)
		case isDelta || isTemporary(name):
			if err := j.fs.Remove(j.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	slices.Sort(seqs)
	for _, seq := range seqs {
		d, err := j.recoverDelta(seq)
		if errors.As(err, new(*block.CorruptionError)) {
			j.damage = err
			return nil
		}
		if err != nil {
			return err
		}
		j.deltas = append(j.deltas, d)
	}
	if tip := j.tip().Seq; j.pos.Target > tip {
		j.damage = &block.CorruptionError{
			File: j.path(deltaName(tip + 1)), Seq: tip + 1,
			Err: fmt.Errorf("the file is missing, and folding up to %v had begun", j.pos.Target),
		}
	}
	return nil
}

// recoverDelta reads the ends of delta seq, which must follow the tip.
func (j *Journal) recoverDelta(seq block.Seq) (*delta, error) {
	tip := j.tip()
	if want := tip.Seq + 1; seq != want {
		return nil, &block.CorruptionError{File: j.path(deltaName(want)), Seq: want, Err: errors.New("the file is missing")}
	}
	d, err := openDelta(j.fs, j.path(deltaName(seq)), seq)
	if err != nil {
		return nil, err
	}
	bad := func(format string, args ...any) error {
		return &block.CorruptionError{File: d.path, Seq: seq, Err: fmt.Errorf(format, args...)}
	}
	switch {
	case d.header.Disk != j.meta.Disk:
		return nil, bad("it is of disk %v, the journal of %v", d.header.Disk, j.meta.Disk)
	case d.header.Parent != tip.Digest:
		return nil, bad("it follows a delta of digest %.16s…, %v has %.16s…", d.header.Parent.String(), tip.Seq, tip.Digest.String())
	case d.header.DiskSize < tip.Size:
		return nil, bad("disk of %v after one of %v: %w", d.header.DiskSize, tip.Size, ErrShrunk)
	}
	return d, nil
}
