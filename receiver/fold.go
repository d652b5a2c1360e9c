package receiver

import (
	"context"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/receiver/journal"
)

// foldEvery is how often retention looks at a disk to which nothing comes in: points grow old all the same.
const foldEvery = time.Minute

// startFolder runs the disk's retention and folding until ctx ends. It does nothing for a disk that has its folder.
func (r *Receiver) startFolder(ctx context.Context, rep *replica) {
	r.foldMu.Lock()
	defer r.foldMu.Unlock()
	if r.folding[rep] || ctx.Err() != nil {
		return
	}
	r.folding[rep] = true
	r.folders.Go(func() { r.fold(ctx, rep) })
	r.folders.Go(func() { r.check(ctx, rep) })
}

// check reads every byte of the journal once after a start: damage is found when it is there, not when a point is needed.
func (r *Receiver) check(ctx context.Context, rep *replica) {
	err := rep.journal.Check(ctx, func(done, total block.Size) {})
	if err == nil || ctx.Err() != nil {
		return
	}
	rep.counts.damage.Add(1)
	rep.mu.Lock()
	rep.damaged = err
	rep.mu.Unlock()
	r.log.Error("the journal is damaged", "disk", rep.name(), "err", err)
}

// fold lets old points go: their deltas are applied to the volume or merged into the next point's. An error is retried with the next delta, and logged when it
// changes: points are safe in the journal until it goes away.
func (r *Receiver) fold(ctx context.Context, rep *replica) {
	said := ""
	for {
		err := rep.journal.Retain(ctx, journal.Policy{
			Tiers: r.cfg.Keep, Latest: r.cfg.Horizon == HorizonLatest, MaxPoints: r.cfg.MaxPoints, MaxBytes: r.cfg.MaxBytes, Now: time.Now(),
		})
		rep.counts.retained(err)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && err.Error() != said:
			said = err.Error()
			r.log.Error("can't thin the journal out; points are kept until it works", "disk", rep.name(), "err", err)
		case err == nil && said != "":
			said = ""
			r.log.Info("thinning the journal out again", "disk", rep.name())
		}
		select {
		case <-ctx.Done():
			return
		case <-rep.changed:
		case <-time.After(foldEvery):
		}
	}
}
