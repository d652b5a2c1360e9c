package agent

import (
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
)

// TestRollingStepsMakeARound: taken when they are due, the steps of any disk make one round in the time that it may take.
func TestRollingStepsMakeARound(t *testing.T) {
	for name, c := range map[string]struct {
		size  block.Size
		every time.Duration
	}{
		"tiny":         {4 * block.KiB, time.Hour},
		"small":        {10 * block.GiB, 7 * 24 * time.Hour},
		"huge":         {16 * block.TiB, 7 * 24 * time.Hour},
		"in a hurry":   {64 * block.MiB, time.Second},
		"odd size":     {block.GiB + 4097, 10 * time.Minute},
		"in no hurry":  {block.GiB, 1000 * time.Hour},
		"short rounds": {block.TiB, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
			v, steps, last := verifyState{Round: 1, Started: start}, 0, start
			for v.Position < c.size {
				due := rollingDue(&v, c.size, c.every, last)
				if due.Before(last) || due.After(start.Add(c.every)) {
					t.Fatalf("the step at %v is due at %v, the one before it was at %v", v.Position, due, last)
				}
				step := min(rollingStep(c.size, c.every), c.size-v.Position)
				if step <= 0 || step > 8*block.GiB && c.every > time.Hour {
					t.Fatalf("a step of %v", step)
				}
				v.Position, last, steps = v.Position+step, due, steps+1
			}
			if most := int(c.every/rollingPause) + 2; steps > most {
				t.Errorf("%d steps, %d at most", steps, most)
			}
		})
	}
}

// TestRollingAfterTheClockWasSetBack: a round whose start is in the future goes on from where it is, at its pace.
func TestRollingAfterTheClockWasSetBack(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	v := verifyState{Round: 3, Started: now.Add(100 * 24 * time.Hour), Position: block.GiB / 2}
	if due := rollingDue(&v, block.GiB, 10*time.Hour, now); !due.Equal(now) {
		t.Errorf("due at %v, it is %v", due, now)
	}
	if want := now.Add(-5 * time.Hour); !v.Started.Equal(want) {
		t.Errorf("the round began at %v, want %v", v.Started, want)
	}
}
