package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/internal/wire"
)

// The fence, at the source. A target whose side was promoted has a newer generation than this source and takes nothing from
// it. The disk is then fenced: nothing is sent, tracking goes on, and the target is asked again rarely. The way back is an
// operator's: Rejoin gives up what was written over there, takes the target's generation over and compares the disk.

// fencedRetry is how often a fenced disk asks again: a target that was put back from a backup may have the old generation.
const fencedRetry = 5 * time.Minute

// errNotFenced: there is nothing to rejoin.
var errNotFenced = errors.New("is not fenced: the target takes its deltas, and there is nothing to rejoin")

// agree holds that source and target are of one generation, and takes the target's over where an operator said so.
func (u *upload) agree(opened *wire.Opened, rejoin bool) error {
	d := u.disk
	ours := d.state.generation()
	switch {
	case opened.Generation == ours && !rejoin:
	case rejoin && opened.Generation >= ours:
		// The bits may still be good, but nobody can tell what the copy went through meanwhile. The note comes first: a
		// crash between the two leaves a disk that is still fenced.
		d.update(func(n *note) { n.Synced, n.Missed, n.Scanned, n.Acked, n.Sealed = false, false, 0, tip{}, tip{} })
		if err := d.state.change(true, func(s *stateData) { s.Generation = opened.Generation }); err != nil {
			return fmt.Errorf("store the generation: %w", err)
		}
		d.rejoining.Store(false)
		u.log.Info("rejoined: the target's generation was taken over, and the copy becomes that of this disk again",
			"disk", d.path, "generation", uint32(opened.Generation))
	default:
		return fmt.Errorf("the target is at generation %d, this source at %d: %w", opened.Generation, ours, wire.ErrFenced)
	}
	u.generation = opened.Generation
	return nil
}

// Rejoin ends the fence of a disk, named by id or device path: what the promoted side wrote is given up. The comparison that
// follows is that of a gap in tracking.
func (a *Agent) Rejoin(name string) (DiskStatus, error) {
	d, err := a.find(name)
	if err != nil {
		return DiskStatus{}, err
	}
	if d.Status().State != StateFenced {
		return d.Status(), fmt.Errorf("%s %w", d.path, errNotFenced)
	}
	d.rejoining.Store(true)
	select {
	case d.wake <- struct{}{}:
	default:
	}
	return d.Status(), nil
}

// find is the disk of that id or device path.
func (a *Agent) find(name string) (*disk, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var known []string
	for _, d := range a.disks {
		if d.path == name || d.id.String() == name {
			return d, nil
		}
		known = append(known, d.path)
	}
	return nil, fmt.Errorf("%s: %w; protected are %v", name, ErrUnknownDisk, known)
}

// mayTry waits until a fenced disk may ask the target again. It is false when ctx has ended.
func (d *disk) mayTry(ctx context.Context) bool {
	if wait := time.Until(d.fencedUntil); wait > 0 && !d.rejoining.Load() {
		d.pause(ctx, wait)
	}
	return ctx.Err() == nil
}

// pause waits for t, until ctx ends, or until an operator asks for another try.
func (d *disk) pause(ctx context.Context, t time.Duration) {
	select {
	case <-ctx.Done():
	case <-d.wake:
	case <-time.After(t):
	}
}
