package metrics

import (
	"maps"
	"sync"
	"time"
)

// Tally counts things by what they are. The zero value is ready; Begin shows what has not happened yet as 0, so that the first
// time is a growth that a rule can see. It is safe for concurrent use.
type Tally[K comparable] struct {
	mu sync.Mutex
	n  map[K]uint64
}

// Begin has these counted from 0.
func (t *Tally[K]) Begin(keys ...K) {
	for _, k := range keys {
		t.Add(k, 0)
	}
}

// Add adds n to the count of k. The caller bounds how many k there are.
func (t *Tally[K]) Add(k K, n uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == nil {
		t.n = map[K]uint64{}
	}
	t.n[k] += n
}

// Counts is a copy.
func (t *Tally[K]) Counts() map[K]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.n)
}

// Histogram counts observations by their size. It is safe for concurrent use.
type Histogram struct {
	bounds []float64 // upper ends, rising
	mu     sync.Mutex
	counts []uint64 // one more than bounds: the last is of what is above all
	sum    float64
}

// NewHistogram makes one with these upper bounds, which must rise.
func NewHistogram(bounds ...float64) *Histogram {
	return &Histogram{bounds: bounds, counts: make([]uint64, len(bounds)+1)}
}

// Observe counts one.
func (h *Histogram) Observe(v float64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := 0
	for i < len(h.bounds) && v > h.bounds[i] {
		i++
	}
	h.counts[i]++
	h.sum += v
}

// Time counts a duration, in seconds.
func (h *Histogram) Time(d time.Duration) { h.Observe(d.Seconds()) }

// snapshot is how many lay in each bucket, and their sum.
func (h *Histogram) snapshot() ([]uint64, float64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]uint64(nil), h.counts...), h.sum
}
