package receiver

import (
	"context"
	"sync"

	"github.com/understudy-dr/understudy/internal/wire"
)

// turns are the right to read and hash, which is work that a source causes with a message of 60 bytes: at most so many at
// once over all sources, since more would not be faster, and for each host one fewer than there are in all, so that one host
// with any number of requests leaves a place to the others. Each comes with a buffer for a chunk, so memory is bounded with
// them.
type turns struct {
	places chan []byte
	share  int

	mu    sync.Mutex
	hosts map[string]*share
}

// share is a host's part.
type share struct {
	places  chan struct{}
	waiting int // that hold a place or wait for one
}

// newTurns has a host use n processors at once.
func newTurns(n int) *turns {
	t := &turns{places: make(chan []byte, n+1), share: n, hosts: map[string]*share{}}
	for range n + 1 {
		t.places <- nil
	}
	return t
}

// take waits for a turn of the host. What it gives is wire.MaxScanChunk long, and goes back with giveBack.
func (t *turns) take(ctx context.Context, host string) ([]byte, error) {
	t.mu.Lock()
	s := t.hosts[host]
	if s == nil {
		s = &share{places: make(chan struct{}, t.share)}
		t.hosts[host] = s
	}
	s.waiting++
	t.mu.Unlock()
	select {
	case s.places <- struct{}{}:
	case <-ctx.Done():
		t.leave(host, s)
		return nil, ctx.Err()
	}
	select {
	case buf := <-t.places:
		if buf == nil {
			buf = make([]byte, wire.MaxScanChunk)
		}
		return buf, nil
	case <-ctx.Done():
		<-s.places
		t.leave(host, s)
		return nil, ctx.Err()
	}
}

func (t *turns) giveBack(host string, buf []byte) {
	t.places <- buf
	t.mu.Lock()
	s := t.hosts[host]
	t.mu.Unlock()
	<-s.places
	t.leave(host, s)
}

// leave forgets a host that has no request any more.
func (t *turns) leave(host string, s *share) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.waiting--; s.waiting == 0 {
		delete(t.hosts, host)
	}
}
