package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/bench/rig"
	"github.com/understudy-dr/understudy/bench/workload"
)

// demo is one run:
//
//	disk, workload ▸ receiver, agent ▸ first sync ▸ points under load ▸ the source dies ▸ restore ▸ fsck ▸ mount ▸ check
type demo struct {
	rig  rig.Rig
	size int64
	fill int64
	load time.Duration
	seed uint64

	src    *rig.Source
	disk   string // its id
	killed time.Time
	acked  workload.Counts // when the source was killed
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

func (d *demo) run(ctx context.Context) error {
	for _, stage := range []func(context.Context) error{d.source, d.protect, d.watch, d.disaster, d.recover} {
		if err := stage(ctx); err != nil {
			return err
		}
	}
	return nil
}

// source makes the disk and starts writing to it.
func (d *demo) source(ctx context.Context) error {
	say("making an ext4 disk of %s and writing %s of initial data", mib(d.size), mib(d.fill))
	var err error
	if d.src, err = rig.NewSource(ctx, d.rig.Bed, d.size, d.fill, d.seed); err != nil {
		return err
	}
	say("source: %s, mounted at %s", d.src.Loop.Device, d.src.Mount.Dir)
	say("workload: files are created, replaced, renamed, deleted and overwritten in place, with fsync; SQLite commits row after row")
	return d.src.Start(10 * time.Millisecond)
}

// protect starts both ends and waits for the first recovery point.
func (d *demo) protect(ctx context.Context) error {
	d.rig.Disk = d.src.Loop.Device
	if err := d.rig.Prepare(ctx); err != nil {
		return err
	}
	if err := d.rig.StartReceiver(); err != nil {
		return err
	}
	began := time.Now()
	if err := d.rig.StartAgent(); err != nil {
		return err
	}
	say("receiver and agent run, linked over %s; first sync of the busy disk", d.rig.Carrier)
	status, err := d.rig.WaitPoint(ctx, began, time.Minute)
	if err != nil {
		return err
	}
	d.disk = status.ID
	say("first recovery point after %.1f s; %s sent for a disk of %s", time.Since(began).Seconds(), mib(status.Sent), mib(d.size))
	return nil
}

// watch prints a line for each point while the workload goes on.
func (d *demo) watch(ctx context.Context) error {
	say("a recovery point every %v, for %v:", d.rig.Interval, d.load)
	end, seen, points := time.Now().Add(d.load), uint64(0), 0
	for time.Now().Before(end) {
		s, err := d.rig.Status(ctx)
		if err != nil {
			return fmt.Errorf("%w\nagent:\n%s", err, d.rig.Agent.Log())
		}
		if p := s.LastPoint; p != nil && p.Seq != seen {
			seen, points = p.Seq, points+1
			c := d.src.Ledger.Counts()
			say("  point #%-4d %s  lag %5.2f s  changed %10s  sent %10s  frozen %4d ms  (%d transactions, %d file operations)", p.Seq, p.Class,
				s.Lag, mib(p.Changed), mib(p.Sent), p.Frozen.Milliseconds(), c.Rows, c.Files)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.src.Work.Done():
			return d.src.Alive()
		case <-d.rig.Agent.Done():
			return fmt.Errorf("agent ended: %w\n%s", d.rig.Agent.Err(), d.rig.Agent.Log())
		case <-time.After(200 * time.Millisecond):
		}
	}
	if want := int(d.load / d.rig.Interval / 2); points < want {
		return fmt.Errorf("only %d recovery points in %v at one every %v\nagent:\n%s", points, d.load, d.rig.Interval, d.rig.Agent.Log())
	}
	return nil
}

// disaster kills everything on the source and destroys its disk.
func (d *demo) disaster(ctx context.Context) error {
	peak, err := d.rig.Agent.PeakRSS()
	if err != nil {
		return err
	}
	d.rig.Agent.Kill()
	d.killed = time.Now()
	d.src.Work.KillGroup()
	if err := errors.Join(d.src.Ledger.Wait(), d.src.Mount.Abandon(), ctx.Err()); err != nil {
		return err
	}
	d.acked = d.src.Ledger.Counts()
	if err := d.src.Loop.Wipe(); err != nil {
		return err
	}
	say("kill -9 of the agent (peak memory %s) and of the workload; the source's disk is wiped", mib(peak))
	return nil
}

// recover brings the newest proven point up and checks it.
func (d *demo) recover(ctx context.Context) error {
	began := time.Now()
	image := d.rig.Bed.Path("restored.img")
	newest, unproven, err := d.rig.NewestProven(ctx, d.disk)
	if err != nil {
		return err
	}
	if unproven > 0 {
		say("%d points after #%d are unproven: the audit saw that tracking fell short, and the disk was being compared", unproven, newest.Seq)
	}
	restored, err := d.rig.Restore(ctx, d.disk, fmt.Sprintf("#%d", newest.Seq), image)
	if err != nil {
		return err
	}
	say("restored point #%d of %s (%s, proven: %v): %s of data in %.1f s", restored.Seq,
		restored.Time.Local().Format("15:04:05.000"), restored.Class, restored.Proven, mib(restored.Data), restored.Seconds)
	report, err := d.src.CheckImage(ctx, image, "restored", restored.Time)
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(report.Fsck), "\n")
	say("e2fsck -fn: clean (%s); mounted", lines[len(lines)-1])
	if report.Rows == 0 || report.Files == 0 || report.Records == 0 {
		return fmt.Errorf("nothing was acknowledged before point #%d, so nothing was proven: %s", restored.Seq, report.Report)
	}
	say("checked, all there and intact: %s; the database's integrity check is ok", report.Report)
	say("")
	say("RPO               %6.2f s  (from the point to the death of the source; %d of %d acknowledged transactions are in the point)",
		d.killed.Sub(restored.Time).Seconds(), report.Rows+report.LaterRows, d.acked.Rows)
	say("time to recover   %6.2f s  (restore, fsck, mount)", report.Mounted.Sub(began).Seconds())
	say("nothing differs")
	return nil
}
