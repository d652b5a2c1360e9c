package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/understudy-dr/understudy/bench/testbed"
	"github.com/understudy-dr/understudy/bench/workload"
)

// Main is what the mains of demo, soak and bench have in common. Started as a workload's process it is one. Otherwise it
// makes a bed below the folder that dir points at (which parse has set from the flags), calls run in it, and takes the bed
// away whatever happened, a signal included. It returns the exit status: 0 only if nothing failed.
func Main(name string, parse func(), dir *string, run func(ctx context.Context, bed *testbed.Bed) error) int {
	// Not daemon.Context: a second Ctrl-C must not cut off the clean-up.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if len(os.Args) > 1 && os.Args[1] == workload.Command {
		if err := workload.Main(ctx, os.Args[1:], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	parse()
	err := inBed(ctx, *dir, run)
	switch {
	case err == nil && ctx.Err() == nil:
		return 0
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, name+": interrupted; everything is taken away again")
		return 130
	}
	fmt.Fprintln(os.Stderr, name+": FAILED:", err)
	return 1
}

func inBed(ctx context.Context, dir string, run func(ctx context.Context, bed *testbed.Bed) error) (err error) {
	if err := testbed.Need("losetup", "mkfs.ext4", "e2fsck", "sqlite3"); err != nil {
		return err
	}
	bed, err := testbed.New(dir)
	if err != nil {
		return err
	}
	defer func() {
		if undo := bed.Close(); undo != nil {
			fmt.Fprintln(os.Stderr, "clean-up:", undo)
			err = errors.Join(err, undo)
		}
	}()
	return run(ctx, bed)
}
