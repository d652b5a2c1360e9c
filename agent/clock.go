package agent

import (
	"sync"
	"time"
)

// sealClock gives seals their time, which never goes backwards, whatever the host's clock does: a point that is selected by
// time must be the newest of its time, and the order of the points must be that of their times. Where the host's clock is
// behind the newest point, after a step back or a reboot with a wrong clock, points follow each other by a nanosecond until
// it has caught up; status and log say so.
//
// One clock serves all disks, so that the disks of a group get the same time for the same instant.
type sealClock struct {
	mu     sync.Mutex
	newest time.Time // of all times given, and of what targets hold
	asked  time.Time // the instant of the last point
	given  time.Time // and its time
}

// raise makes every time from now on later than t, the newest point of a target.
func (c *sealClock) raise(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.After(c.newest) {
		c.newest = t
	}
}

// point is the time of a point taken at the instant at: the same for every disk that took part.
func (c *sealClock) point(at time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.given.IsZero() && at.Equal(c.asked) {
		return c.given
	}
	c.asked, c.given = at, at
	if !c.newest.Before(at) {
		c.given = c.newest.Add(1)
	}
	c.newest = c.given
	return c.given
}

// part is the time of a delta that is no point.
func (c *sealClock) part(at time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at.Before(c.newest) {
		at = c.newest
	}
	c.newest = at
	return at
}
