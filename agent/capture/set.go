package capture

import (
	"math/bits"
	"sync"

	"github.com/understudy-dr/understudy/internal/block"
)

// Set is the dirty set of one disk: what must still reach the target. A bit's way through it:
//
//	marks (kernel) ──Take──▶ pending ──Sent──▶ pending and sent ──Ack──▶ gone
//	                            ▲                     │
//	                            └── Rewind, or marked again by Take
//
// pending lives in the tracker's Keep, so it outlives the agent; sent says which pending blocks the open delta holds in
// their present state, and dies with the agent, which is a Rewind. Take must come before the read of what it found: a write
// that lands after the read is marked again, and the next Take takes the block out of sent.
//
// All methods are safe for concurrent use.
type Set struct {
	tracker   Tracker
	blockSize block.BlockSize

	mu      sync.Mutex
	pending *block.Bitmap
	sent    *block.Bitmap
	taken   uint64
	ignore  []block.Run                  // not counted in taken
	absorb  func(word int, marks uint64) // made once: Take is called while file systems are frozen, and allocates nothing
}

// NewSet is the dirty set over a tracker's marks. It holds what the tracker's Keep holds.
func NewSet(t Tracker) *Set {
	size, n := t.Geometry()
	s := &Set{
		tracker:   t,
		blockSize: size,
		pending:   block.BitmapOver(t.Keep().Pending, n),
		sent:      block.NewBitmap(n),
	}
	s.absorb = s.take
	return s
}

// BlockSize is the granularity.
func (s *Set) BlockSize() block.BlockSize { return s.blockSize }

// Take moves the tracker's marks into the set. It returns how many marks were taken since the Set was made, those of ignored
// blocks left out: two calls that return the same number say that no write that counts completed between them, whoever else
// called Take meanwhile.
func (s *Set) Take() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.tracker.Take(s.absorb)
	return s.taken, err
}

// take is the sink of Take.
func (s *Set) take(w int, marks uint64) {
	s.pending.Words()[w] |= marks
	s.sent.Words()[w] &^= marks
	for _, r := range s.ignore {
		marks &^= maskOf(r, w)
	}
	s.taken += uint64(bits.OnesCount64(marks))
}

// maskOf is the bits of word w that r covers.
func maskOf(r block.Run, w int) uint64 {
	base := block.Index(w) * 64
	first, end := max(r.First-base, 0), min(r.End()-base, 64)
	if first >= end {
		return 0
	}
	return ^uint64(0) << uint(first) & (^uint64(0) >> uint(64-end))
}

// Ignore leaves the marks of these blocks out of what Take counts, and of nothing else: they are sent like all others. It is for
// swap, which is written at any time, and is worth nothing after a crash.
func (s *Set) Ignore(runs []block.Run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ignore = runs
}

// Next is the first run at or after from that the open delta does not hold yet, at most limit blocks of it.
func (s *Set) Next(from block.Index, limit block.Count) (block.Run, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pending, sent := s.pending.Words(), s.sent.Words()
	first, w := from, int(from/64)
	for ; w < len(pending); w++ {
		v := pending[w] &^ sent[w]
		if base := block.Index(w) * 64; first > base {
			v &= ^uint64(0) << uint(first-base)
		}
		if v == 0 {
			continue
		}
		first = block.Index(w*64 + bits.TrailingZeros64(v))
		return block.Run{First: first, N: s.runLength(first, limit)}, true
	}
	return block.Run{}, false
}

// runLength counts the blocks from first on that are to be sent, up to limit.
func (s *Set) runLength(first block.Index, limit block.Count) block.Count {
	pending, sent := s.pending.Words(), s.sent.Words()
	n := block.Count(0)
	for n < limit {
		at := first + block.Index(n)
		w := int(at / 64)
		if w >= len(pending) {
			break
		}
		ones := bits.TrailingZeros64(^((pending[w] &^ sent[w]) >> uint(at%64)))
		n += block.Count(min(ones, 64-int(at%64)))
		if ones < 64-int(at%64) {
			break
		}
	}
	return min(n, limit)
}

// Sent notes that the open delta will hold the blocks of r as they are from now on: call it before they are read.
func (s *Set) Sent(r block.Run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent.Set(r)
}

// Left is how many blocks the open delta lacks.
func (s *Set) Left() block.Count {
	s.mu.Lock()
	defer s.mu.Unlock()
	pending, sent := s.pending.Words(), s.sent.Words()
	var n int
	for w, p := range pending {
		n += bits.OnesCount64(p &^ sent[w])
	}
	return block.Count(n)
}

// Pending is how many blocks the target has not acknowledged.
func (s *Set) Pending() block.Count {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending.Count()
}

// Ack drops what the delta held: the target has it durably. What was marked since stays.
func (s *Set) Ack() {
	s.mu.Lock()
	defer s.mu.Unlock()
	pending := s.pending.Words()
	for w, v := range s.sent.Words() {
		pending[w] &^= v
	}
	s.sent.Reset()
}

// Rewind forgets the open delta: all that it held is to be sent again.
func (s *Set) Rewind() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent.Reset()
}

// Mark adds blocks that a scan found to differ, or that were never sent.
func (s *Set) Mark(r block.Run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending.Set(r)
	s.sent.Clear(r)
}

// MarkAll adds every block: a first sync.
func (s *Set) MarkAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending.SetAll()
	s.sent.Reset()
}

// Dirty tells of each block of r whether the target may lack its present state, as of the last Take: visit is called for
// the blocks that are dirty.
func (s *Set) Dirty(r block.Run, visit func(block.Index)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := r.First; i < r.End(); i++ {
		if s.pending.Get(i) {
			visit(i)
		}
	}
}
