package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
)

const (
	// maxPasses bounds pre-copy before one cut. A disk that is dirtied faster than the line drains gets no smaller residue by
	// trying more often.
	maxPasses = 12
	// aim is what part of the freeze budget reading is to take: freezing and thawing need their part, and what a pass has told
	// of the disk is an average.
	aim = 4
	// firstResidue is what a freeze is taken to read in its budget before the disk's rate is known.
	firstResidue = 4 * block.MiB
)

// precopy sends what is dirty until what is left would be read within a part of the freeze budget, or until more passes would not
// help.
func (u *upload) precopy(ctx context.Context) error {
	d := u.disk
	before := block.Size(-1)
	for range maxPasses {
		if _, err := d.set.Take(); err != nil {
			return err
		}
		left := u.left()
		if u.fits(left) || before >= 0 && left > before-before/8 {
			return nil
		}
		before = left
		if err := u.sweep(ctx); err != nil {
			return err
		}
	}
	return nil
}

// fits tells whether a freeze may be left to read so much.
func (u *upload) fits(left block.Size) bool {
	return left <= u.disk.residue.room() && u.disk.pump.readTime() <= u.budget/aim
}

// left is how many bytes of disk the open delta lacks.
func (u *upload) left() block.Size { return u.disk.set.BlockSize().Bytes(u.disk.set.Left()) }

// readable tells why a freeze now could not read what pre-copy left, if so. A freeze that must fail is not begun.
func (u *upload) readable(cfg Config) error {
	if _, err := u.disk.set.Take(); err != nil {
		return err
	}
	left := u.left()
	takes := u.disk.pump.readTime()
	switch {
	case left > u.disk.residue.room():
		return fmt.Errorf("%s: %w: after pre-copy %v are still to be sent, and a freeze may read %v",
			u.disk.path, errOutpaced, left, u.disk.residue.room())
	case takes > cfg.FreezeBudget && cfg.freezes():
		return fmt.Errorf("%s: %w: after pre-copy %v are still to be sent, which a freeze would take %v to read; it may take %v",
			u.disk.path, errOutpaced, left, takes.Round(time.Millisecond), cfg.FreezeBudget)
	}
	return nil
}

// readTime is how long a freeze would take to read what the open delta lacks.
func (p *pump) readTime() time.Duration {
	var left [2]block.Size
	bs := p.set.BlockSize()
	limit := max(1, block.Count(readBytes/block.Size(bs)))
	for run, ok := p.set.Next(0, limit); ok; run, ok = p.set.Next(run.End(), limit) {
		n := run.Range(bs, p.size).Len
		left[kindOf(n)] += n
	}
	return p.rate.time(left)
}

// What a disk is asked for comes in two kinds: it gives long pieces several times as fast as small ones here and there.
const (
	small = iota
	long

	// smallPiece is the most that a small piece has.
	smallPiece = 64 * block.KiB
)

func kindOf(piece block.Size) int {
	if piece <= smallPiece {
		return small
	}
	return long
}

// readRate is how fast the disk gives what passes read of it, per kind of piece.
type readRate struct {
	mu    sync.Mutex
	kinds [2]tally
}

// tally adds up reads.
type tally struct {
	bytes block.Size
	busy  time.Duration // of all readers together
}

// rateMemory is how much reading the rate is an average of: what is older counts for half, and half again.
const rateMemory = 2 * time.Second

// add counts a batch of reads that took so long.
func (r *readRate) add(reads []block.Read, took time.Duration) {
	n := block.Size(0)
	for _, read := range reads {
		n += block.Size(len(read.Buf))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t := &r.kinds[kindOf(n/block.Size(len(reads)))]
	t.bytes += n
	t.busy += took
	if t.busy > rateMemory {
		t.bytes, t.busy = t.bytes/2, t.busy/2
	}
}

// time is how long a freeze would take to read so many bytes of each kind. The readers of a pass work side by side, and a freeze
// has more of them. A kind that is not known is taken for the other.
func (r *readRate) time(left [2]block.Size) (d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for kind, n := range left {
		t := r.kinds[kind]
		if t.bytes == 0 {
			t = r.kinds[1-kind]
		}
		switch {
		case t.bytes > 0:
			d += time.Duration(float64(n) * float64(t.busy) / float64(t.bytes) / readers)
		case n > firstResidue:
			return time.Hour
		}
	}
	return d
}
