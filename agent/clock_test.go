package agent

import (
	"testing"
	"time"
)

// TestSealTimesNeverGoBack: whatever the host's clock does, and whatever the target holds.
func TestSealTimesNeverGoBack(t *testing.T) {
	start := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	var c sealClock
	var last time.Time
	hold := func(what string, got time.Time, strictly bool) {
		t.Helper()
		if got.Before(last) || strictly && !got.After(last) {
			t.Errorf("%s: %v after %v", what, got, last)
		}
		last = got
	}
	hold("a point", c.point(start), true)
	if !last.Equal(start) {
		t.Errorf("a clock that is right was corrected to %v", last)
	}
	if second := c.point(start); !second.Equal(last) {
		t.Errorf("another disk's point of the same instant is of %v", second)
	}
	hold("a point by a clock that was set back", c.point(start.Add(-time.Hour)), true)
	hold("the next", c.point(start.Add(-time.Hour+time.Second)), true)
	hold("a part", c.part(start.Add(-time.Minute)), false)
	hold("a point after it", c.point(start.Add(-time.Minute)), true)
	c.raise(start.Add(time.Hour))
	hold("a point after one of the target that is newer", c.point(start.Add(time.Minute)), true)
	if !last.After(start.Add(time.Hour)) {
		t.Errorf("%v is before the newest of the target", last)
	}
	c.raise(start)
	hold("a point after the target's older one", c.point(start.Add(2*time.Minute)), true)
	hold("a part in the future", c.part(start.Add(3*time.Hour)), false)
	hold("a point after it", c.point(start.Add(2*time.Hour)), true)
	at := start.Add(4 * time.Hour)
	first := c.point(at)
	c.part(at.Add(time.Second)) // of another disk, between the two of the group
	if second := c.point(at); !second.Equal(first) {
		t.Errorf("two disks of one point: %v and %v", first, second)
	}
}
