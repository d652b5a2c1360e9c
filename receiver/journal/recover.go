package journal

import (
	"cmp"
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
//  4. the others must follow the position without a gap, each chained to the one before; the first that does not is damage.
//     Where a merged delta is there beside what it was merged from, it counts
//  5. what a merged delta stands for is removed, unless there is damage: then nothing is
//
// It is called before the Journal is shared.
func (j *Journal) recover() error {
	if err := j.fs.SyncDir(j.dir); err != nil {
		return err
	}
	spans, err := j.sweep()
	if err != nil {
		return err
	}
	superseded, err := j.recoverDeltas(spans)
	if errors.As(err, new(*block.CorruptionError)) {
		j.damage = err
		return nil
	}
	if err != nil {
		return err
	}
	if tip := j.tip().Seq; j.pos.Target > tip {
		j.damage = &block.CorruptionError{
			File: j.path(deltaName(tip + 1)), Seq: tip + 1,
			Err: fmt.Errorf("the file is missing, and folding up to %v had begun", j.pos.Target),
		}
		return nil
	}
	for _, s := range superseded {
		if err := j.remove(s.name()); err != nil {
			return err
		}
	}
	return nil
}

// remove removes a file of the directory, which need not be there any more.
func (j *Journal) remove(name string) error {
	if err := j.fs.Remove(j.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// sweep removes what nothing refers to, and tells what deltas there are after the position: by their first number, and of
// those that begin with the same one the longest first.
func (j *Journal) sweep() ([]span, error) {
	names, err := j.fs.ReadDir(j.dir)
	if err != nil {
		return nil, err
	}
	var spans []span
	for _, name := range names {
		s, isDelta := parseDeltaName(name)
		switch {
		case isDelta && s.last > j.pos.Seq:
			spans = append(spans, s)
		case isDelta || isTemporary(name):
			if err := j.remove(name); err != nil {
				return nil, err
			}
		}
	}
	slices.SortFunc(spans, func(a, b span) int {
		return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(b.last, a.last))
	})
	return spans, nil
}

// recoverDeltas opens the deltas, and tells which of them a merged one stands for.
func (j *Journal) recoverDeltas(spans []span) (superseded []span, err error) {
	for _, s := range spans {
		// All up to the tip is here, or in the volume. What lies wholly within it was merged; what reaches over it is damage.
		if n := len(j.deltas); n > 0 && s.last <= j.tip().Seq {
			superseded = append(superseded, s)
			continue
		}
		d, err := j.recoverDelta(s)
		if err != nil {
			return nil, err
		}
		j.deltas = append(j.deltas, d)
	}
	return superseded, nil
}

// recoverDelta reads the ends of the delta, which must follow the tip.
func (j *Journal) recoverDelta(s span) (*delta, error) {
	tip := j.tip()
	if want := tip.Seq + 1; s.first > want {
		return nil, &block.CorruptionError{File: j.path(deltaName(want)), Seq: want, Err: errors.New("the file is missing")}
	}
	d, err := openDelta(j.fs, j.path(s.name()), s)
	if err != nil {
		return nil, err
	}
	bad := func(format string, args ...any) error {
		return &block.CorruptionError{File: d.path, Seq: s.last, Err: fmt.Errorf(format, args...)}
	}
	switch {
	case s.first <= tip.Seq:
		return nil, bad("it stands for %v, and all up to %v is elsewhere: %w", s, tip.Seq, block.ErrMalformed)
	case s.first <= j.pos.Target && j.pos.Target < s.last:
		return nil, bad("it stands for %v, and folding up to %v had begun: %w", s, j.pos.Target, block.ErrMalformed)
	case d.header.Disk != j.meta.Disk:
		return nil, bad("it is of disk %v, the journal of %v", d.header.Disk, j.meta.Disk)
	case d.header.Parent != tip.Digest:
		return nil, bad("it follows a delta of digest %.16s…, %v has %.16s…", d.header.Parent.String(), tip.Seq, tip.Digest.String())
	case d.header.DiskSize < tip.Size:
		return nil, bad("disk of %v after one of %v: %w", d.header.DiskSize, tip.Size, ErrShrunk)
	}
	return d, nil
}
