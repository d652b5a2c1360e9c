package agent

import (
	"testing"
	"time"
)

// TestBackoff: waits grow to the longest while nothing gets done, begin anew when something did, and differ.
func TestBackoff(t *testing.T) {
	b := backoff{shortest: time.Second, longest: 5 * time.Second}
	for i, want := range []time.Duration{1, 2, 4, 5, 5} {
		want *= time.Second
		if got := b.next(false); got < want/2 || got > want {
			t.Errorf("wait %d is %v, want %v to %v", i, got, want/2, want)
		}
	}
	if got := b.next(true); got < time.Second/2 || got > time.Second {
		t.Errorf("the wait after progress is %v, want at most 1 s", got)
	}
	seen := map[time.Duration]bool{}
	for range 20 {
		seen[b.next(true)] = true
	}
	if len(seen) < 10 {
		t.Errorf("20 waits have only %d lengths: agents would come back together", len(seen))
	}
}
