package agent

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/metrics"
	"github.com/understudy-dr/understudy/internal/wire"
)

// What is counted for metrics and has no place in the status. Nothing here is touched between freeze and thaw.

// diskCounts are those of one disk, since it was opened.
type diskCounts struct {
	points   metrics.Tally[pointKind] // that were acknowledged
	absent   metrics.Tally[string]    // points that were tried and did not come, by reason
	compared atomic.Int64             // bytes of disk read to be compared
	repaired atomic.Int64             // bytes that differed without being due, and were marked to be sent again
}

// pointKind is what a point is worth.
type pointKind struct {
	class  block.Class
	proven bool
}

func (c *diskCounts) begin() {
	for _, class := range []block.Class{block.ClassCrash, block.ClassApplication, block.ClassFuzzy} {
		c.points.Begin(pointKind{class, true}, pointKind{class, false})
	}
	c.absent.Begin(otherReason)
	for _, r := range reasons {
		c.absent.Begin(r.word)
	}
}

// agentCounts are those of the agent.
type agentCounts struct {
	dials  *metrics.Tally[string] // by outcome
	thaws  *atomic.Int64          // by the guard
	freeze *metrics.Histogram     // the whole of it
	parts  map[string]*metrics.Histogram
}

// freezeParts are the parts of a freeze, in their order.
var freezeParts = []string{"freezing", "reading", "thawing"}

// newFreezeHistogram has bounds on both sides of the default budget of 50 ms, and of what the guard adds to it.
func newFreezeHistogram() *metrics.Histogram {
	return metrics.NewHistogram(0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 5)
}

func newAgentCounts() agentCounts {
	c := agentCounts{dials: &metrics.Tally[string]{}, thaws: new(atomic.Int64), freeze: newFreezeHistogram(), parts: map[string]*metrics.Histogram{}}
	c.dials.Begin(dialLinked, dialRefused, dialFailed)
	for _, part := range freezeParts {
		c.parts[part] = newFreezeHistogram()
	}
	return c
}

// What becomes of a try to link.
const (
	dialLinked  = "linked"
	dialRefused = "refused" // by the target, in words
	dialFailed  = "failed"  // nobody answered, or not as a target does
)

func dialOutcome(err error) string {
	switch {
	case err == nil:
		return dialLinked
	case errors.As(err, new(*wire.Error)):
		return dialRefused
	}
	return dialFailed
}

// froze counts a freeze that is over.
func (c *agentCounts) froze(t cutTimes) {
	c.freeze.Time(t.all())
	for i, took := range []time.Duration{t.freeze, t.read, t.thaw} {
		if took > 0 { // a freeze that failed was over before
			c.parts[freezeParts[i]].Time(took)
		}
	}
}

// hookKey names one hook.
type hookKey struct{ application, which string }

// hookCounts are those of one hook.
type hookCounts struct {
	failed atomic.Int64
	took   *metrics.Histogram // of all runs
}

func newHookCounts() *hookCounts {
	return &hookCounts{took: metrics.NewHistogram(0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300)}
}

func (c *hookCounts) count(took time.Duration, err error) {
	c.took.Time(took)
	if err != nil {
		c.failed.Add(1)
	}
}
