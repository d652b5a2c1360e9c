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
	return left <= u.disk.residue.room() && u.disk.pump.rate.time(left) <= u.budget/aim
}

// left is how many bytes of disk the open delta lacks.
func (u *upload) left() block.Size { return u.disk.set.BlockSize().Bytes(u.disk.set.Left()) }

// readable tells why a freeze now could not read what pre-copy left, if so. A freeze that must fail is not begun.
func (u *upload) readable(cfg Config) error {
	if _, err := u.disk.set.Take(); err != nil {
		return err
	}
	left := u.left()
	takes := u.disk.pump.rate.time(left)
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

// readRate is how fast the disk gives what passes read of it: small pieces here and there, as a freeze reads them too.
type readRate struct {
	mu    sync.Mutex
	bytes block.Size
	busy  time.Duration // of all readers together
}

// rateMemory is how much reading the rate is an average of: what is older counts for half, and half again.
const rateMemory = 2 * time.Second

func (r *readRate) add(n block.Size, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bytes += n
	r.busy += took
	if r.busy > rateMemory {
		r.bytes, r.busy = r.bytes/2, r.busy/2
	}
}

// time is how long a freeze would take to read n bytes. The readers of a pass work side by side, and a freeze has more of them.
func (r *readRate) time(n block.Size) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bytes == 0 {
		if n <= firstResidue {
			return 0
		}
		return time.Hour
	}
	return time.Duration(float64(n) * float64(r.busy) / float64(r.bytes) / readers)
}
