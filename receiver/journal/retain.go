package journal

import (
	"context"
	"errors"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
)

// Policy says which points may go. The newest always stays; a zero field asks for nothing.
type Policy struct {
	Keep      time.Duration // points whose time is further back from Now go
	MaxPoints int           // of what is left the oldest go, down to so many
	MaxBytes  block.Size    // and until the deltas after the oldest point that stays take no more than that
	Now       time.Time
}

// Retain lets the points go that the policy does not keep, by folding up to the oldest that it keeps. Deltas before that,
// the first sync's for instance, are folded too; where there is no point yet, all of them. Open views hold it up without an
// error: the next Retain goes on.
func (j *Journal) Retain(ctx context.Context, p Policy) error {
	err := j.Fold(ctx, j.horizon(p))
	if errors.Is(err, ErrViewOpen) {
		return nil
	}
	return err
}

// horizon is the delta that the policy would have the volume stand at.
func (j *Journal) horizon(p Policy) block.Seq {
	j.mu.Lock()
	defer j.mu.Unlock()
	points := j.points()
	if len(points) == 0 {
		return j.tip().Seq
	}
	first, last := 0, len(points)-1
	if p.Keep > 0 {
		for first < last && points[first].Time.Before(p.Now.Add(-p.Keep)) {
			first++
		}
	}
	if p.MaxPoints > 0 {
		first = max(first, len(points)-p.MaxPoints)
	}
	if p.MaxBytes > 0 {
		first = max(first, j.oldestWithin(points, p.MaxBytes))
	}
	return points[first].Seq
}

// oldestWithin is the oldest of points after which the deltas take no more than limit, or the newest.
func (j *Journal) oldestWithin(points []Point, limit block.Size) int {
	oldest, i, after := len(points)-1, len(j.deltas)-1, block.Size(0)
	for n := len(points) - 1; n >= 0; n-- {
		for ; i >= 0 && j.deltas[i].header.Seq > points[n].Seq; i-- {
			after += j.deltas[i].foot.size
		}
		if after > limit {
			break
		}
		oldest = n
	}
	return oldest
}
