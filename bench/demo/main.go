// Command demo shows the main job on real input: a mounted disk under load is replicated over the link, its host dies and its
// disk is wiped, and the newest recovery point is brought up and checked. It exits with status 1 if anything differs.
package main

import (
	"context"
	"flag"
	"os"
	"time"

	"github.com/understudy-dr/understudy/bench/rig"
	"github.com/understudy-dr/understudy/bench/testbed"
)

func main() {
	var d demo
	var dir string
	flag.StringVar(&d.rig.Bin, "bin", rig.DefaultBin(), "folder of the built commands")
	flag.StringVar(&dir, "dir", "", "where the disks' files go (default: memory if there is enough, else the folder for temporary files)")
	flag.StringVar(&d.rig.Carrier, "carrier", "quic", "carrier of the link: quic or tcp")
	flag.DurationVar(&d.rig.Interval, "interval", 2*time.Second, "from one recovery point to the next")
	flag.DurationVar(&d.load, "load", 30*time.Second, "how long to run before the source is killed")
	flag.Int64Var(&d.size, "size", 1<<30, "size of the disk in bytes")
	flag.Int64Var(&d.fill, "fill", 300<<20, "initial data in bytes")
	flag.Uint64Var(&d.seed, "seed", 1, "seed of the workload")
	os.Exit(rig.Main("demo", flag.Parse, &dir, func(ctx context.Context, bed *testbed.Bed) error {
		d.rig.Bed = bed
		return d.run(ctx)
	}))
}
