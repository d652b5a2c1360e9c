package agent

import (
	"errors"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
)

// errOutpaced: pre-copy does not get ahead of the writes.
var errOutpaced = errors.New("the copy does not converge")

// PaceStatus is how fast a disk is written against how fast its changes reach the target, over the last point's time.
type PaceStatus struct {
	Dirtied    float64       `json:"dirtied_bytes_per_second"` // written to the disk, as the tracker counts it
	Drained    float64       `json:"drained_bytes_per_second"` // of disk, acknowledged; 0 before enough was sent to tell
	Sent       float64       `json:"sent_bytes_per_second"`    // of payload, which compression and zeroes make less
	Converging bool          `json:"converging"`
	Advice     string        `json:"advice,omitempty"`
	Interval   time.Duration `json:"interval_ns"` // in force: longer than the one set while points don't come
}

// paceLeast is how much must have been drained for the rate to say something: below it is the round trip that counts.
const paceLeast = block.MiB

// pace measures one upload from the start of a point to its end.
type pace struct {
	began    time.Time
	marked   block.Size // by the tracker, when it began
	backlog  block.Size
	covered  block.Size // of disk, acknowledged since
	payload  block.Size
	interval time.Duration
	shown    PaceStatus
}

// acked counts a delta.
func (p *pace) acked(s block.Seal) {
	p.covered += s.Covered
	p.payload += s.Payload
}

// startPace begins to measure.
func (u *upload) startPace() error {
	_, err := u.disk.set.Take()
	p := &u.pace
	p.began, p.marked, p.covered, p.payload = time.Now(), u.disk.tracker.Status().Marked, 0, 0
	p.backlog = u.left()
	return err
}

// endPace ends the measurement, shows it, and adds its figures to what the cut says of a copy that does not converge.
func (u *upload) endPace(c *cut) {
	p := &u.pace
	took := time.Since(p.began)
	s := &p.shown
	s.Dirtied = float64(u.disk.tracker.Status().Marked-p.marked) / took.Seconds()
	if p.covered >= paceLeast {
		s.Drained, s.Sent = float64(p.covered)/took.Seconds(), float64(p.payload)/took.Seconds()
	}
	s.Converging, s.Interval, s.Advice = !errors.Is(c.err, errOutpaced), p.interval, ""
	switch {
	case !s.Converging:
		s.Advice = p.advice(u.disk.pump.readTime(), u.budget)
		c.err = fmt.Errorf("%w: %s; no recovery point, the next try comes in %v", c.err, s.Advice, p.interval)
	case took > 2*p.interval:
		s.Advice = fmt.Sprintf("a point took %v, longer than the interval: points come as fast as the link drains",
			took.Round(100*time.Millisecond))
	}
	shown := *s
	u.disk.show(func(st *DiskStatus) { st.Pace = &shown })
}

// advice is what would make the copy converge.
func (p *pace) advice(read, budget time.Duration) string {
	s := p.shown
	figures := fmt.Sprintf("writes dirty %.1f MB/s, the link drains %.1f MB/s", s.Dirtied/1e6, s.Drained/1e6)
	if s.Drained > s.Dirtied*8/7 { // the link is not what is short
		return fmt.Sprintf("%s: set freeze_budget (it is %v) to %v or more", figures, budget, (2 * read).Round(time.Millisecond))
	}
	need := s.Dirtied * 8 / 7
	if s.Drained > 0 {
		figures += fmt.Sprintf(" (%.1f MB/s of it on the line)", s.Sent/1e6)
		// What the line must carry: as much as now for each byte of disk.
		need *= s.Sent / s.Drained
	}
	interval := ""
	if s.Drained > 0 {
		at := time.Duration(float64(p.backlog)/s.Drained*float64(time.Second)) * 2
		interval = fmt.Sprintf(", or an interval of %v where it is the same blocks that are written again and again", at.Round(time.Second)+time.Second)
	}
	return fmt.Sprintf("%s: it takes %.1f MB/s of bandwidth, fewer writes%s", figures, need/1e6, interval)
}

const (
	// mostStretch bounds how much longer than set the interval grows while points don't come, and longestInterval in itself.
	mostStretch     = 8
	longestInterval = 5 * time.Minute
)

// backOff makes the interval longer after a point that did not come for a reason that trying does not cure, each try of which
// costs the applications a freeze or the link its bandwidth. The first point that comes makes it what was set. A freeze that was
// late may have met a moment's write-back: it is tried once more at once.
func (g *group) backOff(members []*upload, err error) {
	late := errors.Is(err, errLate)
	switch {
	case late && !g.late:
		g.hurry()
	case late || errors.Is(err, errOutpaced):
		g.stretch = min(2*g.stretch, mostStretch)
	default:
		g.stretch = 1
	}
	g.late = late
	for _, u := range members {
		u.pace.interval = g.interval()
	}
}

// interval is from one point to the next, as things stand.
func (g *group) interval() time.Duration {
	return max(g.cfg.Interval, min(g.cfg.Interval*time.Duration(g.stretch), longestInterval))
}

// absence is what was said of points that don't come. One line a reason, again after a while, and one when they come again; a
// disk that changes between the two all the time is spoken of no more often.
type absence struct {
	reason error     // sentinel of the last one logged, or the error itself
	said   time.Time // when it was
	since  time.Time // no point came; zero while they come
	told   bool      // it was said since then
}

// reasons are those for a point that does not come which have a word of their own.
var reasons = []struct {
	err  error
	word string
}{{errOutpaced, "outpaced"}, {errLate, "late"}, {errThawed, "thawed"}, {errBusy, "busy"}, {errHook, "hook"}}

// otherReason is the word of all others.
const otherReason = "other"

// reasonOf is why a point did not come: a word for it, and the sentinel in err, or err itself.
func reasonOf(err error) (word string, reason error) {
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			return r.word, r.err
		}
	}
	return otherReason, err
}

// sayAgain is after how long the same reason is logged once more.
const sayAgain = 10 * time.Minute

// begin tells whether to log that a point did not come for this reason.
func (a *absence) begin(err error) bool {
	_, reason := reasonOf(err)
	if a.since.IsZero() {
		a.since = time.Now()
	}
	if a.reason != nil && a.reason.Error() == reason.Error() && time.Since(a.said) < sayAgain {
		return false
	}
	a.reason, a.said, a.told = reason, time.Now(), true
	return true
}

// end tells since when no point came, if that was said.
func (a *absence) end() (since time.Time, ok bool) {
	since, ok = a.since, a.told
	a.since, a.told = time.Time{}, false
	return since, ok
}
