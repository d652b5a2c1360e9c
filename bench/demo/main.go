// Command demo shows the main job on real input: a mounted disk under load is replicated over the link, its host dies and its
// disk is wiped, and the newest recovery point is brought up and checked. It exits with status 1 if anything differs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/understudy-dr/understudy/bench/rig"
	"github.com/understudy-dr/understudy/bench/testbed"
	"github.com/understudy-dr/understudy/bench/workload"
)

func main() {
	// Not daemon.Context: a second Ctrl-C must not cut off the clean-up.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if len(os.Args) > 1 && os.Args[1] == workload.Command {
		if err := workload.Main(ctx, os.Args[1:], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	d := demo{}
	var dir string
	flag.StringVar(&d.rig.Bin, "bin", rig.DefaultBin(), "folder of the built commands")
	flag.StringVar(&dir, "dir", "", "where the disks' files go (default: memory if there is enough, else the folder for temporary files)")
	flag.StringVar(&d.rig.Carrier, "carrier", "quic", "carrier of the link: quic or tcp")
	flag.DurationVar(&d.rig.Interval, "interval", 2*time.Second, "from one recovery point to the next")
	flag.DurationVar(&d.load, "load", 30*time.Second, "how long to run before the source is killed")
	flag.Int64Var(&d.size, "size", 1<<30, "size of the disk in bytes")
	flag.Int64Var(&d.fill, "fill", 300<<20, "initial data in bytes")
	flag.Uint64Var(&d.seed, "seed", 1, "seed of the workload")
	flag.Parse()
	err := start(ctx, &d, dir)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "demo: interrupted; everything is taken away again")
		err = errors.Join(err, ctx.Err())
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo: FAILED:", err)
	}
	if err != nil {
		os.Exit(1)
	}
}

// start makes the bed, runs the demo in it and takes the bed away, whatever happened.
func start(ctx context.Context, d *demo, dir string) (err error) {
	if err := testbed.Need("losetup", "mkfs.ext4", "e2fsck", "sqlite3"); err != nil {
		return err
	}
	bed, err := testbed.New(dir)
	if err != nil {
		return err
	}
	defer func() {
		if undo := bed.Close(); undo != nil {
			fmt.Fprintln(os.Stderr, "demo: clean-up:", undo)
			err = errors.Join(err, undo)
		}
	}()
	d.rig.Bed = bed
	return d.run(ctx)
}
