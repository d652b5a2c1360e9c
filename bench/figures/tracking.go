package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/understudy-dr/understudy/agent/capture/ebpf"
	"github.com/understudy-dr/understudy/bench/testbed"
	"github.com/understudy-dr/understudy/internal/block"
)

// trackGoal is the least that the application's writes may keep of their rate while the disk is tracked.
const trackGoal = 0.97

// fioFile is the size in bytes of the disk that fio writes to.
const fioFile = 1 << 30

// variants are the ways a disk is tracked: "" is not at all.
var variants = []ebpf.Flights{"", ebpf.FlightsOff, ebpf.FlightsOn}

// trackingRow is one queue depth and one way to track.
type trackingRow struct {
	Depth     int       `json:"depth"`
	Flights   string    `json:"flights"`
	Untracked []float64 `json:"untracked_iops"`
	Tracked   []float64 `json:"tracked_iops"`
	Ratio     spread    `json:"ratio"`
	Goal      float64   `json:"goal"`
}

// tracking has fio write 4 KiB at random places of a loop disk, tracked in both ways and untracked in each round.
func (f *figures) tracking(ctx context.Context) ([]trackingRow, error) {
	if err := testbed.Need("fio"); err != nil {
		return nil, err
	}
	loop, err := f.bed.Loop(ctx, "fio.img", fioFile)
	if err != nil {
		return nil, err
	}
	// Every block of the file gets its memory now, not in the first measurement.
	if err := loop.Wipe(); err != nil {
		return nil, err
	}
	var rows []trackingRow
	for _, depth := range []int{1, 32} {
		iops := make([][]float64, len(variants))
		for round := range f.rounds {
			for _, v := range turn(round, len(variants)) {
				n, err := f.writeTracked(ctx, loop.Device, depth, variants[v])
				if err != nil {
					return nil, err
				}
				iops[v] = append(iops[v], n)
			}
			progress("tracking: depth %2d, round %2d of %d: %6.0f untracked, %6.0f tracked, %6.0f with a table of those in flight",
				depth, round+1, f.rounds, iops[0][round], iops[1][round], iops[2][round])
		}
		for v := 1; v < len(variants); v++ {
			rows = append(rows, trackingRow{
				Depth: depth, Flights: string(variants[v]), Untracked: iops[0], Tracked: iops[v],
				Ratio: spreadOf(ratios(iops[v], iops[0])), Goal: trackGoal,
			})
		}
	}
	return rows, loop.Detach()
}

// writeTracked is the rate of fio's writes while the disk is tracked in that way.
func (f *figures) writeTracked(ctx context.Context, device string, depth int, flights ebpf.Flights) (iops float64, err error) {
	if flights != "" {
		end, err := f.track(device, flights)
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, end()) }()
	}
	return fio(ctx, device, depth, f.fioTime)
}

// track attaches a tracker and does with it what the agent does: every 2 s the marks are taken and audited.
func (f *figures) track(device string, flights ebpf.Flights) (end func() error, err error) {
	root := fmt.Sprintf("/sys/fs/bpf/understudy-figures-%d", os.Getpid())
	t, err := ebpf.Attach(ebpf.Options{Device: device, Disk: block.DiskID{1}, PinRoot: root, Flights: flights})
	if err != nil {
		return nil, err
	}
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		tick := time.NewTicker(2 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				done <- nil
				return
			case <-tick.C:
			}
			if err := t.Take(func(int, uint64) {}); err != nil {
				done <- err
				return
			}
			if _, err := t.Audit(); err != nil {
				done <- err
				return
			}
		}
	}()
	return func() error {
		close(stop)
		return errors.Join(<-done, t.Remove())
	}, nil
}

// fio is the rate of direct 4 KiB random writes, per second.
func fio(ctx context.Context, device string, depth int, length time.Duration) (float64, error) {
	out, err := testbed.Output(ctx, "fio", "--name=w", "--filename="+device, "--rw=randwrite", "--bs=4k", "--direct=1",
		"--ioengine=libaio", "--iodepth="+strconv.Itoa(depth), "--time_based", "--ramp_time=300ms", "--norandommap",
		"--randrepeat=0", "--runtime="+strconv.FormatInt(length.Milliseconds(), 10)+"ms", "--output-format=json",
		"--allow_file_create=0")
	if err != nil {
		return 0, err
	}
	return parseFio(out)
}

// parseFio reads the rate of writes from fio's JSON.
func parseFio(out string) (float64, error) {
	var result struct {
		Jobs []struct {
			Error int `json:"error"`
			Write struct {
				IOPS float64 `json:"iops"`
			} `json:"write"`
		} `json:"jobs"`
	}
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		return 0, fmt.Errorf("read what fio printed: %w", err)
	}
	if len(result.Jobs) != 1 || result.Jobs[0].Error != 0 || result.Jobs[0].Write.IOPS <= 0 {
		return 0, fmt.Errorf("fio wrote nothing, or failed: %.300s", out)
	}
	return result.Jobs[0].Write.IOPS, nil
}
