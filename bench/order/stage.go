package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/understudy-dr/understudy/bench/rig"
	"github.com/understudy-dr/understudy/bench/testbed"
)

// Sizes of the disks in bytes. xfs takes no less.
var diskSize = map[string]int64{"raw": 96 << 20, "ext4": 128 << 20, "xfs": 320 << 20}

// stage is one run over one kind of disk:
//
//	disks ▸ writers ▸ receiver, agent ▸ points under load ▸ restore each ▸ judge each
type stage struct {
	name  string
	kinds []string // of the disks: raw, ext4 or xfs
	fuzzy bool     // points are read while writes go on; one of them must be found out

	disks   []*disk
	lanes   []lane
	ledger  *ledger
	process *testbed.Process
	trouble chan error // why the ledger's reader ended
}

// disk is one of a stage.
type disk struct {
	kind string
	loop *testbed.Loop
	root string // the device, or where it is mounted
	id   string
}

// tally is what was found out about a stage's points.
type tally struct {
	points    int // proven, restored and judged
	sectors   int // judged, in all of them
	underWay  int // of epochs that were not acknowledged at the point's time
	unproven  int // points whose audit fell short: the agent says itself that they may lack a write
	violating int // of these, in which judge found something
	damaged   int // points whose file system can't be mounted, or read
}

// prepare makes the disks and starts the writers.
func (s *stage) prepare(ctx context.Context, bed *testbed.Bed, rest time.Duration, seed uint64) error {
	p := plan{Seed: seed}
	for i, kind := range s.kinds {
		d := &disk{kind: kind}
		name := fmt.Sprintf("%s-%d", s.name, i)
		var err error
		if d.loop, err = bed.Loop(ctx, name+".img", diskSize[kind]); err != nil {
			return err
		}
		d.root = d.loop.Device
		if kind != "raw" {
			if err := testbed.Mkfs(ctx, d.loop.Device, kind); err != nil {
				return err
			}
			m, err := bed.Mount(d.loop.Device, name, kind)
			if err != nil {
				return err
			}
			d.root = m.Dir
		}
		s.disks = append(s.disks, d)
		p.Roots = append(p.Roots, d.root)
		if kind == "raw" && !s.fuzzy {
			p.Rest = rest
		}
	}
	s.lanes = lanesOn(s.kinds)
	p.Lanes, p.Noise = s.lanes, noiseOn(s.kinds, s.lanes)
	return s.start(bed, p)
}

// On a raw disk the lanes lie so far apart, with noise between them.
const (
	laneApart = 12 << 20
	noiseSize = 8 << 20
)

// noiseOn lays noise between the lanes.
func noiseOn(kinds []string, lanes []lane) []noise {
	var all []noise
	for i, l := range lanes {
		if l.Log {
			continue
		}
		n := noise{Lane: i, Disk: l.Disk, Path: "noise-" + l.Path, Size: noiseSize, Rate: 1500}
		if kinds[l.Disk] == "raw" {
			n.Path, n.Base = "", l.Base+laneApart-noiseSize
		}
		all = append(all, n)
	}
	return all
}

// lanesOn lays the lanes out: a relay over all disks, from one to the next and back, and two lanes of each disk that write at
// will.
func lanesOn(kinds []string) []lane {
	var all []lane
	add := func(l lane) {
		l.After = -1
		if kinds[l.Disk] == "raw" {
			l.Log, l.Path, l.Direct, l.Base = false, "", true, int64(len(all))*laneApart
		}
		all = append(all, l)
	}
	for _, l := range []lane{
		{Path: "direct-512", Unit: 512, Slots: 64, Epoch: 1, Direct: true},
		{Path: "cached-4096", Unit: 4096, Slots: 64, Epoch: 2},
		{Path: "log", Unit: 4096, Slots: 64, Epoch: 1, Log: true},
		{Path: "direct-4096", Unit: 4096, Slots: 64, Epoch: 1, Direct: true},
	} {
		for d := range kinds {
			l.Disk = d
			add(l)
		}
	}
	for i := range all {
		all[i].After = (i + len(all) - 1) % len(all)
	}
	for d := range kinds {
		add(lane{Disk: d, Path: "free-4096", Unit: 4096, Slots: 256, Epoch: 16})
		add(lane{Disk: d, Path: "free-512", Unit: 512, Slots: 256, Epoch: 8, Direct: true})
	}
	return all
}

// start starts the writers and waits until they write.
func (s *stage) start(bed *testbed.Bed, p plan) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer w.Close()
	if s.process, err = bed.Start("writers", w, self, writerCommand, string(text)); err != nil {
		r.Close()
		return err
	}
	s.ledger, s.trouble = newLedger(len(s.lanes)), make(chan error, 1)
	go func() {
		defer r.Close()
		s.trouble <- s.ledger.read(r)
	}()
	select {
	case <-s.ledger.ready:
		return nil
	case <-s.process.Done():
		return fmt.Errorf("writers ended: %w: %s", s.process.Err(), s.process.Log())
	}
}

// alive is an error if the writers have ended.
func (s *stage) alive() error {
	select {
	case <-s.process.Done():
		return fmt.Errorf("writers ended: %w: %s", s.process.Err(), s.process.Log())
	default:
		return nil
	}
}

// stop ends the writers; the ledger is then whole.
func (s *stage) stop() error {
	s.process.KillGroup()
	return <-s.trouble
}

// protect starts receiver and agent, and waits for the first point of every disk.
func (s *stage) protect(ctx context.Context, r *rig.Rig) error {
	r.Disk, r.Extra = s.disks[0].loop.Device, nil
	for _, d := range s.disks[1:] {
		r.Extra = append(r.Extra, "--disk", d.loop.Device)
	}
	if s.fuzzy {
		r.Extra = append(r.Extra, "--freeze=false")
	}
	if err := errors.Join(r.StartReceiver(), r.StartAgent()); err != nil {
		return err
	}
	deadline := time.Now().Add(time.Minute)
	for {
		if err := s.firstPoints(ctx, r); err == nil || ctx.Err() != nil {
			return err
		} else if time.Now().After(deadline) {
			return fmt.Errorf("no recovery point within a minute: %w\nagent:\n%s", err, r.Agent.Log())
		}
		sleep(ctx, 100*time.Millisecond)
	}
}

// firstPoints is an error while not every disk has a point.
func (s *stage) firstPoints(ctx context.Context, r *rig.Rig) error {
	disks, err := r.Disks(ctx)
	if err != nil {
		return err
	}
	for _, d := range s.disks {
		d.id = ""
		for _, status := range disks {
			if status.Device == d.loop.Device && status.LastPoint != nil {
				d.id = status.ID
			}
		}
		if d.id == "" {
			return fmt.Errorf("none of %s", d.loop.Device)
		}
	}
	return nil
}

// groupPoint is a point that all disks have.
type groupPoint struct {
	at     time.Time
	proven bool     // on every disk
	seqs   []uint64 // by disk
}

// points are those of a class that all disks have, oldest first.
func (s *stage) points(ctx context.Context, r *rig.Rig, class string) ([]groupPoint, error) {
	var all []groupPoint
	for i, d := range s.disks {
		points, err := r.Points(ctx, d.id)
		if err != nil {
			return nil, err
		}
		seqAt, proven := map[int64]uint64{}, map[int64]bool{}
		for _, p := range points {
			if p.Class != class && p.Class != "none" {
				return nil, fmt.Errorf("point #%d of %s is of class %s; only %s was to be had", p.Seq, d.loop.Device, p.Class, class)
			}
			if seqAt[p.Time.UnixNano()] = p.Seq; i == 0 {
				all = append(all, groupPoint{at: p.Time, proven: true})
			}
			proven[p.Time.UnixNano()] = p.Proven
		}
		var kept []groupPoint
		for _, p := range all {
			if seq, ok := seqAt[p.at.UnixNano()]; ok {
				kept = append(kept, groupPoint{p.at, p.proven && proven[p.at.UnixNano()], append(p.seqs, seq)})
			}
		}
		all = kept
	}
	return all, nil
}

// errDamaged: a restored file system that the kernel refuses to mount, or to read a lane of.
var errDamaged = errors.New("the restored file system is damaged")

// judgePoint restores a point of all disks and judges it.
func (s *stage) judgePoint(ctx context.Context, bed *testbed.Bed, r *rig.Rig, p groupPoint) (v verdict, err error) {
	roots := make([]string, len(s.disks))
	for i, d := range s.disks {
		image := bed.Path(fmt.Sprintf("restored-%d.img", i))
		defer os.Remove(image)
		if _, err := r.Restore(ctx, d.id, fmt.Sprintf("#%d", p.seqs[i]), image); err != nil {
			return v, err
		}
		if roots[i] = image; d.kind == "raw" {
			continue
		}
		loop, err := bed.Attach(ctx, image)
		if err != nil {
			return v, err
		}
		defer func() { err = errors.Join(err, loop.Detach()) }()
		m, err := bed.MountCopy(loop.Device, fmt.Sprintf("restored-%d", i), d.kind)
		if err != nil {
			return v, fmt.Errorf("%w: %w", errDamaged, err)
		}
		defer func() { err = errors.Join(err, m.Unmount()) }()
		roots[i] = m.Dir
	}
	copies := make([]held, len(s.lanes))
	for i := range s.lanes {
		l := &s.lanes[i]
		copies[i], err = l.readHeld(i, roots[l.Disk])
		switch {
		case err != nil && s.disks[l.Disk].kind != "raw":
			return v, fmt.Errorf("%w: read lane %d: %w", errDamaged, i, err)
		case err != nil:
			return v, fmt.Errorf("read lane %d: %w", i, err)
		}
	}
	return judge(s.lanes, copies, s.ledger, p.at), nil
}
