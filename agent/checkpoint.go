package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
)

// How the group takes a recovery point:
//
//  1. pre-copy: every member sends what is dirty, again and again, until little is left      (members in parallel)
//     and the applications' pre-freeze hooks run, where a point of theirs is due (hooks.go)
//  2. write back what the file systems hold (syncfs), arm the guard, and send what that made dirty
//  3. freeze all file systems of all members
//  4. swap every member's marks; read what they left into memory; swap again: no mark may have come
//  5. thaw; the applications' post-thaw hooks run
//  6. send what was read, seal, wait for the acks                                            (members in parallel)
//
// The point's time is taken before 3: whatever was acknowledged to an application before it is in the point.
const (
	// smallResidue is when another pass is not worth it: it is read well within the freeze budget.
	smallResidue = 4 * block.MiB
	// quietTries is how often 4 is tried on disks without a mounted file system, where nothing can be frozen.
	quietTries = 5
)

// errBusy: writes went on during the cut.
var errBusy = errors.New("writes went on while the disks should have been quiet: something writes to the device beside its mounted file systems (a raw database, swap, another partition's user); no recovery point")

// cut is the outcome of steps 3 to 5.
type cut struct {
	at     time.Time
	frozen time.Duration
	fuzzy  bool  // nothing was frozen
	err    error // why the members' deltas are no recovery point

	applications string // that took part with success in all their hooks
}

// finishHooks waits for the hooks after the thaw and takes in what they make of the cut.
func (c *cut) finishHooks(h *hooks) {
	var err error
	if c.applications, err = h.finish(c.err); c.err == nil {
		c.err = err
	}
}

// checkpoint takes one point of all members. A member's failure ends that member's upload, not the others'.
func (g *group) checkpoint(ctx context.Context, members []*upload) {
	members = forEach(members, func(u *upload) error {
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
	c := g.cutAll(ctx, members)
	c.finishHooks(g.agent.hooks)
	labels := map[string]string{"host": g.cfg.Host, "disks": fmt.Sprintf("%d/%d", len(members), len(g.cfg.Disks))}
	if c.applications != "" {
		labels["applications"] = c.applications
	}
	forEach(members, func(u *upload) error { return u.finishPoint(ctx, c, labels) })
}

// cutAll does steps 2 to 5.
func (g *group) cutAll(ctx context.Context, members []*upload) cut {
	var mounts []Mount
	for _, u := range members {
		if !g.cfg.frozen() {
			break // nothing is frozen, so nothing need be freezable
		}
		on, err := u.mounts()
		if err != nil {
			return cut{err: err}
		}
		mounts = append(mounts, on...)
	}
	mounts = uniqueMounts(mounts)
	if err := g.freezer.prepare(mounts, g.cfg.FreezeLimit); err != nil {
		return cut{err: err}
	}
	defer g.freezer.release()
	tries := 1
	if len(mounts) == 0 {
		tries = quietTries
	}
	var c cut
	for try := range tries {
		if len(forEach(members, func(u *upload) error { return u.precopy(ctx) })) < len(members) {
			return cut{err: errors.New("a member of the group failed during pre-copy; no recovery point")}
		}
		c = g.cutOnce(members)
		if !errors.Is(c.err, errBusy) || try == tries-1 {
			g.agent.hooks.thawed()
		}
		if len(forEach(members, func(u *upload) error { return u.settle(c.err) })) < len(members) {
			return cut{err: errors.New("a member of the group failed after the cut; no recovery point")}
		}
		if !errors.Is(c.err, errBusy) {
			break
		}
	}
	return c
}

// settle sends what the cut read. Where the read itself may have failed, the blocks go back into the dirty set instead.
func (u *upload) settle(cutErr error) error {
	r, p := u.disk.residue, u.disk.pump
	defer func() { r.runs = r.runs[:0] }()
	if cutErr == nil || errors.Is(cutErr, errBusy) {
		return r.send(p.work[0], u.open)
	}
	for _, run := range r.runs {
		p.set.Mark(run.r.Covering(p.set.BlockSize()))
	}
	return nil
}

// cutFuzzy reads what every member lacks while writes go on: no instant.
func cutFuzzy(members []*upload) cut {
	c := cut{at: time.Now(), fuzzy: true}
	if c.err = readQuiet(members); errors.Is(c.err, errBusy) {
		c.err = nil
	}
	return c
}

// cutOnce freezes, swaps, reads, swaps and thaws. Between freeze and thaw nothing is logged or written.
func (g *group) cutOnce(members []*upload) cut {
	if !g.cfg.frozen() {
		return cutFuzzy(members)
	}
	c := cut{at: time.Now()}
	if c.err = g.freezer.freeze(); c.err != nil {
		return c
	}
	c.err = readQuiet(members)
	if err := g.freezer.thaw(); err != nil && c.err == nil {
		c.err = err
	}
	c.frozen = time.Since(c.at)
	return c
}

// readQuiet reads what every member lacks, and holds that no write completed on any of them from the first swap to the last
// read.
func readQuiet(members []*upload) error {
	before := make([]uint64, len(members))
	for i, u := range members {
		var err error
		if before[i], err = u.disk.set.Take(); err != nil {
			return err
		}
	}
	errs := make([]error, len(members))
	var wg sync.WaitGroup
	for i, u := range members {
		wg.Go(func() {
			if errs[i] = u.disk.residue.collect(u.disk.pump); errs[i] == nil {
				errs[i] = u.disk.residue.read(u.disk.dev)
			}
		})
	}
	wg.Wait()
	for i, u := range members {
		after, err := u.disk.set.Take()
		if err != nil || errs[i] != nil {
			return errors.Join(errs[i], err)
		}
		if after != before[i] {
			return errBusy
		}
	}
	return nil
}

// mounts are the file systems to freeze for this member.
func (u *upload) mounts() ([]Mount, error) {
	on, err := MountsOn(deviceNumber(u.disk.path))
	if err != nil {
		return nil, err
	}
	for _, m := range on {
		if !m.Freezable() {
			return nil, fmt.Errorf("%s is mounted from %s as %s, which can't be frozen; no recovery point", m.Path, u.disk.path, m.FSType)
		}
	}
	return on, nil
}

func uniqueMounts(mounts []Mount) []Mount {
	var unique []Mount
	for _, m := range mounts {
		if !slices.ContainsFunc(unique, func(o Mount) bool { return o.Dev == m.Dev }) {
			unique = append(unique, m)
		}
	}
	return unique
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
	switch {
	case c.fuzzy:
		class = block.ClassFuzzy
	case c.applications != "":
		class = block.ClassApplication
	}
	if missed {
		flags = block.FlagUnproven
	}
	if c.err != nil {
		class, c.at = block.ClassNone, time.Now()
	}
	seal, err := u.commit(ctx, class, flags, c.at, labels)
	if err != nil {
		return err
	}
	u.showPoint(seal, c)
	return nil
}

// showPoint tells the operator of a new point, or of its absence.
func (u *upload) showPoint(seal block.Seal, c cut) {
	if c.err != nil {
		u.disk.show(func(s *DiskStatus) { s.Error = c.err.Error() })
		u.log.Warn("no recovery point", "disk", u.disk.path, "err", c.err)
		return
	}
	point := &PointStatus{
		Seq: seal.Seq, Time: seal.Time, Class: seal.Class, Proven: seal.Proven(),
		Changed: seal.Covered, Sent: seal.Payload, Frozen: c.frozen, Acked: time.Now(),
	}
	u.disk.show(func(s *DiskStatus) {
		s.LastPoint, s.Error, s.State = point, "", StateProtected
		s.Changed += seal.Covered
	})
	u.log.Debug("recovery point", "disk", u.disk.path, "point", strconv.FormatUint(uint64(seal.Seq), 10),
		"class", seal.Class.String(), "changed", seal.Covered, "sent", seal.Payload, "frozen", c.frozen)
}
