// Package capture knows which blocks of a disk changed. A Tracker marks them while the disk is in use; the Set is the dirty
// set, the only retry state of the source: it takes over what the tracker marked, and drops a bit only when the target has
// acknowledged the block as durable.
package capture

import (
	"errors"

	"github.com/understudy-dr/understudy/internal/block"
)

// Tracker marks the blocks of one disk that change, from the moment it is attached.
//
// Its methods are called by one goroutine at a time, but for Status, which is safe beside all of them.
type Tracker interface {
	// Geometry is the granularity of the marks and how many blocks there are.
	Geometry() (block.BlockSize, block.Count)

	// Take hands every word of marks that is not empty to sink and then clears just the bits that it handed over. Word w
	// holds the blocks 64w to 64w+63. A kill between the two leaves the bit marked, never lost: sink must have stored it
	// where it outlives the agent (Keep) before it returns. A write that completes after Take began is marked again.
	Take(sink func(word int, marks uint64)) error

	// Audit compares what was marked since the last Audit with what the disk's own statistics say was written. Before the
	// caller asks again it has noted a miss where it outlives the agent; until then a new agent is told of it again.
	Audit() (Audit, error)

	// Keep is memory that lives as long as the marks do. It stays the tracker's, and is gone after Close.
	Keep() Keep

	// Status tells how the disk is tracked, for the operator.
	Status() Status

	// Close lets go of the tracker and leaves it in the kernel, marking: the next agent takes it over.
	Close() error

	// Remove ends tracking for good and drops the marks.
	Remove() error
}

// Keep is memory that outlives the agent, with the marks and no longer than they: a reboot drops both.
type Keep struct {
	// Pending holds the bits that were taken and not yet acknowledged: WordsFor(count) words.
	Pending []uint64
	// Note is for the agent's record of what the bits are relative to; NoteSize bytes, zero in a new tracker.
	Note []byte
	// Resumed tells that marks, Pending and Note were found as an earlier agent left them, with no gap in tracking.
	// Otherwise they are all zero, and what was written before is not known.
	Resumed bool
}

// NoteSize is the size of Keep.Note in bytes.
const NoteSize = 4096

// Audit is the outcome of one audit interval.
type Audit struct {
	// Missed tells that a write may have gone unmarked, or that it cannot be known: the disk must be scanned.
	Missed bool
	// Reason is a sentence for the operator when Missed is true.
	Reason string
}

// Status is how a disk is tracked.
type Status struct {
	Kind        string            `json:"kind"`   // ebpf, nbd, fuse, qemu
	Device      string            `json:"device"` // the disk whose completions are watched
	Detail      string            `json:"detail"` // the choices made, in one sentence
	Granularity block.BlockSize   `json:"granularity"`
	Marked      block.Size        `json:"marked_bytes"` // since attach, as the tracker saw it
	Counters    map[string]uint64 `json:"counters,omitempty"`
}

// What callers branch on.
var (
	// ErrUnsupported: this host or this device can't be tracked so; the text says why and what would help.
	ErrUnsupported = errors.New("can't be tracked")
	// ErrInUse: another agent tracks this disk.
	ErrInUse = errors.New("tracked by another agent")
	// ErrShrunk: the disk is smaller than what is tracked.
	ErrShrunk = errors.New("the disk became smaller")
)
