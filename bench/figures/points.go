package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/bench/rig"
	"github.com/understudy-dr/understudy/bench/testbed"
)

// What points of the load below are to keep to.
const (
	freezeGoal = 50 * time.Millisecond // the 99th percentile of how long the file system is frozen
	ageGoal    = 8 * time.Second       // that of the newest point's age
)

// The load: 4 KiB direct writes at random places of a file, at a fixed rate, and rows of SQLite with full sync.
const (
	pointsInterval = 5 * time.Second
	pointsRate     = 20e6      // bytes a second
	pointsDisk     = 1 << 30   // bytes
	pointsFill     = 128 << 20 // of files that stay as they are
	pointsFile     = 384 << 20 // that fio writes to
	rowPause       = 10 * time.Millisecond
)

// quantiles of something measured in seconds.
type quantiles struct {
	Median float64 `json:"p50"`
	P99    float64 `json:"p99"`
	P999   float64 `json:"p99_9"`
	Most   float64 `json:"max"`
}

// turnRow is one round: the same load without and with protection.
type turnRow struct {
	Bare      quantiles `json:"bare_write_latency_seconds"`
	Protected quantiles `json:"protected_write_latency_seconds"`
	Freezes   []float64 `json:"freeze_seconds"`
	Freezing  []float64 `json:"freezing_seconds"` // of these: until the kernel had the file system frozen
	Reading   []float64 `json:"reading_seconds"`  // of these: what was left to read
	Ages      quantiles `json:"point_age_seconds"`
	Points    int       `json:"points"`
	Unproven  int       `json:"unproven_points"` // of these: the audit saw tracking fall short, and the disk was compared
	AgentCPU  float64   `json:"agent_cpu_per_second"`
	TargetCPU float64   `json:"receiver_cpu_per_second"`
	AgentRSS  int64     `json:"agent_peak_rss_bytes"`
	Sent      int64     `json:"sent_bytes"`
	Changed   int64     `json:"changed_bytes"` // covered by the points' deltas
	Written   int64     `json:"written_bytes"` // by the disk's own statistics

	ages []float64
}

// scanRow is a verify of the whole disk, quiet.
type scanRow struct {
	Bytes     int64   `json:"bytes"`
	Seconds   float64 `json:"seconds"`
	SourceCPU float64 `json:"source_cpu_seconds"`
	TargetCPU float64 `json:"target_cpu_seconds"`
}

// pointsTable is what points cost under load.
type pointsTable struct {
	Interval float64   `json:"interval_seconds"`
	Turn     float64   `json:"turn_seconds"`
	Turns    []turnRow `json:"turns"`
	Freeze   quantiles `json:"freeze_seconds"`
	Freezing quantiles `json:"freezing_seconds"`
	Reading  quantiles `json:"reading_seconds"`
	Age      quantiles `json:"point_age_seconds"`
	Ratio    spread    `json:"p99_latency_ratio"`
	Scan     scanRow   `json:"scan"`
}

// points puts a load on a disk in turns, without and with an agent that takes points of it.
func (f *figures) points(ctx context.Context) (*pointsTable, error) {
	if err := testbed.Need("fio"); err != nil {
		return nil, err
	}
	src, err := rig.NewSource(ctx, f.bed, pointsDisk, pointsFill, 1)
	if err != nil {
		return nil, err
	}
	r := &rig.Rig{
		Bed: f.bed, Bin: f.bin, Disk: src.Loop.Device, Interval: pointsInterval, Carrier: "tcp",
		Extra: []string{"--log-level", "debug"},
	}
	if err := errors.Join(r.Prepare(ctx), f.loadFile(ctx, src), src.StartRows(rowPause)); err != nil {
		return nil, err
	}
	t := &pointsTable{Interval: pointsInterval.Seconds(), Turn: f.turnTime.Seconds()}
	for round := range f.turns {
		row, err := f.turnOf(ctx, src, r, round)
		if err != nil {
			return nil, err
		}
		t.Turns = append(t.Turns, row)
		progress("points: round %d of %d: writes' p99 %.2f ms bare, %.2f ms protected; %d points, frozen %.1f ms at most, age %.1f s at most",
			round+1, f.turns, row.Bare.P99*1e3, row.Protected.P99*1e3, row.Points, slices.Max(row.Freezes)*1e3, row.Ages.Most)
		if round+1 == f.turns {
			if t.Scan, err = f.scan(ctx, src, r); err != nil {
				return nil, err
			}
		}
		if err := r.Reset(ctx); err != nil {
			return nil, err
		}
	}
	t.sum()
	return t, nil
}

// turnOf is one round. Every other round begins with the protected half.
func (f *figures) turnOf(ctx context.Context, src *rig.Source, r *rig.Rig, round int) (turnRow, error) {
	var row turnRow
	bare := func() error {
		out, err := f.load(ctx, src)
		if err == nil {
			row.Bare, err = parseLatency(out)
		}
		return err
	}
	if round%2 == 0 {
		if err := bare(); err != nil {
			return row, err
		}
	}
	if err := f.protected(ctx, src, r, &row); err != nil {
		return row, err
	}
	if round%2 == 1 {
		// The agent must not be there; it is started once more for the scan at the end.
		if err := r.Reset(ctx); err != nil {
			return row, err
		}
		if err := bare(); err != nil {
			return row, err
		}
		return row, f.begin(ctx, r)
	}
	return row, nil
}

// begin starts both ends and waits for the first point.
func (f *figures) begin(ctx context.Context, r *rig.Rig) error {
	began := time.Now()
	if err := errors.Join(r.StartReceiver(), r.StartAgent()); err != nil {
		return err
	}
	_, err := r.WaitPoint(ctx, began, 5*time.Minute)
	return err
}

// protected puts the load on while points are taken, and reads off what they cost.
func (f *figures) protected(ctx context.Context, src *rig.Source, r *rig.Rig, row *turnRow) error {
	if err := f.begin(ctx, r); err != nil {
		return err
	}
	status, err := r.Status(ctx)
	if err != nil {
		return err
	}
	// A moment of load before it counts: the first point after it holds only part of an interval.
	if _, err := f.loadFor(ctx, src, pointsInterval); err != nil {
		return err
	}
	agent, err1 := r.Agent.CPU()
	target, err2 := r.Receiver.CPU()
	written, err3 := sectorsWritten(src.Loop.Device)
	began := time.Now()
	out, err4 := f.load(ctx, src)
	ended := time.Now()
	agentAfter, err5 := r.Agent.CPU()
	targetAfter, err6 := r.Receiver.CPU()
	writtenAfter, err7 := sectorsWritten(src.Loop.Device)
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7, src.Alive()); err != nil {
		return err
	}
	seconds := ended.Sub(began).Seconds()
	row.AgentCPU, row.TargetCPU = (agentAfter-agent).Seconds()/seconds, (targetAfter-target).Seconds()/seconds
	row.Written = writtenAfter - written
	if row.Protected, err = parseLatency(out); err != nil {
		return err
	}
	if row.AgentRSS, err = r.Agent.PeakRSS(); err != nil {
		return err
	}
	points, err := r.Points(ctx, status.ID)
	if err != nil {
		return err
	}
	return row.take(points, f.bed.Path("agent.log"), began, ended)
}

// ackedPoint is what the agent's log says of a point.
type ackedPoint struct {
	at    time.Time // of the point
	acked time.Time
	times [3]time.Duration // of the freeze: until it held, of reading, whole
}

var pointLine = regexp.MustCompile(`(?m)^time=(\S+) level=DEBUG msg="recovery point" .*point=(\d+) .*freezing=(\S+) reading=(\S+) frozen=(\S+)$`)

// take reads the points between two times off the agent's log and the receiver's list.
func (row *turnRow) take(points []rig.Point, logFile string, began, ended time.Time) error {
	text, err := os.ReadFile(logFile)
	if err != nil {
		return err
	}
	log := map[uint64]ackedPoint{} // a later agent's points replace those of one that was reset
	for _, m := range pointLine.FindAllStringSubmatch(string(text), -1) {
		when, err1 := time.Parse(time.RFC3339, m[1])
		seq, err2 := strconv.ParseUint(m[2], 10, 64)
		p := ackedPoint{acked: when}
		err := errors.Join(err1, err2)
		for i := range p.times {
			var e error
			p.times[i], e = time.ParseDuration(m[3+i])
			err = errors.Join(err, e)
		}
		if err != nil {
			return fmt.Errorf("read the agent's log: %w", err)
		}
		log[seq] = p
	}
	var acked []ackedPoint
	for _, p := range points {
		a, ok := log[p.Seq]
		if !ok || p.Class != "crash" {
			continue
		}
		a.at = p.Time
		acked = append(acked, a)
		if a.acked.After(began) && a.acked.Before(ended) {
			row.Points++
			if !p.Proven {
				row.Unproven++
			}
			row.Freezing, row.Reading = append(row.Freezing, a.times[0].Seconds()), append(row.Reading, a.times[1].Seconds())
			row.Freezes = append(row.Freezes, a.times[2].Seconds())
			row.Sent += p.Payload
			row.Changed += p.Covered
		}
	}
	if row.Points < 2 {
		return fmt.Errorf("%d points in %v", row.Points, ended.Sub(began))
	}
	row.ages = agesOver(acked, began, ended)
	row.Ages = quantilesOf(row.ages)
	return nil
}

// agesOver is the newest acknowledged point's age at each hundredth of a second.
func agesOver(points []ackedPoint, began, ended time.Time) []float64 {
	var ages []float64
	next := 0
	for now := began; now.Before(ended); now = now.Add(10 * time.Millisecond) {
		for next < len(points) && !points[next].acked.After(now) {
			next++
		}
		if next > 0 {
			ages = append(ages, now.Sub(points[next-1].at).Seconds())
		}
	}
	return ages
}

// quantilesOf takes the sample of that rank: no value that was not measured.
func quantilesOf(samples []float64) quantiles {
	s := slices.Sorted(slices.Values(samples))
	at := func(q float64) float64 { return s[min(len(s)-1, int(q*float64(len(s))))] }
	return quantiles{at(0.5), at(0.99), at(0.999), s[len(s)-1]}
}

func (t *pointsTable) sum() {
	var freezes, freezing, reading, ages, bare, protected []float64
	for _, row := range t.Turns {
		freezing, reading = append(freezing, row.Freezing...), append(reading, row.Reading...)
		freezes, ages = append(freezes, row.Freezes...), append(ages, row.ages...)
		bare, protected = append(bare, row.Bare.P99), append(protected, row.Protected.P99)
	}
	t.Freezing, t.Reading = quantilesOf(freezing), quantilesOf(reading)
	t.Freeze, t.Age, t.Ratio = quantilesOf(freezes), quantilesOf(ages), spreadOf(ratios(protected, bare))
}

// loadFile makes the file that fio writes to.
func (f *figures) loadFile(ctx context.Context, src *rig.Source) error {
	_, err := testbed.Output(ctx, "fio", "--name=lay", "--filename="+src.Mount.Dir+"/load", "--rw=write", "--bs=1m",
		"--size="+strconv.Itoa(pointsFile), "--end_fsync=1", "--refill_buffers")
	return err
}

func (f *figures) load(ctx context.Context, src *rig.Source) (string, error) {
	return f.loadFor(ctx, src, f.turnTime)
}

// loadFor has fio write at the load's rate.
func (f *figures) loadFor(ctx context.Context, src *rig.Source, length time.Duration) (string, error) {
	return testbed.Output(ctx, "fio", "--name=w", "--filename="+src.Mount.Dir+"/load", "--rw=randwrite", "--bs=4k", "--direct=1",
		"--size="+strconv.Itoa(pointsFile), "--ioengine=libaio", "--iodepth=4", "--rate="+strconv.Itoa(pointsRate), "--time_based", "--norandommap",
		"--randrepeat=0", "--refill_buffers", "--runtime="+strconv.FormatInt(length.Milliseconds(), 10)+"ms", "--output-format=json",
		"--allow_file_create=0")
}

// parseLatency reads the latency of writes from fio's JSON, from the submission of each to its completion.
func parseLatency(out string) (quantiles, error) {
	var result struct {
		Jobs []struct {
			Error int `json:"error"`
			Write struct {
				Latency struct {
					Max        float64            `json:"max"`
					Percentile map[string]float64 `json:"percentile"`
				} `json:"clat_ns"`
			} `json:"write"`
		} `json:"jobs"`
	}
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		return quantiles{}, fmt.Errorf("read what fio printed: %w", err)
	}
	if len(result.Jobs) != 1 || result.Jobs[0].Error != 0 || result.Jobs[0].Write.Latency.Max <= 0 {
		return quantiles{}, fmt.Errorf("fio wrote nothing, or failed: %.300s", out)
	}
	l := result.Jobs[0].Write.Latency
	p := func(name string) float64 { return l.Percentile[name] / 1e9 }
	return quantiles{p("50.000000"), p("99.000000"), p("99.900000"), l.Max / 1e9}, nil
}

// sectorsWritten is how many bytes a disk has taken, by its statistics.
func sectorsWritten(device string) (int64, error) {
	text, err := os.ReadFile("/sys/block/" + strings.TrimPrefix(device, "/dev/") + "/stat")
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text)) // Documentation/block/stat.rst: the seventh is sectors written, of 512 bytes
	if len(fields) < 7 {
		return 0, fmt.Errorf("statistics of %s: %q", device, text)
	}
	n, err := strconv.ParseInt(fields[6], 10, 64)
	return n * 512, err
}

// scan has the whole disk compared, when nobody writes to it.
func (f *figures) scan(ctx context.Context, src *rig.Source, r *rig.Rig) (scanRow, error) {
	var s scanRow
	if err := src.Work.Stop(time.Minute); err != nil {
		return s, err
	}
	quiet := time.Now()
	status, err := r.WaitPoint(ctx, quiet, time.Minute)
	if err != nil {
		return s, err
	}
	source, err1 := r.Agent.CPU()
	target, err2 := r.Receiver.CPU()
	began := time.Now()
	size, _, err := r.Verify(ctx, status.ID)
	s.Bytes, s.Seconds = size, time.Since(began).Seconds()
	sourceAfter, err3 := r.Agent.CPU()
	targetAfter, err4 := r.Receiver.CPU()
	s.SourceCPU, s.TargetCPU = (sourceAfter - source).Seconds(), (targetAfter - target).Seconds()
	return s, errors.Join(err, err1, err2, err3, err4)
}
