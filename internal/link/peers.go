package link

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/understudy-dr/understudy/internal/wire"
)

// peers are those with sessions at a listener, by the name in their certificates. What a peer may have open is counted over
// all its sessions, so more sessions are not more of anything; and no peer's share is taken from another's.
type peers struct {
	memory int // of each, in bytes

	mu   sync.Mutex
	byID map[string]*account
}

// account is what one peer holds.
type account struct {
	memory  *budget
	streams atomic.Int32
	conns   []conn // oldest first
}

// enter gives a peer one more session. One that has too many loses its oldest: an honest peer has that many only when its
// line broke again and again, and the older ones are dead.
func (p *peers) enter(name string, c conn) *account {
	p.mu.Lock()
	if p.byID == nil {
		p.byID = map[string]*account{}
	}
	a := p.byID[name]
	if a == nil {
		a = &account{memory: newBudget(p.memory)}
		p.byID[name] = a
	}
	a.conns = append(a.conns, c)
	var oldest conn
	if len(a.conns) > maxSessions {
		oldest = a.conns[0]
		a.conns = slices.Delete(a.conns, 0, 1)
	}
	p.mu.Unlock()
	if oldest != nil {
		go oldest.close(wire.Errorf(wire.CodeBusy, "%s has opened more than %d sessions: the oldest is ended", name, maxSessions))
	}
	return a
}

// leave takes a session out.
func (p *peers) leave(name string, c conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.byID[name]
	if a == nil {
		return
	}
	if i := slices.Index(a.conns, c); i >= 0 {
		a.conns = slices.Delete(a.conns, i, i+1)
	}
	if len(a.conns) == 0 {
		delete(p.byID, name)
	}
}
