package volumetest

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/understudy-dr/understudy/internal/block"
)

// sector is what a disk writes whole or not at all.
const sector = 512

// Forgetting is a Device in memory that keeps for sure only what was synced: see Crash. It can grow, zero, and tell its holes
// (none). It is safe for concurrent use.
type Forgetting struct {
	mu      sync.Mutex
	now     []byte // as the program sees it
	durable []byte
	pending []pendingWrite
}

// pendingWrite is a write, or with no data a resize, since the last sync.
type pendingWrite struct {
	off  int64
	data []byte
	size int64
}

// NewForgetting is a Device of size bytes, all durable. They are not zeroes, as on a disk that was used before, but filled
// with fill.
func NewForgetting(size block.Size, fill byte) *Forgetting {
	f := &Forgetting{now: make([]byte, size), durable: make([]byte, size)}
	for i := range f.now {
		f.now[i], f.durable[i] = fill, fill
	}
	return f
}

// ReadAt implements block.Device.
func (f *Forgetting) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if off < 0 || off > int64(len(f.now)) {
		return 0, io.EOF
	}
	n := copy(p, f.now[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements block.Device.
func (f *Forgetting) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !(block.Range{Off: block.Offset(off), Len: block.Size(len(p))}).In(block.Size(len(f.now))) {
		return 0, fmt.Errorf("write %d bytes at %d of %d: %w", len(p), off, len(f.now), block.ErrOutOfRange)
	}
	copy(f.now[off:], p)
	f.pending = append(f.pending, pendingWrite{off: off, data: append([]byte(nil), p...)})
	return len(p), nil
}

// Zero implements block.Zeroer.
func (f *Forgetting) Zero(r block.Range) error {
	if !r.In(f.Geometry().Size) {
		return block.ErrOutOfRange
	}
	_, err := f.WriteAt(make([]byte, r.Len), int64(r.Off))
	return err
}

// Truncate makes the Device that large; what is added is zeroes.
func (f *Forgetting) Truncate(size block.Size) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = resized(f.now, int64(size))
	f.pending = append(f.pending, pendingWrite{size: int64(size)})
	return nil
}

// resized gives a copy where b grows: its memory past the length is not zero.
func resized(b []byte, size int64) []byte {
	if size <= int64(len(b)) {
		return b[:size]
	}
	return append(append(make([]byte, 0, size), b...), make([]byte, size-int64(len(b)))...)
}

// Sync implements block.Device.
func (f *Forgetting) Sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.durable = append([]byte(nil), f.now...)
	f.pending = nil
	return nil
}

// Geometry implements block.Device.
func (f *Forgetting) Geometry() block.Geometry {
	f.mu.Lock()
	defer f.mu.Unlock()
	return block.Geometry{Size: block.Size(len(f.now)), Logical: sector}
}

// Close implements block.Device. The Device can be used on: it stands for the disk, not for a handle.
func (f *Forgetting) Close() error { return nil }

// Clone is a copy with all that is durable and all that is not.
func (f *Forgetting) Clone() *Forgetting {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &Forgetting{now: slices.Clone(f.now), durable: slices.Clone(f.durable), pending: slices.Clone(f.pending)}
}

// Crash is a loss of power: of the writes since the last Sync any sectors survive, and any of the resizes. What survived is
// durable then.
func (f *Forgetting) Crash(rng *rand.Rand) {
	f.mu.Lock()
	defer f.mu.Unlock()
	chance := []float64{0, 0.5, 0.9, 1}[rng.IntN(4)]
	for _, w := range f.pending {
		if w.data == nil {
			if rng.Float64() < chance {
				f.durable = resized(f.durable, w.size)
			}
			continue
		}
		for i := int64(0); i < int64(len(w.data)); {
			n := min(int64(len(w.data))-i, sector-(w.off+i)%sector)
			if at := w.off + i; at+n <= int64(len(f.durable)) && rng.Float64() < chance {
				copy(f.durable[at:], w.data[i:i+n])
			}
			i += n
		}
	}
	f.now = append([]byte(nil), f.durable...)
	f.pending = nil
}
