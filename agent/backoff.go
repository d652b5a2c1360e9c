package agent

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff is how long to wait before the next try: longer after each that got nothing done, and never for many agents alike, so
// that those which lost their target together don't come back together.
type backoff struct {
	shortest, longest time.Duration
	wait              time.Duration // the last one; 0 after a try that got something done
}

// next is the wait after a try; progress tells whether the try got anything done.
func (b *backoff) next(progress bool) time.Duration {
	if progress || b.wait == 0 {
		b.wait = b.shortest
	} else {
		b.wait = min(2*b.wait, b.longest)
	}
	return b.wait/2 + rand.N(b.wait/2+1)
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
