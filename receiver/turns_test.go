package receiver

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestTurnsLeaveAPlaceToOthers: a host that asks for all it can get takes all but one, and another host gets a turn at once,
// again and again, while the first holds on.
func TestTurnsLeaveAPlaceToOthers(t *testing.T) {
	const n = 3
	turns := newTurns(n)
	ctx, cancel := context.WithCancel(t.Context())
	var holding atomic.Int32
	var wg sync.WaitGroup
	for range 20 { // n of them get a turn and keep it
		wg.Go(func() {
			buf, err := turns.take(ctx, "greedy")
			if err != nil {
				return
			}
			holding.Add(1)
			<-ctx.Done()
			turns.giveBack("greedy", buf)
		})
	}
	for holding.Load() < n {
		time.Sleep(time.Millisecond) // until all its goroutines hold what they may
	}
	for i := range 100 {
		limited, stop := context.WithTimeout(t.Context(), time.Minute)
		buf, err := turns.take(limited, "other")
		stop()
		if err != nil {
			t.Fatalf("turn %d of the other: %v", i, err)
		}
		if got := holding.Load(); got != n {
			t.Fatalf("the greedy host holds %d turns, it may %d", got, n)
		}
		turns.giveBack("other", buf)
	}
	cancel()
	wg.Wait()
	if len(turns.hosts) != 0 || len(turns.places) != n+1 {
		t.Errorf("%d hosts are remembered, %d places are free", len(turns.hosts), len(turns.places))
	}
	if _, err := turns.take(ctx, "late"); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
