// Command soak runs the demo's workload while agent and receiver are killed with signal 9 again and again. At the end the
// replica must equal the source, byte for byte, and every recovery point that is kept must hold what its time promises.
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
	var s soak
	var dir string
	flag.StringVar(&s.rig.Bin, "bin", rig.DefaultBin(), "folder of the built commands")
	flag.StringVar(&dir, "dir", "", "where the disks' files go (default: memory if there is enough, else the folder for temporary files)")
	flag.StringVar(&s.rig.Carrier, "carrier", "quic", "carrier of the link: quic or tcp")
	flag.DurationVar(&s.rig.Interval, "interval", 2*time.Second, "from one recovery point to the next")
	flag.DurationVar(&s.load, "time", 5*time.Minute, "how long to run")
	flag.Int64Var(&s.size, "size", 512<<20, "size of the disk in bytes")
	flag.Int64Var(&s.fill, "fill", 100<<20, "initial data in bytes")
	flag.Uint64Var(&s.seed, "seed", 1, "seed of the workload and of the kills")
	os.Exit(rig.Main("soak", flag.Parse, &dir, func(ctx context.Context, bed *testbed.Bed) error {
		s.rig.Bed = bed
		return s.run(ctx)
	}))
}
