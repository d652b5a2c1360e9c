package agent

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/metrics"
	"github.com/understudy-dr/understudy/internal/wire"
)

func TestReasonsOfAbsence(t *testing.T) {
	other := errors.New("read disk: input/output error")
	for err, want := range map[error]string{
		fmt.Errorf("sda: %w: too much", errOutpaced): "outpaced",
		fmt.Errorf("%w of 150ms", errLate):           "late",
		fmt.Errorf("%w (by the guard)", errThawed):   "thawed",
		fmt.Errorf("sda: %w: raw", errBusy):          "busy",
		fmt.Errorf("db: %w, and so on", errHook):     "hook",
		other:                                        "other",
	} {
		word, reason := reasonOf(err)
		if word != want || !errors.Is(err, reason) {
			t.Errorf("%v is counted as %s, for %v", err, word, reason)
		}
	}
	var a absence
	if !a.begin(errHook) || a.begin(fmt.Errorf("another's: %w", errHook)) || !a.begin(other) {
		t.Error("the same reason is said again, or another one is not")
	}
	for want, err := range map[string]error{
		dialLinked: nil, dialRefused: fmt.Errorf("link: %w", wire.Errorf(wire.CodeBusy, "too many")), dialFailed: errors.New("refused"),
	} {
		if got := dialOutcome(err); got != want {
			t.Errorf("dial: %v is counted as %s, want %s", err, got, want)
		}
	}
}

// TestFreezesAreCounted: one that failed before it read has no part of reading.
func TestFreezesAreCounted(t *testing.T) {
	a, err := New(Config{Disks: []string{"/dev/null"}}, Parts{})
	if err != nil {
		t.Fatal(err)
	}
	var r metrics.Registry
	if err := a.Register(&r); err != nil {
		t.Fatal(err)
	}
	a.counts.froze(cutTimes{freeze: 10 * time.Millisecond, read: 25 * time.Millisecond, thaw: time.Millisecond})
	a.counts.froze(cutTimes{freeze: 200 * time.Millisecond})
	a.frozen.Store(time.Now().Add(-time.Hour).UnixNano())
	page, err := r.Page()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`understudy_agent_freeze_seconds_bucket{le="0.03"} 0`,
		`understudy_agent_freeze_seconds_bucket{le="0.05"} 1`,
		`understudy_agent_freeze_seconds_bucket{le="0.25"} 2`,
		`understudy_agent_freeze_seconds_sum 0.236`,
		`understudy_agent_freeze_part_seconds_count{part="freezing"} 2`,
		`understudy_agent_freeze_part_seconds_count{part="reading"} 1`,
		`understudy_agent_freeze_part_seconds_sum{part="thawing"} 0.001`,
		`understudy_agent_frozen_seconds 36`,
	} {
		if !strings.Contains(string(page), "\n"+line) {
			t.Errorf("no line %q:\n%s", line, page)
		}
	}
}
