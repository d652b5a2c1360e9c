package agent

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
)

func TestBackOffIsBounded(t *testing.T) {
	for _, c := range []struct {
		name     string
		interval time.Duration
		longest  time.Duration
	}{
		{"by a factor", 5 * time.Second, 40 * time.Second},
		{"by itself", 2 * time.Minute, longestInterval},
		{"set longer than that", time.Hour, time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := &group{cfg: Config{Interval: c.interval}, stretch: 1}
			u := &upload{}
			for range 10 {
				before := g.interval()
				g.backOff([]*upload{u}, fmt.Errorf("disk: %w", errOutpaced))
				if g.interval() < before || u.pace.interval != g.interval() {
					t.Fatalf("after %v comes %v, shown %v", before, g.interval(), u.pace.interval)
				}
			}
			if g.interval() != c.longest {
				t.Errorf("grew to %v, not %v", g.interval(), c.longest)
			}
			g.backOff(nil, errBusy)
			if g.interval() != c.interval {
				t.Errorf("a reason that waiting does not cure stretches it to %v", g.interval())
			}
		})
	}
}

// TestALateFreezeIsTriedAgain: at once, and only once in a row.
func TestALateFreezeIsTriedAgain(t *testing.T) {
	g := &group{cfg: Config{Interval: time.Second}, stretch: 1, joined: make(chan struct{}, 1)}
	late := fmt.Errorf("disk: %w", errLate)
	for i, c := range []struct {
		err      error
		again    bool
		interval time.Duration
	}{
		{late, true, time.Second},
		{late, false, 2 * time.Second},
		{late, false, 4 * time.Second},
		{nil, false, time.Second},
		{late, true, time.Second},
		{errOutpaced, false, 2 * time.Second},
		{late, true, 2 * time.Second},
	} {
		g.backOff(nil, c.err)
		again := false
		select {
		case <-g.joined:
			again = true
		default:
		}
		if again != c.again || g.interval() != c.interval {
			t.Errorf("%d: after %v: tried at once %v, else after %v", i, c.err, again, g.interval())
		}
	}
}

// TestAdviceNamesWhatIsShort: the link, or the time that a freeze may take.
func TestAdviceNamesWhatIsShort(t *testing.T) {
	p := pace{backlog: 400 * block.MiB}
	p.shown = PaceStatus{Dirtied: 70e6, Drained: 20e6, Sent: 10e6}
	got := p.advice(time.Second, 50*time.Millisecond)
	for _, want := range []string{"dirty 70.0 MB/s", "drains 20.0 MB/s", "10.0 MB/s of it on the line", "takes 40.0 MB/s of bandwidth", "interval of 43s"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in %q", want, got)
		}
	}
	p.shown = PaceStatus{Dirtied: 5e6, Drained: 50e6, Sent: 50e6}
	if got := p.advice(70*time.Millisecond, 50*time.Millisecond); !strings.Contains(got, "set freeze_budget (it is 50ms) to 140ms or more") {
		t.Errorf("a slow disk: %q", got)
	}
}

func TestAbsenceIsSaidOnce(t *testing.T) {
	var a absence
	if _, ok := a.end(); ok {
		t.Error("recovered from nothing")
	}
	for i, c := range []struct {
		err error
		say bool
	}{
		{fmt.Errorf("1 MB/s: %w", errOutpaced), true},
		{fmt.Errorf("2 MB/s: %w", errOutpaced), false},
		{fmt.Errorf("late: %w", errLate), true},
		{errors.New("something else"), true},
		{errors.New("something else"), false},
	} {
		if got := a.begin(c.err); got != c.say {
			t.Errorf("%d: %v: said %v", i, c.err, got)
		}
	}
	a.said = time.Now().Add(-sayAgain)
	if !a.begin(errors.New("something else")) {
		t.Error("not said again after a long while")
	}
	if _, ok := a.end(); !ok {
		t.Error("the recovery is not said")
	}
	if a.begin(errors.New("something else")) {
		t.Error("said again at once after a point in between")
	}
	if _, ok := a.end(); ok {
		t.Error("the recovery from what was not said is said")
	}
}

// TestReadTime: what a freeze would take is reckoned by the kind of what is left, and by the other kind where that was never read.
func TestReadTime(t *testing.T) {
	const KiB, MiB = block.KiB, block.MiB
	pieces := func(n int, size block.Size) (reads []block.Read) {
		for range n {
			reads = append(reads, block.Read{Buf: make([]byte, size)})
		}
		return reads
	}
	var r readRate
	if d := r.time([2]block.Size{firstResidue, firstResidue}); d != 0 {
		t.Errorf("before anything was read: %v", d)
	}
	if d := r.time([2]block.Size{firstResidue + 1, 0}); d != time.Hour {
		t.Errorf("more than a first freeze may read: %v", d)
	}
	r.add(pieces(1, MiB), readers*time.Millisecond) // long: 1 ms a MiB
	if d := r.time([2]block.Size{4 * MiB, 4 * MiB}); d != 8*time.Millisecond {
		t.Errorf("by long ones alone: %v", d)
	}
	r.add(pieces(8, 4*KiB), readers*time.Millisecond) // small: 32 ms a MiB
	if d := r.time([2]block.Size{0, 4 * MiB}); d != 4*time.Millisecond {
		t.Errorf("long ones: %v", d)
	}
	if d := r.time([2]block.Size{4 * MiB, 4 * MiB}); d != 132*time.Millisecond {
		t.Errorf("both kinds: %v", d)
	}
}
