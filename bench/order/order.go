package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/bench/rig"
	"github.com/understudy-dr/understudy/bench/testbed"
)

// stages are all kinds of disks. Each is run with the freeze, where no point may be found out, and without, where one must.
var stages = []stage{
	{name: "raw", kinds: []string{"raw"}},
	{name: "ext4", kinds: []string{"ext4"}},
	{name: "xfs", kinds: []string{"xfs"}},
	{name: "group", kinds: []string{"ext4", "xfs"}},
}

// order is one run.
type order struct {
	bed   *testbed.Bed
	rig   rig.Rig
	load  time.Duration // how long points are taken of each kind of disk
	limit time.Duration // within which a violation must be found where nothing is frozen
	rest  time.Duration // the longest rest of the writers on a raw disk
	only  string
	seed  uint64
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

func (o *order) run(ctx context.Context) error {
	o.rig.Bed = o.bed
	if err := o.rig.Prepare(ctx); err != nil {
		return err
	}
	ran := 0
	for _, fuzzy := range []bool{false, true} {
		for _, s := range stages {
			if o.only != "" && o.only != s.name {
				continue
			}
			ran++
			run := &stage{name: s.name, kinds: s.kinds, fuzzy: fuzzy}
			if fuzzy {
				run.name += "-fuzzy"
			}
			if err := o.stage(ctx, run); err != nil {
				return fmt.Errorf("%s: %w", run.name, err)
			}
		}
	}
	if ran == 0 {
		return fmt.Errorf("--only %s: there are raw, ext4, xfs and group", o.only)
	}
	say("no crash point is out of order, and every kind of disk is found out without the freeze")
	return nil
}

func (o *order) stage(ctx context.Context, s *stage) error {
	if err := s.prepare(ctx, o.bed, o.rest, o.seed); err != nil {
		return err
	}
	if err := s.protect(ctx, &o.rig); err != nil {
		return err
	}
	check := o.frozen
	if s.fuzzy {
		check = o.unfrozen
	}
	if err := check(ctx, s); err != nil {
		return err
	}
	return errors.Join(o.rig.Reset(ctx), s.release())
}

// frozen takes points under load, then restores and judges every one: no violation may be found.
func (o *order) frozen(ctx context.Context, s *stage) error {
	before := s.ledger.total()
	sleep(ctx, o.load)
	if err := errors.Join(ctx.Err(), s.alive()); err != nil {
		return err
	}
	epochs := s.ledger.total() - before
	if err := s.stop(); err != nil {
		return err
	}
	points, err := s.points(ctx, &o.rig, "crash")
	if err != nil {
		return err
	}
	var sum tally
	for _, p := range points {
		v, err := s.judgePoint(ctx, o.bed, &o.rig, p)
		if errors.Is(err, errDamaged) && !p.proven {
			sum.unproven, sum.violating = sum.unproven+1, sum.violating+1
			continue
		}
		if err != nil {
			return fmt.Errorf("point of %v, #%v: %w\nagent:\n%s", p.at.Format(time.StampMicro), p.seqs, err, o.rig.Agent.Log())
		}
		if sum.add(p, v); len(v.violations) > 0 && p.proven {
			return fmt.Errorf("the crash point of %v, #%v, is no state that a crash could have left: %v\nagent:\n%s",
				p.at.Format(time.StampMicro), p.seqs, v.violations, o.rig.Agent.Log())
		}
	}
	say("%-12s %3d crash points, all in order: %d sectors, %d of them of epochs under way; %.0f epochs a second over %d lanes",
		s.name, sum.points, sum.sectors, sum.underWay, float64(epochs)/o.load.Seconds(), len(s.lanes))
	if sum.unproven > 0 {
		say("%-12s %3d more were flagged unproven, since the audit saw that tracking fell short; %d of them out of order", "", sum.unproven, sum.violating)
	}
	// The points must have been taken of something that went on.
	if sum.points < 3 || epochs < 100 || sum.sectors == 0 {
		return fmt.Errorf("too little to prove anything: %d points, %d epochs\nagent:\n%s", sum.points, epochs, o.rig.Agent.Log())
	}
	return nil
}

func (t *tally) add(p groupPoint, v verdict) {
	if !p.proven {
		t.unproven++
		if len(v.violations) > 0 {
			t.violating++
		}
		return
	}
	t.points++
	t.sectors += v.sectors
	t.underWay += v.underWay
}

// unfrozen judges points as they come until one is found out.
func (o *order) unfrozen(ctx context.Context, s *stage) error {
	began, seen := time.Now(), time.Time{}
	var sum tally
	for time.Since(began) < o.limit {
		points, err := s.points(ctx, &o.rig, "fuzzy")
		if err != nil {
			return err
		}
		if len(points) > 0 && points[len(points)-1].at.After(seen) {
			p := points[len(points)-1]
			seen = p.at
			v, err := s.judgePoint(ctx, o.bed, &o.rig, p)
			switch {
			case errors.Is(err, errDamaged): // found out too, though not by judge, which is to be tried here
				sum.damaged++
				continue
			case err != nil:
				return fmt.Errorf("point of %v: %w", p.at.Format(time.StampMicro), err)
			}
			// An unproven point may lack what tracking has missed, instant or not: it says nothing about the freeze.
			if sum.add(p, v); p.proven && v.has(ruleInstant) {
				say("%-12s found out after %d points and %.1f s (%d more were damaged file systems): %v", s.name, sum.points,
					time.Since(began).Seconds(), sum.damaged, v.violations[len(v.violations)-1])
				return s.stop()
			}
		}
		if err := errors.Join(ctx.Err(), s.alive()); err != nil {
			return err
		}
		sleep(ctx, 100*time.Millisecond)
	}
	if sum.damaged > 0 {
		say("%-12s %d of %d points were damaged file systems, which no crash leaves", s.name, sum.damaged, sum.damaged+sum.points+sum.unproven)
		return s.stop()
	}
	return fmt.Errorf("nothing was frozen, and none of %d points was found out within %v: the checker can't tell", sum.points, o.limit)
}

// release gives the stage's disks back.
func (s *stage) release() error {
	var all error
	for _, d := range s.disks {
		if d.kind != "raw" {
			m := testbed.Mount{Dir: d.root}
			all = errors.Join(all, m.Unmount())
		}
		all = errors.Join(all, d.loop.Detach())
	}
	return all
}
