package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/understudy-dr/understudy/bench/testbed"
	"github.com/understudy-dr/understudy/bench/workload"
)

// Source is a busy disk: a loop device with a mounted ext4 on it and a workload that writes to it.
type Source struct {
	Loop   *testbed.Loop
	Mount  *testbed.Mount
	Work   *testbed.Process // set by Start
	Ledger workload.Ledger

	bed  *testbed.Bed
	seed uint64
}

// NewSource makes the disk, of size bytes, and writes fill bytes of initial data.
func NewSource(ctx context.Context, bed *testbed.Bed, size, fill int64, seed uint64) (*Source, error) {
	s := &Source{bed: bed, seed: seed}
	var err error
	if s.Loop, err = bed.Loop(ctx, "disk.img", size); err != nil {
		return nil, err
	}
	if err := testbed.Mkfs(ctx, s.Loop.Device, "ext4"); err != nil {
		return nil, err
	}
	if s.Mount, err = bed.Mount(s.Loop.Device, "source", "ext4"); err != nil {
		return nil, err
	}
	if err := s.start(workload.Options{Fill: fill, Seed: seed}); err != nil {
		return nil, err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.Work.Done():
	}
	if s.Work.Err() != nil {
		return nil, fmt.Errorf("write initial data: %w: %s", s.Work.Err(), s.Work.Log())
	}
	return s, nil
}

// Start starts the workload; each of its writers rests for pause after each operation.
func (s *Source) Start(pause time.Duration) error {
	return s.start(workload.Options{Pause: pause, Seed: s.seed})
}

// StartRows starts the database's half of the workload alone.
func (s *Source) StartRows(pause time.Duration) error {
	return s.start(workload.Options{Pause: pause, Seed: s.seed, Rows: true})
}

func (s *Source) start(o workload.Options) error {
	o.Root = s.Mount.Dir
	return o.Start(func(stdout *os.File, argv ...string) (err error) {
		s.Work, err = s.bed.Start("workload", stdout, argv...)
		return err
	}, &s.Ledger)
}

// Alive is an error if the workload has ended.
func (s *Source) Alive() error {
	select {
	case <-s.Work.Done():
		return fmt.Errorf("workload ended: %w: %s", errors.Join(s.Work.Err(), s.Ledger.Wait()), s.Work.Log())
	default:
		return nil
	}
}

// Check is what CheckImage found.
type Check struct {
	workload.Report
	Fsck    string    // what e2fsck -fn said
	Mounted time.Time // when the copy was there to be used
}

// CheckImage holds the restored image of a disk as of a point of that time: fsck finds nothing, it mounts, and all that the
// ledger says is there. The image is detached again.
func (s *Source) CheckImage(ctx context.Context, image, name string, at time.Time) (c Check, err error) {
	if c.Fsck, err = testbed.Fsck(ctx, image); err != nil {
		return c, fmt.Errorf("the restored file system is not clean: %w\n%s", err, c.Fsck)
	}
	loop, err := s.bed.Attach(ctx, image)
	if err != nil {
		return c, err
	}
	mount, err := s.bed.Mount(loop.Device, name, "ext4")
	if err != nil {
		return c, err
	}
	c.Mounted = time.Now()
	c.Report, err = s.Ledger.Verify(ctx, mount.Dir, at)
	return c, errors.Join(err, mount.Unmount(), loop.Detach())
}
