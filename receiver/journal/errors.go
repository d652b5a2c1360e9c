package journal

import "errors"

// What callers branch on.
var (
	// ErrTip: a delta does not follow the newest one here, by number or by digest. The source must resync from Tip.
	ErrTip = errors.New("does not follow the newest delta")
	// ErrGeneration: a delta of a generation that the other side's promotion has fenced off.
	ErrGeneration = errors.New("generation is fenced off")
	// ErrBusy: a delta is being written.
	ErrBusy = errors.New("another delta is being written")
	// ErrFolding: the volume may be on its way past a point that is to be pinned.
	ErrFolding = errors.New("folding past it has begun")
	// ErrSeal: what was appended is not what the seal says. Nothing of the delta is kept.
	ErrSeal = errors.New("seal does not match the delta")
	// ErrNoPoint: there is no such delta here, or it has been folded.
	ErrNoPoint = errors.New("no such point")
	// ErrViewOpen: folding stopped at the oldest open view; it can go on when that is closed.
	ErrViewOpen = errors.New("a view of an older point is open")
	// ErrPinned: folding stopped at a pinned point, or a merge would have swallowed one.
	ErrPinned = errors.New("a point is pinned")
	// ErrPins: there are as many pins as a journal can have.
	ErrPins = errors.New("too many pins")
	// ErrShrunk: the disk became smaller than its copy.
	ErrShrunk = errors.New("the disk became smaller")
	// ErrExists: there is a journal in this directory already.
	ErrExists = errors.New("there is a journal already")
)
