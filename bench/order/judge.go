package main

import (
	"fmt"
	"time"
)

// rule is one of those in the package's comment.
type rule string

const (
	ruleTorn    rule = "torn"
	ruleBarrier rule = "barrier"
	ruleToken   rule = "token"
	ruleInstant rule = "instant"
	rulePromise rule = "promise"
)

// violation is why no crash at one instant leaves such a copy.
type violation struct {
	rule rule
	text string
}

func (v violation) String() string { return string(v.rule) + ": " + v.text }

// verdict is what judge found in the copy of a point.
type verdict struct {
	violations []violation
	sectors    int           // that hold a stamp
	underWay   int           // sectors of epochs that were not acknowledged before the point's time
	slack      time.Duration // from the latest begin of what is there to the earliest acknowledgement of what lacks
}

func (v *verdict) find(r rule, format string, args ...any) {
	v.violations = append(v.violations, violation{r, fmt.Sprintf(format, args...)})
}

// has tells whether a rule was broken.
func (v *verdict) has(r rule) bool {
	for _, found := range v.violations {
		if found.rule == r {
			return true
		}
	}
	return false
}

// judge decides whether a crash at one instant could have left what a copy holds of all lanes, for a point of time at. The
// ledger must be that of the writers; it may have gone on.
func judge(lanes []lane, copies []held, l *ledger, at time.Time) verdict {
	var v verdict
	latest, latestLane := stamp{}, -1
	for i := range copies {
		h, own := &copies[i], &lanes[i]
		for _, err := range h.torn {
			v.find(ruleTorn, "%v", err)
		}
		v.sectors += len(h.there)
		barrier, token := false, false
		for _, s := range h.there {
			epoch := own.epochOf(s.seq)
			if !l.begun(i, epoch) {
				v.find(ruleTorn, "lane %d, slot %d holds sequence %d of epoch %d, which nobody began", i, s.slot, s.seq, epoch)
			}
			if e, ok := l.acked(i, epoch); !ok || e.wall >= at.UnixNano() {
				v.underWay++
			}
			if epoch > h.missing && !barrier {
				barrier = true
				v.find(ruleBarrier, "lane %d holds sequence %d of epoch %d, and lacks a sector of epoch %d", i, s.seq, epoch, h.missing)
			}
			if s.after >= 0 && s.afterEpoch >= copies[s.after].missing && !token {
				token = true
				v.find(ruleToken, "lane %d, sequence %d was written after epoch %d of lane %d, of which epoch %d lacks a sector",
					i, s.seq, s.afterEpoch, s.after, copies[s.after].missing)
			}
			if s.begun > latest.begun {
				latest, latestLane = s, i
			}
		}
	}
	v.instant(copies, l, at, latest, latestLane)
	return v
}

// instant holds the latest begin of what is there against the earliest acknowledgement of what lacks, and that against the
// promise.
func (v *verdict) instant(copies []held, l *ledger, at time.Time, latest stamp, latestLane int) {
	earliest, found := entry{}, false
	for i := range copies {
		e, ok := l.acked(i, copies[i].missing)
		if !ok {
			continue
		}
		if e.wall < at.UnixNano() {
			v.find(rulePromise, "lane %d lacks a sector of epoch %d, which was acknowledged %v before the point", i, e.epoch,
				at.Sub(time.Unix(0, e.wall)))
		}
		if !found || e.acked < earliest.acked {
			earliest, found = e, true
		}
	}
	if !found || latestLane < 0 {
		return
	}
	v.slack = time.Duration(earliest.acked - latest.begun)
	if v.slack < 0 {
		v.find(ruleInstant, "lane %d holds sequence %d, begun %v after the acknowledgement of epoch %d of lane %d, of which a sector lacks",
			latestLane, latest.seq, -v.slack, earliest.epoch, earliest.lane)
	}
}
