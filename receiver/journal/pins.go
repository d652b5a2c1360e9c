package journal

import (
	"fmt"
	"maps"
	"slices"

	"github.com/understudy-dr/understudy/internal/block"
)

// maxPins bounds the pins of a disk: each holds up folding, or keeps a delta from being merged.
const maxPins = 1000

// pinList is the record of the pinned points.
type pinList struct {
	Pins []block.Seq `json:"pins"` // ascending
}

func pinsOf(set map[block.Seq]bool) pinList {
	return pinList{Pins: append([]block.Seq{}, slices.Sorted(maps.Keys(set))...)}
}

func (j *Journal) readPins() error {
	var list pinList
	if err := j.readNeeded(pinsName, pinsMagic, &list); err != nil {
		return err
	}
	for _, seq := range list.Pins {
		j.pins[seq] = true
	}
	return nil
}

// Pin keeps a recovery point whatever the policy says: folding does not pass it, merging does not swallow it. It is durable
// when nil is returned; after an error it may hold after a restart, and can be taken back by Unpin. ErrNoPoint if there is no
// such point, ErrPins if there are too many.
func (j *Journal) Pin(seq block.Seq) error {
	j.pinsMu.Lock()
	defer j.pinsMu.Unlock()
	list, err := j.reservePin(seq)
	if err != nil {
		return fmt.Errorf("pin %v: %w", seq, err)
	}
	if err := writeRecord(j.fs, j.path(pinsName), pinsMagic, list); err != nil {
		j.mu.Lock()
		delete(j.pins, seq)
		j.mu.Unlock()
		return fmt.Errorf("pin %v: %w", seq, err)
	}
	return nil
}

// reservePin makes the pin count from now on, before it is durable: the point must not go while it is being written.
func (j *Journal) reservePin(seq block.Seq) (pinList, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.usableLocked(); err != nil {
		return pinList{}, err
	}
	if !slices.ContainsFunc(j.points(), func(p Point) bool { return p.Seq == seq }) {
		return pinList{}, fmt.Errorf("%s: %w", j.near(seq), ErrNoPoint)
	}
	if seq < j.doubt { // a crash now may bring the position back that failed to be written, and with it the point is gone
		return pinList{}, fmt.Errorf("%w, and failed: try again when the target's disk works", ErrFolding)
	}
	if len(j.pins) >= maxPins && !j.pins[seq] {
		return pinList{}, fmt.Errorf("a disk has at most %d, unpin another: %w", maxPins, ErrPins)
	}
	j.pins[seq] = true
	return pinsOf(j.pins), nil
}

// Unpin leaves the point to the policy again; it need not be pinned. The point is kept until that is durable.
func (j *Journal) Unpin(seq block.Seq) error {
	j.pinsMu.Lock()
	defer j.pinsMu.Unlock()
	j.mu.Lock()
	err, left := j.usableLocked(), maps.Clone(j.pins)
	j.mu.Unlock()
	if err != nil {
		return fmt.Errorf("unpin %v: %w", seq, err)
	}
	delete(left, seq)
	if err := writeRecord(j.fs, j.path(pinsName), pinsMagic, pinsOf(left)); err != nil {
		return fmt.Errorf("unpin %v: %w", seq, err)
	}
	j.mu.Lock()
	delete(j.pins, seq)
	j.mu.Unlock()
	return nil
}
