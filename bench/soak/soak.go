package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/bench/rig"
)

// peakLimit is the most memory an agent may ever hold, in bytes.
const peakLimit = 200 << 20

// soak is one run:
//
//	disk, workload ▸ receiver, agent ▸ kill one of them, start it again, … ▸ quiet ▸ verify ▸ compare ▸ check every point
type soak struct {
	rig  rig.Rig
	size int64
	fill int64
	load time.Duration
	seed uint64

	src   *rig.Source
	disk  string // its id
	kills map[string]int
	peak  int64
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

func (s *soak) run(ctx context.Context) error {
	s.kills = map[string]int{}
	for _, stage := range []func(context.Context) error{s.start, s.torment, s.quiesce, s.compare, s.points} {
		if err := stage(ctx); err != nil {
			return err
		}
	}
	say("nothing differs")
	return nil
}

func (s *soak) start(ctx context.Context) error {
	say("soak of %v over %s, seed %d; a point every %v", s.load, s.rig.Carrier, s.seed, s.rig.Interval)
	var err error
	if s.src, err = rig.NewSource(ctx, s.rig.Bed, s.size, s.fill, s.seed); err != nil {
		return err
	}
	if err := s.src.Start(20 * time.Millisecond); err != nil {
		return err
	}
	s.rig.Disk = s.src.Loop.Device
	if err := errors.Join(s.rig.Prepare(ctx), s.rig.StartReceiver()); err != nil {
		return err
	}
	began := time.Now()
	if err := s.rig.StartAgent(); err != nil {
		return err
	}
	status, err := s.rig.WaitPoint(ctx, began, time.Minute)
	s.disk = status.ID
	return err
}

// torment kills and restarts until the time is over. Who, when and for how long follows from the seed; what they do just
// then does not.
func (s *soak) torment(ctx context.Context) error {
	random := rand.New(rand.NewPCG(s.seed, 2))
	between := func(least, most time.Duration) time.Duration {
		return least + time.Duration(random.Int64N(int64(most-least)))
	}
	end, report := time.Now().Add(s.load), time.Now().Add(15*time.Second)
	for time.Now().Before(end) {
		if err := sleep(ctx, between(time.Second, 6*time.Second)); err != nil {
			return err
		}
		if err := s.src.Alive(); err != nil {
			return err
		}
		victim := []string{"agent", "receiver", "agent", "receiver", "both"}[random.IntN(5)]
		if err := s.kill(victim); err != nil {
			return err
		}
		if err := sleep(ctx, between(0, 1500*time.Millisecond)); err != nil {
			return err
		}
		if err := s.restart(victim); err != nil {
			return err
		}
		if time.Now().After(report) {
			report = report.Add(15 * time.Second)
			c := s.src.Ledger.Counts()
			say("  killed so far: %v; %d transactions, %d file operations", s.kills, c.Rows, c.Files)
		}
	}
	return nil
}

func (s *soak) kill(victim string) error {
	if err := s.note(); err != nil {
		return err
	}
	s.kills[victim]++
	if victim != "receiver" {
		s.rig.Agent.Kill()
	}
	if victim != "agent" {
		s.rig.Receiver.Kill()
	}
	return nil
}

// note holds that both daemons are there, since none may end by itself, and looks at the agent's memory.
func (s *soak) note() error {
	select {
	case <-s.rig.Agent.Done():
		return fmt.Errorf("agent ended by itself: %w\n%s", s.rig.Agent.Err(), s.rig.Agent.Log())
	case <-s.rig.Receiver.Done():
		return fmt.Errorf("receiver ended by itself: %w\n%s", s.rig.Receiver.Err(), s.rig.Receiver.Log())
	default:
	}
	rss, err := s.rig.Agent.PeakRSS()
	s.peak = max(s.peak, rss)
	if rss > peakLimit {
		err = fmt.Errorf("agent held %d MiB of memory, %d at most", rss>>20, peakLimit>>20)
	}
	return err
}

func (s *soak) restart(victim string) error {
	if victim != "agent" {
		if err := s.rig.StartReceiver(); err != nil {
			return fmt.Errorf("receiver does not come back: %w", err)
		}
	}
	if victim != "receiver" {
		return s.rig.StartAgent()
	}
	return nil
}

// quiesce ends the workload, makes the source read-only, and waits for the point that holds all of it.
func (s *soak) quiesce(ctx context.Context) error {
	if err := s.src.Alive(); err != nil {
		return err
	}
	if err := errors.Join(s.src.Work.Stop(20*time.Second), s.src.Ledger.Wait()); err != nil {
		return err
	}
	if err := s.src.Work.Err(); err != nil {
		return fmt.Errorf("workload: %w: %s", err, s.src.Work.Log())
	}
	if err := unix.Mount("", s.src.Mount.Dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make source read-only: %w", err)
	}
	quiet := time.Now()
	status, err := s.rig.WaitProven(ctx, quiet, 90*time.Second)
	if err != nil {
		return err
	}
	c := s.src.Ledger.Counts()
	say("quiet after %d transactions and %d file operations; killed: %v; peak memory of an agent %d MiB", c.Rows, c.Files, s.kills, s.peak>>20)
	say("point #%d came %.1f s after the last write", status.LastPoint.Seq, status.LastPoint.Acked.Sub(quiet).Seconds())
	size, changed, err := s.rig.Verify(ctx, s.disk)
	if err != nil {
		return fmt.Errorf("understudy verify: %w", err)
	}
	if changed > 0 {
		return fmt.Errorf("understudy verify left %d bytes out as changed since, on a disk that is read-only", changed)
	}
	say("understudy verify: %d MiB compared with the live source, equal", size>>20)
	return s.note()
}

// compare does not take the product's word: it restores the newest point and compares it with the source, byte for byte.
func (s *soak) compare(ctx context.Context) error {
	image := s.rig.Bed.Path("latest.img")
	restored, err := s.rig.Restore(ctx, s.disk, "latest", image)
	if err != nil {
		return err
	}
	a, err := os.Open(s.src.Loop.Device)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := os.Open(image)
	if err != nil {
		return err
	}
	defer b.Close()
	at, err := firstDifference(a, b)
	if err != nil {
		return fmt.Errorf("compare restored image with source: %w", err)
	}
	if at >= 0 {
		return fmt.Errorf("point #%d, restored, differs from the source from byte %d on", restored.Seq, at)
	}
	say("point #%d, restored, equals the source byte for byte", restored.Seq)
	return os.Remove(image)
}

// firstDifference is the offset of the first byte in which two readers differ, the shorter one's end included, or -1.
func firstDifference(a, b io.Reader) (int64, error) {
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); ; off += 1 << 20 {
		n, errA := io.ReadFull(a, x)
		m, errB := io.ReadFull(b, y)
		for _, err := range []error{errA, errB} {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return -1, err
			}
		}
		if !bytes.Equal(x[:n], y[:m]) {
			i := int64(0)
			for i < int64(min(n, m)) && x[i] == y[i] {
				i++
			}
			return off + i, nil
		}
		if errA != nil {
			return -1, nil
		}
	}
}

// points restores and checks every point that is kept.
func (s *soak) points(ctx context.Context) error {
	points, err := s.rig.Points(ctx, s.disk)
	if err != nil {
		return err
	}
	// Each kill may cost the points of a few intervals, not all of them.
	if want := int(s.load / s.rig.Interval / 10); len(points) < max(want, 2) {
		return fmt.Errorf("only %d recovery points are kept after %v", len(points), s.load)
	}
	rows, unproven, lacking, began := 0, 0, 0, time.Now()
	for i, p := range points {
		if i > 0 && (p.Seq <= points[i-1].Seq || !p.Time.After(points[i-1].Time)) {
			return fmt.Errorf("point #%d (%v) is listed after #%d (%v)", p.Seq, p.Time, points[i-1].Seq, points[i-1].Time)
		}
		image := s.rig.Bed.Path(fmt.Sprintf("point-%d.img", p.Seq))
		if _, err := s.rig.Restore(ctx, s.disk, fmt.Sprintf("#%d", p.Seq), image); err != nil {
			return fmt.Errorf("restore point #%d: %w", p.Seq, err)
		}
		check, err := s.src.CheckImage(ctx, image, "point", p.Time)
		if !p.Proven { // the agent says itself that it may lack a write
			if unproven++; err != nil {
				lacking++
			}
			if err := os.Remove(image); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("point #%d: %w", p.Seq, err)
		}
		if check.Rows < rows {
			return fmt.Errorf("point #%d was checked for %d transactions, the one before for %d", p.Seq, check.Rows, rows)
		}
		rows = check.Rows
		if err := os.Remove(image); err != nil {
			return err
		}
		if i == len(points)-1 {
			say("newest point: %s", check.Report)
		}
	}
	say("%d recovery points restored: each passes e2fsck -fn and holds all that was acknowledged before it (%.0f s)", len(points)-unproven, time.Since(began).Seconds())
	if unproven > 0 {
		say("%d more were flagged unproven, since the audit saw that tracking fell short; %d of them lack something", unproven, lacking)
	}
	if rows == 0 {
		return errors.New("no transaction was acknowledged before the newest proven point: nothing was proven")
	}
	if unproven > len(points)/2 {
		return fmt.Errorf("%d of %d points are unproven: too many to say that tracking works", unproven, len(points))
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
