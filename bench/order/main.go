package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/understudy-dr/understudy/bench/rig"
	"github.com/understudy-dr/understudy/bench/testbed"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == writerCommand {
		os.Exit(writersMain())
	}
	var o order
	var dir string
	flag.StringVar(&o.rig.Bin, "bin", rig.DefaultBin(), "folder of the built commands")
	flag.StringVar(&dir, "dir", "", "where the disks' files go (default: memory if there is enough, else the folder for temporary files)")
	flag.StringVar(&o.rig.Carrier, "carrier", "tcp", "carrier of the link: quic or tcp")
	flag.StringVar(&o.only, "only", "", "only this kind of disk: raw, ext4, xfs or group")
	flag.DurationVar(&o.rig.Interval, "interval", 500*time.Millisecond, "from one recovery point to the next")
	flag.DurationVar(&o.load, "load", 10*time.Second, "how long points are taken of each kind of disk")
	flag.DurationVar(&o.limit, "limit", 5*time.Minute, "within which a point must be found out where nothing is frozen")
	flag.DurationVar(&o.rest, "rest", 60*time.Millisecond, "the longest rest, and the longest run, of the writers on a raw disk")
	flag.Uint64Var(&o.seed, "seed", 1, "seed of the writers")
	os.Exit(rig.Main("order", flag.Parse, &dir, func(ctx context.Context, bed *testbed.Bed) error {
		o.bed = bed
		return o.run(ctx)
	}))
}

// writersMain is the writers' process.
func writersMain() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := writeMain(ctx, os.Args[2:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
