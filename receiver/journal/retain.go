package journal

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
)

// Policy says which points may go. The newest always stays, and so do the newest consistent one and those that are pinned;
// a zero field asks for nothing.
type Policy struct {
	Tiers     []Tier     // from the youngest; points older than the last one's span go
	Latest    bool       // the volume stands at the newest consistent point, unless one before that is pinned
	MaxPoints int        // of what is left so many stay; for the order of sacrifice see plan.sacrifice
	MaxBytes  block.Size // and as many as bring the deltas after the oldest point that stays below that, in the same order
	Now       time.Time
}

// gap is a run of deltas between two points that stay, up to and including the later one's.
type gap struct{ after, upto block.Seq }

// Retain lets the points go that the policy does not keep: those before the oldest that it keeps by folding, others by merging
// their deltas into the next point that stays. Deltas that end in no point go the same way; where there is no point yet, all
// are folded. Open views hold it up without an error: the next Retain goes on. It can be stopped and killed at any time.
//
// Damage in one delta, or a lack of room for a merge, does not keep the rest from being done; the error tells of it.
func (j *Journal) Retain(ctx context.Context, p Policy) error {
	shorten := false
	for {
		before := len(j.Points())
		gave, err := j.retainOnce(ctx, p, shorten)
		full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
		switch {
		case full && !shorten && ctx.Err() == nil:
			shorten = true
		case err != nil || !gave || len(j.Points()) >= before:
			return err
		}
	}
}

// retainOnce does what the policy asks as far as can be told now. gave tells that points were given up for their bytes: how
// many those take, only merging shows.
func (j *Journal) retainOnce(ctx context.Context, p Policy, shorten bool) (gave bool, err error) {
	horizon, gaps, gave := j.plan(p, shorten)
	if err := j.Fold(ctx, horizon); err != nil && !errors.Is(err, ErrViewOpen) && !errors.Is(err, ErrPinned) {
		return gave, err
	}
	var damage error
	for _, g := range gaps {
		err := j.Merge(ctx, g.after, g.upto)
		switch {
		case errors.As(err, new(*block.CorruptionError)):
			damage = errors.Join(damage, err)
		case err != nil && !errors.Is(err, ErrPinned): // a point was pinned meanwhile
			return gave, errors.Join(damage, err)
		}
	}
	return gave, damage
}

// plan is the delta that the policy would have the volume stand at, and what it would have merged.
func (j *Journal) plan(p Policy, shorten bool) (horizon block.Seq, gaps []gap, gave bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	points := j.points()
	if len(points) == 0 {
		return j.tip().Seq, nil, false
	}
	pl := newPlan(points)
	pl.apply(p.Tiers, p.Now)
	if p.Latest {
		pl.latest(func(seq block.Seq) bool { return j.pins[seq] })
	}
	if p.MaxPoints > 0 {
		pl.sacrifice(p.Tiers, shorten, func() bool { return pl.kept() <= p.MaxPoints })
	}
	if p.MaxBytes > 0 {
		gave = pl.sacrifice(p.Tiers, shorten, func() bool { return j.guess(pl) <= p.MaxBytes })
	}
	horizon, gaps = j.gaps(pl)
	return horizon, gaps, gave
}

// guess is what the deltas after the oldest point that stays will take when the plan is carried out: as if a delta that is
// merged took nothing. Where that is too good, the next round gives up more.
func (j *Journal) guess(pl *plan) (bytes block.Size) {
	i := 0
	for i < len(pl.points) && !pl.points[i].keep {
		i++
	}
	oldest := pl.points[i].seq
	for _, d := range j.deltas {
		for i < len(pl.points) && pl.points[i].seq < d.header.Seq {
			i++
		}
		gone := i < len(pl.points) && pl.points[i].seq == d.header.Seq && !pl.points[i].keep
		if d.header.Seq > oldest && !gone {
			bytes += d.foot.size
		}
	}
	return bytes
}

// gaps are the runs of more than one delta between points that stay, where a point goes or no more can come. Elsewhere parts of
// a first sync or an outage stay as they are: merging them frees little.
func (j *Journal) gaps(pl *plan) (horizon block.Seq, gaps []gap) {
	k, merge, last := 0, false, block.Seq(0)
	for _, c := range pl.points {
		if !c.keep {
			merge = true
			continue
		}
		n := 0
		for k < len(j.deltas) && j.deltas[k].header.Seq <= c.seq {
			n, k = n+1, k+1
		}
		switch {
		case last == 0:
			horizon = c.seq
		case n > 1 && (merge || c.settled):
			gaps = append(gaps, gap{after: last, upto: c.seq})
		}
		merge, last = false, c.seq
	}
	return horizon, gaps
}
