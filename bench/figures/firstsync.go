package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/bench/rig"
)

// What the TCP carrier is to reach: the lesser of so much of the files' data per second of the agent's processor time, and
// this share of what bare TLS reaches.
const (
	syncGoal      = 0.5e9
	syncGoalShare = 0.8
)

// cost is what one transfer took, with the processes at both ends. Bytes are counted as such, times in seconds.
type cost struct {
	Seconds   float64 `json:"seconds"`
	SourceCPU float64 `json:"source_cpu_seconds"`
	TargetCPU float64 `json:"target_cpu_seconds"`
	SourceRSS int64   `json:"source_peak_rss_bytes,omitempty"`
	TargetRSS int64   `json:"target_peak_rss_bytes,omitempty"`
	Sent      int64   `json:"sent_bytes"`
}

// syncRow is one way to carry the disk.
type syncRow struct {
	Name      string `json:"name"`
	Rounds    []cost `json:"rounds"`
	Speed     spread `json:"bytes_per_second"`
	PerCore   spread `json:"bytes_per_source_cpu_second"`
	SourceCPU spread `json:"source_cpu_seconds_per_gb"`
	TargetCPU spread `json:"target_cpu_seconds_per_gb"`
	Share     spread `json:"share_of_bare_tls"` // of its bytes per second of the source's processor time
}

// firstSyncTable is what a disk's first sync takes. The first row is bare TLS.
type firstSyncTable struct {
	Data int64     `json:"data_bytes"`
	Disk int64     `json:"disk_bytes"`
	Rows []syncRow `json:"rows"`
}

// firstSync syncs a disk with an ext4 full of files over each carrier, and sends the same bytes through bare TLS, in each
// round.
func (f *figures) firstSync(ctx context.Context) (*firstSyncTable, error) {
	table := &firstSyncTable{Data: f.data, Disk: f.data + f.data/8 + 256<<20}
	if err := f.room(3*f.data + f.data/2); err != nil {
		return nil, err
	}
	progress("first sync: writing %.1f GB of files", gb(f.data))
	src, err := rig.NewSource(ctx, f.bed, table.Disk, f.data, 1)
	if err != nil {
		return nil, err
	}
	// What is measured is the sync; the disk is quiet.
	if err := src.Mount.Unmount(); err != nil {
		return nil, err
	}
	r := &rig.Rig{Bed: f.bed, Bin: f.bin, Disk: src.Loop.Device, Interval: time.Hour}
	if err := r.Prepare(ctx); err != nil {
		return nil, err
	}
	table.Rows = []syncRow{{Name: "bare TLS"}, {Name: "tcp"}, {Name: "quic"}}
	for round := range f.syncs {
		for _, i := range turn(round, len(table.Rows)) {
			row := &table.Rows[i]
			var c cost
			if i == 0 {
				c, err = f.bareTLS(ctx, r.Disk, f.data)
			} else {
				r.Carrier = row.Name
				c, err = syncOnce(ctx, r)
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", row.Name, err)
			}
			row.Rounds = append(row.Rounds, c)
			progress("first sync: %-8s round %d of %d: %.1f s, %.2f CPU-s at the source, %.2f at the target",
				row.Name, round+1, f.syncs, c.Seconds, c.SourceCPU, c.TargetCPU)
		}
	}
	for i := range table.Rows {
		table.Rows[i].sum(f.data, &table.Rows[0])
	}
	return table, nil
}

// room tells before any work that the bed has not got the room.
func (f *figures) room(need int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(f.bed.Dir(), &st); err != nil {
		return err
	}
	if free := int64(st.Bavail) * st.Bsize; free < need {
		return fmt.Errorf("source and copies take up to %.1f GB, %s has %.1f: choose another --dir, or less --data", gb(need), f.bed.Dir(), gb(free))
	}
	return nil
}

// syncOnce is one first sync, from the agent's start to the first recovery point's acknowledgement.
func syncOnce(ctx context.Context, r *rig.Rig) (cost, error) {
	if err := r.StartReceiver(); err != nil {
		return cost{}, err
	}
	began := time.Now()
	if err := r.StartAgent(); err != nil {
		return cost{}, err
	}
	status, err := r.WaitPoint(ctx, began, 10*time.Minute)
	if err != nil {
		return cost{}, err
	}
	c := cost{Seconds: status.LastPoint.Acked.Sub(began).Seconds(), Sent: status.Sent}
	source, err1 := r.Agent.CPU()
	target, err2 := r.Receiver.CPU()
	c.SourceCPU, c.TargetCPU = source.Seconds(), target.Seconds()
	var err3, err4 error
	c.SourceRSS, err3 = r.Agent.PeakRSS()
	c.TargetRSS, err4 = r.Receiver.PeakRSS()
	return c, errors.Join(err1, err2, err3, err4, r.Reset(ctx))
}

// sum fills in the row's figures from its rounds, for so many bytes of data.
func (r *syncRow) sum(data int64, bare *syncRow) {
	of := func(row *syncRow, figure func(c cost) float64) []float64 {
		var out []float64
		for _, c := range row.Rounds {
			out = append(out, figure(c))
		}
		return out
	}
	perCore := func(c cost) float64 { return float64(data) / c.SourceCPU }
	r.Speed = spreadOf(of(r, func(c cost) float64 { return float64(data) / c.Seconds }))
	r.PerCore = spreadOf(of(r, perCore))
	r.SourceCPU = spreadOf(of(r, func(c cost) float64 { return c.SourceCPU / gb(data) }))
	r.TargetCPU = spreadOf(of(r, func(c cost) float64 { return c.TargetCPU / gb(data) }))
	r.Share = spreadOf(ratios(of(r, perCore), of(bare, perCore)))
}

// goal is what the TCP carrier is to reach, in bytes per second of the agent's processor time.
func (t *firstSyncTable) goal() float64 { return min(syncGoal, syncGoalShare*t.Rows[0].PerCore.Median) }

func gb(n int64) float64 { return float64(n) / 1e9 }
