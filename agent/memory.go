package agent

import (
	"context"
	"fmt"
	"math"
	"runtime/debug"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/codec"
)

// The agent's memory is bounded, whatever the disks' number, size and churn. Of Config.Memory a freeze may fill what these
// leave; the rest of otherMemory is for the program, the link's windows and slack.
const (
	// otherMemory is what all but freezes has.
	otherMemory = 184 * block.MiB
	// heapLimit is what the Go runtime is told to stay under. Not in it: the bitmaps that are shared with the kernel, what a
	// freeze reads, the program.
	heapLimit = 64 * block.MiB
	// bitmapBudget is the memory of one kind of bitmap over all disks. There are three kinds (marks, pending, sent).
	bitmapBudget = 16 * block.MiB
	// passWorkers is how many readers work for passes at once, over all disks; each holds readBytes and an encoder.
	passWorkers = 4 * readers
	// scanBuffers is how many readers of comparisons read and hash at once, over all disks; each holds scanGroup.
	scanBuffers = 3

	leastMemory = otherMemory + 4*block.MiB
	mostMemory  = otherMemory + block.GiB
)

// The heap's share holds what is allocated there, twice over for the readers' buffers: garbage is not collected at once.
const _ = uint(heapLimit - bitmapBudget - 2*(passWorkers*readBytes+scanBuffers*scanGroup))

// memory is what the agent's disks share.
type memory struct {
	workers *lender[readWorker]
	scans   *lender[[]byte]
	freeze  block.Size // most that one disk's part of a freeze may read
}

func newMemory(cfg Config) *memory {
	return &memory{
		workers: newLender(passWorkers, func() (*readWorker, error) { return newReadWorker(cfg.Compress) }),
		scans: newLender(scanBuffers, func() (*[]byte, error) {
			buf := block.AlignedBuffer(scanGroup)
			return &buf, nil
		}),
		freeze: (cfg.Memory - otherMemory) / block.Size(len(cfg.Disks)),
	}
}

func newReadWorker(level codec.Level) (*readWorker, error) {
	enc, err := codec.NewEncoder(level)
	if err != nil {
		return nil, fmt.Errorf("make encoder: %w", err)
	}
	return &readWorker{buf: block.AlignedBuffer(readBytes), batch: block.NewBatch(passDepth), enc: enc}, nil
}

// lender lends a bounded number of things that take memory. They are made when they are first needed.
type lender[T any] struct {
	free chan *T // nil: not made yet
	make func() (*T, error)
}

func newLender[T any](n int, build func() (*T, error)) *lender[T] {
	l := &lender[T]{free: make(chan *T, n), make: build}
	for range n {
		l.free <- nil
	}
	return l
}

// borrow runs f with one of them, which it waits for; who came first is served first.
func (l *lender[T]) borrow(ctx context.Context, f func(*T) error) error {
	var t *T
	select {
	case t = <-l.free:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { l.free <- t }()
	if t == nil {
		made, err := l.make()
		if err != nil {
			return err
		}
		t = made
	}
	return f(t)
}

// hold waits until none is lent, and lends none until release.
func (l *lender[T]) hold() (release func()) {
	held := make([]*T, cap(l.free))
	for i := range held {
		held[i] = <-l.free
	}
	return func() {
		for _, t := range held {
			l.free <- t
		}
	}
}

// limitHeap has the garbage collector work harder rather than let the heap grow.
func limitHeap() { debug.SetMemoryLimit(int64(heapLimit)) }

// withoutCollector runs f with the garbage collector off, whatever the heap holds.
func withoutCollector(f func() error) error {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(math.MaxInt64))
	return f()
}
