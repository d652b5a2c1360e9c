package link

import (
	"encoding/binary"
	"net"
	"sync"
	"time"
)

// The TCP carrier's windows are a stream's own: a peer with many streams, none of which is read, could fill memory with all
// of them together. QUIC has a window for the whole connection; here the meter takes its place. It follows yamux's framing
// as it comes in, counts what memory each stream's buffer takes, and stops reading from the network while the peer, over all
// its sessions, has more than its budget. Only that peer waits then.
//
// It stops between two frames and nowhere else: within one yamux holds the lock that the stream's reader needs, and would
// wait for ever. So it is over the budget by a frame at most, which is as long as a window. yamux keeps a buffer that was
// read to its end; such buffers are given back when memory is short, and count until then.

// budget is the memory of one peer, over all its sessions, in bytes.
type budget struct {
	mu   sync.Mutex
	room *sync.Cond // something was given back, or a session has ended
	most int
	used int
}

func newBudget(most int) *budget {
	b := &budget{most: most}
	b.room = sync.NewCond(&b.mu)
	return b
}

// meter is the connection that yamux reads from, in one goroutine. It counts against its peer's budget.
type meter struct {
	net.Conn
	budget *budget

	// What follows is the reader's, who parses.
	head [yamuxHeader]byte
	got  int    // bytes of head
	body uint32 // bytes of a data frame that are still to come
	id   uint32 // of the stream that they are for

	// The rest is under budget.mu.
	streams map[uint32]*buffer
	ended   bool
}

// buffer is what a stream has received and nobody has read, and the memory for it.
type buffer struct {
	n        int    // bytes unread
	charged  int    // the most that n was, with unreadCost
	shrink   func() // gives the memory back, if nothing is unread; nil while the stream has no owner
	finished bool   // at this end
	peer     bool   // at the peer's end
}

// unreadCost is what a stream is charged for being remembered: names of streams cost a peer nothing to make up.
const unreadCost = 128

// yamux's spec.md, "Framing": version u8, type u8, flags u16, stream u32, length u32, big-endian.
const (
	yamuxHeader   = 12
	yamuxTypeAt   = 1
	yamuxFlagsAt  = 2
	yamuxStreamAt = 4
	yamuxLengthAt = 8
	yamuxData     = 0
	yamuxFIN      = 4
	yamuxRST      = 8
)

func newMeter(c net.Conn, b *budget) *meter {
	return &meter{Conn: c, budget: b, streams: map[uint32]*buffer{}}
}

// Read reads no further than to the end of a header or a body, and waits before a header until the peer is within its
// budget.
func (m *meter) Read(p []byte) (int, error) {
	if m.body > 0 {
		p = p[:min(len(p), int(m.body))]
	} else {
		p = p[:min(len(p), yamuxHeader-m.got)]
	}
	if m.body == 0 && m.got == 0 {
		m.wait()
	}
	n, err := m.Conn.Read(p)
	m.budget.mu.Lock()
	defer m.budget.mu.Unlock()
	m.count(p[:n])
	return n, err
}

func (m *meter) wait() {
	m.budget.mu.Lock()
	defer m.budget.mu.Unlock()
	for m.budget.used > m.budget.most && !m.ended {
		if !m.shrink() {
			m.budget.room.Wait()
		}
	}
}

// shrink gives back the buffers of streams that were read to their end, and tells whether there were any.
func (m *meter) shrink() (any bool) {
	for _, u := range m.streams {
		if u.n == 0 && u.charged > unreadCost && u.shrink != nil {
			u.shrink()
			m.budget.used -= u.charged - unreadCost
			u.charged, any = unreadCost, true
		}
	}
	return any
}

// count follows the framing over the next bytes.
func (m *meter) count(p []byte) {
	for len(p) > 0 {
		if m.body > 0 {
			n := min(int(m.body), len(p))
			u := m.stream(m.id)
			u.n += n
			if more := u.n + unreadCost - u.charged; more > 0 {
				u.charged += more
				m.budget.used += more
			}
			m.body -= uint32(n)
			p = p[n:]
			continue
		}
		n := copy(m.head[m.got:], p)
		m.got += n
		p = p[n:]
		if m.got == yamuxHeader {
			m.got = 0
			m.frame()
		}
	}
}

// frame looks at a whole header.
func (m *meter) frame() {
	m.id = binary.BigEndian.Uint32(m.head[yamuxStreamAt:])
	if m.head[yamuxTypeAt] == yamuxData {
		m.body = binary.BigEndian.Uint32(m.head[yamuxLengthAt:])
	}
	if binary.BigEndian.Uint16(m.head[yamuxFlagsAt:])&(yamuxFIN|yamuxRST) == 0 {
		return
	}
	u := m.stream(m.id)
	u.peer = true
	m.settle(m.id, u)
}

func (m *meter) stream(id uint32) *buffer {
	u := m.streams[id]
	if u == nil {
		u = &buffer{charged: unreadCost}
		m.budget.used += unreadCost
		m.streams[id] = u
	}
	return u
}

// own says how a stream's owner gives its memory back.
func (m *meter) own(id uint32, shrink func()) {
	m.budget.mu.Lock()
	defer m.budget.mu.Unlock()
	m.stream(id).shrink = shrink
}

// read says that a stream's owner has taken n bytes.
func (m *meter) read(id uint32, n int) {
	m.budget.mu.Lock()
	defer m.budget.mu.Unlock()
	if u := m.streams[id]; u != nil {
		if u.n -= n; u.n == 0 {
			m.budget.room.Broadcast()
		}
	}
}

// finish says that nobody reads the stream any more. yamux keeps what came until the peer has ended it too, or for
// lingerTimeout.
func (m *meter) finish(id uint32) {
	m.budget.mu.Lock()
	defer m.budget.mu.Unlock()
	u := m.stream(id)
	if u.finished {
		return
	}
	u.finished = true
	if !m.settle(id, u) {
		time.AfterFunc(lingerTimeout, func() {
			m.budget.mu.Lock()
			defer m.budget.mu.Unlock()
			m.forget(id, u)
		})
	}
}

// settle forgets a stream that has ended at both ends.
func (m *meter) settle(id uint32, u *buffer) bool {
	if !u.finished || !u.peer {
		return false
	}
	m.forget(id, u)
	return true
}

func (m *meter) forget(id uint32, u *buffer) {
	if m.streams[id] == u {
		delete(m.streams, id)
		m.budget.used -= u.charged
		m.budget.room.Broadcast()
	}
}

// end gives back all that the session holds, and lets its reader go on to find out.
func (m *meter) end() {
	m.budget.mu.Lock()
	defer m.budget.mu.Unlock()
	m.ended = true
	for id, u := range m.streams {
		m.forget(id, u)
	}
	m.budget.room.Broadcast()
}
