package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/wire"
)

// group is the consistency group of one session: the disks that are caught up take their points together.
type group struct {
	agent   *Agent
	cfg     Config
	session *link.Session
	freezer *freezer
	cutter  *cutter
	stretch int  // of the interval, while points don't come (pace.go); run's
	late    bool // the last freeze was; run's

	paused bool          // comparisons are, for a point; run's
	took   time.Duration // the last point; run's

	joined chan struct{} // has a token when a disk has joined, or a comparison waits for the next delta

	mu      sync.Mutex
	members []*upload
	cutting sync.Mutex // held while a checkpoint uses the members
}

// run takes a point of all members every interval, and as soon as a disk has caught up, until ctx ends.
func (g *group) run(ctx context.Context) {
	for ctx.Err() == nil {
		start := time.Now()
		g.cutting.Lock()
		if members := g.ready(); len(members) > 0 {
			g.checkpoint(ctx, members)
		}
		g.cutting.Unlock()
		select {
		case <-ctx.Done():
		case <-g.joined:
		case <-time.After(max(g.interval()-time.Since(start), g.cfg.Interval/10)):
		}
	}
}

// ready are the members whose device is still what it was; the others' uploads end.
func (g *group) ready() []*upload {
	g.mu.Lock()
	members := append([]*upload(nil), g.members...)
	g.mu.Unlock()
	return forEach(members, func(u *upload) error {
		if u.ctx.Err() != nil {
			return context.Cause(u.ctx)
		}
		return u.disk.check()
	})
}

func (g *group) join(u *upload) {
	g.mu.Lock()
	g.members = append(g.members, u)
	g.mu.Unlock()
	a := g.agent
	a.mu.Lock()
	a.uploads[u.disk] = u
	a.mu.Unlock()
	g.hurry()
}

// hurry has the next point taken now.
func (g *group) hurry() {
	select {
	case g.joined <- struct{}{}:
	default: // one is due already, and takes every disk in
	}
}

// leave returns when no checkpoint uses u any more.
func (g *group) leave(u *upload) {
	g.mu.Lock()
	for i, m := range g.members {
		if m == u {
			g.members = append(g.members[:i], g.members[i+1:]...)
			break
		}
	}
	g.mu.Unlock()
	g.cutting.Lock() // the checkpoint under way may still use u
	defer g.cutting.Unlock()
	a := g.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.uploads, u.disk)
}

// runDisk makes upload after upload for one disk until ctx ends.
func (g *group) runDisk(ctx context.Context, i int) {
	retry := backoff{shortest: time.Second, longest: 30 * time.Second}
	for ctx.Err() == nil {
		d, err := g.agent.fitDisk(i)
		if !d.mayTry(ctx) {
			continue
		}
		acked := d.acked.Load()
		if err == nil {
			err = g.attend(ctx, d)
		}
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errChanged) {
			continue
		}
		d.report(g.agent, err)
		d.pause(ctx, retry.next(d.acked.Load() != acked))
	}
}

// report shows and logs why a disk is not protected: once for each reason.
func (d *disk) report(a *Agent, err error) {
	state := StateWaiting
	if errors.Is(err, wire.ErrFenced) {
		state, d.fencedUntil = StateFenced, time.Now().Add(fencedRetry)
	}
	d.show(func(s *DiskStatus) { s.State, s.Error = state, err.Error() })
	if err.Error() == d.trouble {
		return
	}
	d.trouble = err.Error()
	if state == StateFenced {
		a.log.Error("fenced: nothing is sent any more; writes are tracked all the same", "disk", d.path, "err", err)
		return
	}
	a.log.Warn("not protected, trying again; writes are tracked meanwhile", "disk", d.path, "err", advice(err))
}

// advice adds the way out to what the target said.
func advice(err error) error {
	switch {
	case errors.Is(err, wire.ErrNoSpace):
		return fmt.Errorf("%w; no point is taken until there is room: free some at the target or keep fewer points", err)
	case errors.Is(err, wire.ErrBusy):
		return fmt.Errorf("%w; stop the other agent, or give this disk's copy an identity of its own", err)
	}
	return err
}

// attend takes one upload from its start to its end.
func (g *group) attend(ctx context.Context, d *disk) error {
	u, err := startUpload(ctx, d, g.session, g.agent)
	if err != nil {
		return err
	}
	err = g.protect(ctx, u)
	if err != nil {
		u.fail(err)
	}
	return u.close()
}

func (g *group) protect(ctx context.Context, u *upload) error {
	d := u.disk
	if err := u.catchUp(ctx); err != nil {
		return err
	}
	d.show(func(s *DiskStatus) { s.State, s.Error = StateProtected, "" })
	if d.trouble != "" {
		g.agent.log.Info("protected again", "disk", d.path)
		d.trouble = ""
	}
	u.hurry = g.hurry
	g.join(u)
	defer g.leave(u)
	for {
		wait := g.cfg.Interval
		err := u.run(func() error {
			if !d.current().proven() {
				return u.resync(g.session)
			}
			var err error
			wait, err = u.roll(g.session, wait)
			return err
		})
		if err != nil {
			return err
		}
		select {
		case <-u.ctx.Done():
			return context.Cause(u.ctx)
		case <-time.After(wait):
		}
	}
}

// fitDisk is disk i, opened anew if its device was gone, was replaced or has another size. The new part of one that grew is
// to be sent; one that shrank is refused.
func (a *Agent) fitDisk(i int) (*disk, error) {
	a.mu.Lock()
	d := a.disks[i]
	a.mu.Unlock()
	err := d.check()
	if err == nil && !d.gone() {
		return d, nil
	}
	// A device that was unplugged keeps its name for as long as somebody holds it open.
	d.close()
	if err != nil && !errors.Is(err, errChanged) {
		return d, err
	}
	was := d.opened
	switch now, err := lookAtDevice(d.path); {
	case err != nil:
		return d, err
	case now.size < was.size:
		return d, fmt.Errorf("%s became %v smaller (it was %v): the copy is kept as it is; grow it back, or remove the disk and protect it anew",
			d.path, was.size-now.size, was.size)
	}
	again, err := openDisk(d.path, a.cfg, a.memory, a.parts.Open)
	if err != nil {
		return d, err
	}
	if again.opened.size > was.size {
		a.log.Info("the device grew: the new part is sent", "disk", d.path, "from", was.size, "to", again.opened.size)
	} else {
		a.log.Info("the device is back", "disk", d.path, "id", again.id.String(), "resumed", again.tracker.Keep().Resumed)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.disks[i] = again
	return again, nil
}
