package agent

import (
	"context"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
)

// pacer spreads reads over time. It is safe for concurrent use: all that share it keep to its rate together.
type pacer struct {
	rate block.Size // bytes in a second; 0: as fast as it goes

	mu   sync.Mutex
	next time.Time // when the next read may begin
}

// wait returns when n bytes may be read.
func (p *pacer) wait(ctx context.Context, n block.Size) error {
	if p.rate <= 0 {
		return ctx.Err()
	}
	p.mu.Lock()
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	pause := p.next.Sub(now)
	p.next = p.next.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	p.mu.Unlock()
	if pause > 0 {
		sleep(ctx, pause)
	}
	return ctx.Err()
}

// eta is a guess at how much longer something takes, from how long it has taken so far.
type eta struct {
	since time.Time
	from  block.Size // that was done then already
}

// left is 0 where nothing can be said yet.
func (e eta) left(done, total block.Size) time.Duration {
	took := time.Since(e.since)
	if done <= e.from || took < time.Second || total <= done {
		return 0
	}
	return time.Duration(float64(took) * float64(total-done) / float64(done-e.from)).Round(time.Second)
}
