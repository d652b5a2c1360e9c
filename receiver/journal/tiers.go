package journal

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
)

// Tier says how many points of an age are kept.
type Tier struct {
	Span  time.Duration // points that are no older than that are of this tier, unless an earlier tier has them
	Every time.Duration // the newest of each such interval is kept; 0: all
}

// DefaultTiers keep every point for an hour, one of each hour for a day, and one of each day for 30 days.
func DefaultTiers() []Tier {
	return []Tier{{Span: time.Hour}, {Span: 24 * time.Hour, Every: time.Hour}, {Span: 30 * 24 * time.Hour, Every: 24 * time.Hour}}
}

// maxTiers is more than makes sense, and few enough to be looked through for each point.
const maxTiers = 8

// CheckTiers says what is wrong with tiers: from one to the next both the span and the interval must grow.
func CheckTiers(tiers []Tier) error {
	if len(tiers) > maxTiers {
		return fmt.Errorf("%d tiers of retention, at most %d make sense", len(tiers), maxTiers)
	}
	for i, t := range tiers {
		switch {
		case t.Span <= 0 || t.Every < 0:
			return fmt.Errorf("tier %v: a span is positive, an interval not negative", t)
		case t.Every > t.Span:
			return fmt.Errorf("tier %v: the interval is longer than the span", t)
		case i > 0 && (t.Span <= tiers[i-1].Span || t.Every <= tiers[i-1].Every):
			return fmt.Errorf("tier %v after %v: span and interval must both grow from tier to tier", t, tiers[i-1])
		}
	}
	return nil
}

// String is SPAN, or SPAN/EVERY, without units that are zero.
func (t Tier) String() string {
	if t.Every == 0 {
		return shortDuration(t.Span)
	}
	return shortDuration(t.Span) + "/" + shortDuration(t.Every)
}

func shortDuration(d time.Duration) string {
	if day := 24 * time.Hour; d >= day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// candidate is a point of which a plan decides.
type candidate struct {
	seq        block.Seq
	at         time.Time // its own, or that of an earlier point whose clock was ahead
	consistent bool
	safe       bool // the newest, the newest consistent one, or pinned
	keep       bool
	settled    bool // it is what stays of its interval, which no other point can come into
}

// plan is what is to become of the points, oldest first.
type plan struct{ points []candidate }

// newPlan takes all points. A source's clock that was set back does not make its points older than those before them: what is
// kept too long costs space, what goes too early is gone.
func newPlan(points []Point) *plan {
	p := &plan{points: make([]candidate, len(points))}
	var latest time.Time
	for i, pt := range points {
		if pt.Time.After(latest) {
			latest = pt.Time
		}
		p.points[i] = candidate{seq: pt.Seq, at: latest, consistent: pt.Class.Consistent(), safe: pt.Pinned, keep: true}
	}
	if n := len(p.points); n > 0 {
		p.points[n-1].safe = true
	}
	if i := p.newestConsistent(); i >= 0 {
		p.points[i].safe = true
	}
	return p
}

func (p *plan) newestConsistent() int {
	for i, c := range slices.Backward(p.points) {
		if c.consistent {
			return i
		}
	}
	return -1
}

// latest gives up all that the volume passes when it goes to the newest consistent point, or where there is none to the newest.
// A pinned point holds it up, and then nothing is given up: the volume could not go there.
func (p *plan) latest(pinned func(block.Seq) bool) {
	to := p.newestConsistent()
	if to < 0 {
		to = len(p.points) - 1
	}
	for i := range max(0, to) {
		if pinned(p.points[i].seq) {
			return
		}
	}
	for i := range max(0, to) {
		p.drop(i)
	}
}

// drop gives the point up, unless it is safe, and tells whether it did.
func (p *plan) drop(i int) bool {
	c := &p.points[i]
	if c.safe || !c.keep {
		return false
	}
	c.keep = false
	return true
}

// apply gives up what the tiers do not keep. Without tiers everything is kept.
func (p *plan) apply(tiers []Tier, now time.Time) {
	if len(tiers) == 0 {
		return
	}
	for i := range p.points {
		if !p.points[i].at.Before(now.Add(-tiers[len(tiers)-1].Span)) {
			break
		}
		p.drop(i)
	}
	for i := 0; i < len(p.points); {
		end, settled := interval(tiers, p.points[i].at, now)
		n := i + 1
		for n < len(p.points) && settled && p.points[n].at.Before(end) {
			n++
		}
		if settled {
			p.thin(i, n)
		}
		i = n
	}
}

// interval is the end of the interval that a point of that time is in, and whether the interval is settled: past, and wholly
// of the age of its tier. One that reaches into an earlier tier is left to that: so points are merged once for each tier, a
// whole interval at a time.
func interval(tiers []Tier, at, now time.Time) (end time.Time, settled bool) {
	i := 0
	for i < len(tiers)-1 && at.Before(now.Add(-tiers[i].Span)) {
		i++
	}
	for ; i >= 0; i-- {
		if tiers[i].Every == 0 {
			break
		}
		young := now
		if i > 0 {
			young = now.Add(-tiers[i-1].Span)
		}
		// Truncate counts from the year 1 in UTC: hours and days are those of the calendar.
		end = at.UTC().Truncate(tiers[i].Every).Add(tiers[i].Every)
		if !end.After(young) {
			return end, true
		}
	}
	return time.Time{}, false
}

// thin keeps one of the points from i up to n, the newest consistent one if there is one, and those that are safe.
func (p *plan) thin(i, n int) {
	stays := -1
	for k := n - 1; k >= i && (stays < 0 || !p.points[stays].consistent); k-- {
		if c := p.points[k]; c.keep && (stays < 0 || c.consistent) {
			stays = k
		}
	}
	for k := i; k < n; k++ {
		if k != stays {
			p.drop(k)
		}
		p.points[k].settled = true
	}
}

// kept counts the points that stay.
func (p *plan) kept() (n int) {
	for _, c := range p.points {
		if c.keep {
			n++
		}
	}
	return n
}

// sacrifice gives up points beyond the tiers until enough says so, in this order, within each step the oldest first:
//
//  1. fuzzy points
//  2. all but one of the points of an interval of the next tier, interval by interval, not in that of the newest point:
//     history gets thinner before it gets shorter
//  3. points from the old end: history gets shorter
//
// The newest point, the newest consistent one and pinned points are not given up. With shorten it begins with step 3, which
// alone needs no room. It tells whether it gave up any.
func (p *plan) sacrifice(tiers []Tier, shorten bool, enough func() bool) (gave bool) {
	done := enough()
	gone := func(dropped bool) {
		if dropped { // enough may look at all points: it is asked where something has changed
			gave, done = true, enough()
		}
	}
	for i := 0; i < len(p.points) && !shorten && !done; i++ {
		gone(!p.points[i].consistent && p.drop(i))
	}
	for i := 0; i < len(p.points) && !shorten && !done; {
		next, dropped := p.thinNext(tiers, i)
		gone(dropped)
		i = next
	}
	for i := 0; i < len(p.points) && !done; i++ {
		gone(p.drop(i))
	}
	return gave
}

// thinNext thins the points from i on that are in one interval of the tier after theirs, of their own where that is the last,
// and tells where the next begin.
func (p *plan) thinNext(tiers []Tier, i int) (next int, gone bool) {
	newest := p.points[len(p.points)-1].at
	k := 0
	for k < len(tiers)-1 && p.points[i].at.Before(newest.Add(-tiers[k].Span)) {
		k++
	}
	if k = min(k+1, len(tiers)-1); k < 0 || tiers[k].Every == 0 {
		return i + 1, false
	}
	end := p.points[i].at.UTC().Truncate(tiers[k].Every).Add(tiers[k].Every)
	next = i
	for next < len(p.points) && p.points[next].at.Before(end) {
		next++
	}
	if next == len(p.points) { // that of the newest point
		return next, false
	}
	before := p.kept()
	p.thin(i, next)
	return next, p.kept() < before
}
