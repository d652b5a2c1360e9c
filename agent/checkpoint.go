package agent

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
)

// How the group takes a recovery point:
//
//  1. pre-copy: every member sends what is dirty, again and again, until little is left      (members in parallel; precopy.go)
//     and the applications' pre-freeze hooks run, where a point of theirs is due (hooks.go)
//  2. write back what the file systems hold (syncfs), send what that made dirty, and again until it takes no time
//  3. freeze all file systems of all members                                                 (3 to 5 are the frozen section: cut.go)
//  4. swap every member's marks; read what they left into memory; swap again: no mark may have come
//  5. thaw; the applications' post-thaw hooks run
//  6. send what was read, seal, wait for the acks                                            (members in parallel)
//
// The point's time is taken before 3: whatever was acknowledged to an application before it is in the point.
const (
	// quietTries is how often 4 is tried where nothing can be frozen, which costs nobody anything.
	quietTries = 5
	// syncRounds is how often 2 is done at most.
	syncRounds = 4
	// fuzzyLabel says in a fuzzy point's seal why it is one.
	fuzzyLabel = "fuzzy"
	// applicationsLabel names in an application point's seal whose hooks ran.
	applicationsLabel = "applications"
)

// errBusy: writes went on during the cut.
var errBusy = errors.New("writes went on while the disk should have been quiet")

// cut is the outcome of steps 2 to 5.
type cut struct {
	began  time.Time // of step 1
	copied time.Time // its end
	at     time.Time
	frozen cutTimes
	fuzzy  map[*upload]string // members whose point is no instant, and why
	err    error              // why the members' deltas are no recovery point

	applications string // that took part with success in all their hooks
}

// final tells whether another try would bring nothing better.
func (c *cut) final() bool {
	return c.err == nil && len(c.fuzzy) == 0 || c.err != nil && !errors.Is(c.err, errBusy)
}

// finishHooks waits for the hooks after the thaw and takes in what they make of the cut. A point that is no instant of one
// disk is none of the applications.
func (c *cut) finishHooks(h *hooks) {
	failed := c.err
	if failed == nil && len(c.fuzzy) > 0 {
		failed = errBusy
	}
	var err error
	if c.applications, err = h.finish(failed); c.err == nil {
		c.err = err
	}
}

// checkpoint takes one point of all members. A member's failure ends that member's upload, not the others'.
func (g *group) checkpoint(ctx context.Context, members []*upload) {
	began := time.Now()
	defer func() { g.took = time.Since(began) }()
	if g.took < g.cfg.Interval/2 { // else comparisons would hardly get on
		defer g.quiet()()
	}
	members = forEach(members, func(u *upload) error {
		if err := u.startPace(); err != nil {
			return err
		}
		if err := u.begin(); err != nil {
			return err
		}
		return u.precopy(ctx)
	})
	if len(members) == 0 {
		return
	}
	if len(members) == len(g.cfg.Disks) { // a disk that is left out may be the application's
		g.agent.hooks.begin(ctx)
	}
	copied := time.Now()
	c := g.cutAll(ctx, members)
	c.began, c.copied = began, copied
	c.finishHooks(g.agent.hooks)
	g.backOff(members, c.err)
	labels := map[string]string{"host": g.cfg.Host, "disks": fmt.Sprintf("%d/%d", len(members)-len(c.fuzzy), len(g.cfg.Disks))}
	if c.applications != "" {
		labels[applicationsLabel] = c.applications
	}
	forEach(members, func(u *upload) error { return u.finishPoint(ctx, c, labels) })
}

// cutAll does steps 2 to 5.
func (g *group) cutAll(ctx context.Context, members []*upload) cut {
	l, err := layoutOf(members)
	if err != nil {
		return cut{err: err}
	}
	if !g.cfg.freezes() {
		l.mounts = nil
	}
	if err := g.freezer.prepare(l.mounts); err != nil {
		return cut{err: err}
	}
	defer g.freezer.release()
	tries := 1
	if len(g.freezer.fds) == 0 && g.cfg.freezes() {
		tries = quietTries
	}
	var c cut
	for try := range tries {
		if c = g.cutOnce(ctx, members, l, try == tries-1); c.final() {
			break
		}
	}
	return c
}

// cutOnce does steps 2 to 5 once. last says that there is no other try, and the applications may go on.
func (g *group) cutOnce(ctx context.Context, members []*upload, l layout, last bool) cut {
	if err := g.settleDown(ctx, members); err != nil {
		return cut{err: err}
	}
	for _, u := range members {
		if err := u.readable(g.cfg); err != nil {
			return cut{err: err}
		}
	}
	forEach(members, func(u *upload) error {
		u.disk.residue.arena.warm(u.left() + residueMargin)
		return nil
	})
	release := g.quiet()
	if len(g.freezer.fds) > 0 {
		g.freezer.grace.hurry()
	}
	c := cut{at: time.Now()}
	c.err = g.cutter.cut(members)
	c.frozen = g.cutter.times
	g.freezer.grace.rest()
	release()
	if len(g.freezer.fds) > 0 {
		g.agent.counts.froze(c.frozen)
	}
	read := c.err == nil
	if read {
		c.fuzzy, c.err = g.judge(members, l)
	} else {
		c.err = g.explain(c.err)
	}
	if last || c.final() {
		g.agent.hooks.thawed()
	}
	if len(forEach(members, func(u *upload) error { return u.settle(read) })) < len(members) {
		return cut{err: errors.New("a member of the group failed after the cut; no recovery point")}
	}
	return c
}

// quiet has comparisons pause until release: they keep neither disk nor processors nor link busy meanwhile.
func (g *group) quiet() (release func()) {
	if g.paused {
		return func() {}
	}
	resume := g.agent.memory.scans.hold()
	g.paused = true
	return func() {
		g.paused = false
		resume()
	}
}

// settleDown does step 2. What a freeze has to write back delays it as much as what it has to read, and nobody can call it off
// while it does: so the last thing before it is a syncfs that had little to do.
func (g *group) settleDown(ctx context.Context, members []*upload) error {
	last := time.Duration(-1)
	for range syncRounds {
		took, err := timed(g.freezer.sync)
		if err != nil {
			return err
		}
		if took < g.cfg.FreezeBudget/4 && g.fit(members) {
			return nil
		}
		if len(forEach(members, func(u *upload) error { return u.precopy(ctx) })) < len(members) {
			return errors.New("a member of the group failed during pre-copy; no recovery point")
		}
		if last >= 0 && took > last-last/8 {
			break // it does not get less
		}
		last = took
	}
	return g.freezer.sync()
}

// fit tells whether what every member has left is read within the budget.
func (g *group) fit(members []*upload) bool {
	for _, u := range members {
		if _, err := u.disk.set.Take(); err != nil || !u.fits(u.left()) {
			return false
		}
	}
	return true
}

// judge decides what the point of a cut is worth: whose writes went on, and whether that may be.
func (g *group) judge(members []*upload, l layout) (fuzzy map[*upload]string, err error) {
	fuzzy = map[*upload]string{}
	for i, u := range members {
		why := l.loose[u]
		switch {
		case !g.cfg.freezes():
			fuzzy[u] = "it was read without a freeze (freeze is off)"
			continue
		case !g.cutter.busy[i]:
			continue
		case why == "" && l.frozen[u]:
			why = "something writes to the device beside its mounted file systems (a raw database, a virtual machine, a file system of another host)"
		case why == "":
			why = "no file system of it is mounted, so nothing can be frozen (a raw database, a virtual machine)"
		}
		if g.cfg.Unfreezable == UnfreezableFuzzy {
			fuzzy[u] = why
			continue
		}
		return nil, fmt.Errorf("%s: %w: %s; no recovery point (unfreezable = \"fuzzy\" takes points of it that are no instant)", u.disk.path, errBusy, why)
	}
	return fuzzy, nil
}

// explain adds the way out to what went wrong in the frozen section.
func (g *group) explain(err error) error {
	if errors.Is(err, errLate) {
		return fmt.Errorf("%w of %v and was ended; no recovery point: raise freeze_budget (it is %v), or take points when less is written",
			err, g.freezer.limit, g.cfg.FreezeBudget)
	}
	return err
}

// settle sends what the cut read. Where the read itself may have failed, the blocks go back into the dirty set instead.
func (u *upload) settle(read bool) error {
	r, p := u.disk.residue, u.disk.pump
	defer r.reset()
	if read {
		p.read.Add(int64(r.used))
		return u.cause(p.work.borrow(u.ctx, func(w *readWorker) error { return r.send(w, u.open) }))
	}
	r.drop(p)
	return nil
}

// forEach runs f for all members in parallel, fails those for which it returned an error, and returns the others.
func forEach(members []*upload, f func(*upload) error) []*upload {
	ok := make([]bool, len(members))
	var wg sync.WaitGroup
	for i, u := range members {
		wg.Go(func() {
			err := f(u)
			if ok[i] = err == nil; !ok[i] {
				u.fail(err)
			}
		})
	}
	wg.Wait()
	var left []*upload
	for i, u := range members {
		if ok[i] {
			left = append(left, u)
		}
	}
	return left
}

// finishPoint does step 6 for one member. Where the cut failed, what was sent is sealed all the same, as no point: it need
// not be sent again.
func (u *upload) finishPoint(ctx context.Context, c cut, labels map[string]string) error {
	missed, err := u.audit()
	if err != nil {
		return err
	}
	class, flags := block.ClassCrash, block.SealFlags(0)
	if c.applications != "" {
		class = block.ClassApplication
	}
	if missed {
		flags = block.FlagUnproven
	}
	if why := c.fuzzy[u]; why != "" {
		class = block.ClassFuzzy
		labels = map[string]string{"host": labels["host"], fuzzyLabel: why[:min(len(why), block.MaxLabelValue)]}
	}
	if c.err != nil {
		class, c.at = block.ClassNone, time.Now()
	}
	seal, err := u.commit(ctx, class, flags, c.at, labels)
	if err != nil {
		return err
	}
	u.endPace(&c)
	u.showPoint(seal, c)
	return nil
}

// showPoint tells the operator of a new point, or of its absence.
func (u *upload) showPoint(seal block.Seal, c cut) {
	if c.err != nil {
		why, _ := reasonOf(c.err)
		u.disk.counts.absent.Add(why, 1)
		u.disk.show(func(s *DiskStatus) { s.Error = c.err.Error() })
		if u.disk.absence.begin(c.err) {
			u.log.Warn("no recovery point; those that the target has are kept", "disk", u.disk.path, "err", c.err)
		}
		return
	}
	if since, ok := u.disk.absence.end(); ok {
		u.log.Info("recovery points again", "disk", u.disk.path, "after", time.Since(since).Round(time.Second))
	}
	u.disk.counts.points.Add(pointKind{seal.Class, seal.Proven()}, 1)
	point := &PointStatus{
		Seq: seal.Seq, Time: seal.Time, Class: seal.Class, Proven: seal.Proven(),
		Changed: seal.Covered, Sent: seal.Payload, Frozen: c.frozen.all(), Residue: u.disk.residue.used, Acked: time.Now(),
	}
	u.disk.show(func(s *DiskStatus) {
		s.LastPoint, s.Error, s.State = point, "", StateProtected
		if seal.Class.Consistent() {
			s.Consistent = seal.Time
			if seal.Proven() {
				s.ProvenAt = seal.Time
			}
		}
		s.Changed += seal.Covered
	})
	u.log.Debug("recovery point", "disk", u.disk.path, "point", strconv.FormatUint(uint64(seal.Seq), 10), "class", seal.Class.String(),
		"changed", seal.Covered, "sent", seal.Payload, "residue", u.disk.residue.used,
		"precopy", c.copied.Sub(c.began), "settling", c.at.Sub(c.copied), "sealing", time.Since(c.at)-c.frozen.all(),
		"freezing", c.frozen.freeze, "reading", c.frozen.read, "frozen", c.frozen.all())
}
