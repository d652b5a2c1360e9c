package linetest

import (
	"crypto/rand"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
)

// busy writes random data to the first bytes of a device, past the page cache, piece by piece, until it is told to stop. It rests
// after each piece.
func busy(t *testing.T, dev string, region, piece block.Size, rest time.Duration) (stop func()) {
	t.Helper()
	f, err := os.OpenFile(dev, os.O_WRONLY|syscall.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		defer f.Close()
		data := block.AlignedBuffer(piece)
		rand.Read(data)
		for i := int64(0); ; i++ {
			select {
			case <-quit:
				return
			default:
			}
			rand.Read(data[:4096])
			// Each piece lies far from the one before: neither end may profit from order.
			if _, err := f.WriteAt(data, i*7919%int64(region/piece)*int64(piece)); err != nil {
				t.Errorf("write to %s: %v", dev, err)
				return
			}
			time.Sleep(rest)
		}
	}()
	stop = sync.OnceFunc(func() { close(quit); <-done })
	t.Cleanup(stop)
	return stop
}

// TestRawDisk: a disk that is written all the time, without a file system, gets no point, and says why; or, where the operator
// wants it, points that are labelled for what they are and are never taken for the latest.
func TestRawDisk(t *testing.T) {
	s := newSite(t, "tcp")
	dev := s.loopDisk("disk", 64*mib)
	write(t, dev, 0, 8*mib)
	s.startReceiver()
	a := s.startAgent(dev)
	good := s.nextPoint(dev)
	stop := busy(t, dev, block.MiB, 4*block.KiB, 0)
	eventually(t, "the agent says why there is no point", func() bool {
		d, ok := s.status(dev)
		return ok && strings.Contains(d.Error, "nothing can be frozen") && strings.Contains(d.Error, "unfreezable")
	})
	if n := strings.Count(a.logged(), "no recovery point; those"); n != 1 {
		t.Errorf("said %d times", n)
	}
	a.stop()
	a = start(t, "understudy-agent", append(s.agentArgs(dev), "--unfreezable", "fuzzy")...)
	eventually(t, "fuzzy points", func() bool {
		points := s.points(dev)
		last := points[len(points)-1]
		return last.Class == block.ClassFuzzy && strings.Contains(last.Labels["fuzzy"], "nothing can be frozen")
	})
	out := s.ours(s.remote("restore", dev, s.path("latest.img"))...)
	if strings.Contains(out, "fuzzy") {
		t.Errorf("latest is a fuzzy point: %s (a good one was %v)", out, good.Seq)
	}
	stop()
	s.sameAs(dev)
	points := s.points(dev)
	if last := points[len(points)-1]; last.Class != block.ClassCrash {
		t.Errorf("a disk at rest has a point of class %v", last.Class)
	}
	a.stop()
}

// TestNoFreeze: points of an agent that may not freeze are fuzzy, quiet disk or not.
func TestNoFreeze(t *testing.T) {
	s := newSite(t, "tcp")
	dev := s.loopDisk("disk", 64*mib)
	must(t, "mkfs.ext4", "-q", dev)
	mount := s.path("mnt")
	if err := os.Mkdir(mount, 0o700); err != nil {
		t.Fatal(err)
	}
	must(t, "mount", dev, mount)
	t.Cleanup(func() { must(t, "umount", mount) })
	s.startReceiver()
	start(t, "understudy-agent", append(s.agentArgs(dev), "--freeze=false")...)
	stop := churn(mount, 0)
	t.Cleanup(stop)
	s.nextPoint(dev)
	s.nextPoint(dev)
	stop()
	s.nextPoint(dev)
	for _, p := range s.points(dev) {
		if p.Class != block.ClassFuzzy || !strings.Contains(p.Labels["fuzzy"], "freeze is off") {
			t.Errorf("point %v is %v, %v", p.Seq, p.Class, p.Labels)
		}
	}
	if _, stderr, code := run(t, "understudy", s.remote("restore", dev, s.path("latest.img"))...); code == 0 {
		t.Error("latest is a fuzzy point")
	} else {
		t.Log(stderr)
	}
}

// throttle is a way to addr that carries rate bytes a second towards it, and any number back.
func throttle(t *testing.T, addr string, rate *atomic.Int64) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	keep := func(c net.Conn) { mu.Lock(); open = append(open, c); mu.Unlock() }
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			keep(in)
			out, err := net.Dial("tcp", addr)
			if err != nil {
				in.Close()
				continue
			}
			keep(out)
			in.(*net.TCPConn).SetReadBuffer(64 << 10)
			wg.Go(func() { defer in.Close(); io.Copy(in, out) })
			wg.Go(func() {
				defer out.Close()
				piece := make([]byte, 32<<10)
				for {
					n, err := in.Read(piece)
					if _, e := out.Write(piece[:n]); err != nil || e != nil {
						return
					}
					time.Sleep(time.Duration(int64(n) * int64(time.Second) / rate.Load()))
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

// TestDoesNotConverge writes faster than the link drains: the agent says so with figures, once; tries less often; keeps the
// points there are, its memory bounded; and takes points again when there is less to do.
func TestDoesNotConverge(t *testing.T) {
	s := newSite(t, "tcp")
	dev := s.loopDisk("disk", 48*mib)
	write(t, dev, 0, mib)
	s.startReceiver()
	var rate atomic.Int64
	rate.Store(4 << 20)
	a := start(t, "understudy-agent", append(s.agentArgs(dev), "--receiver", throttle(t, s.addr, &rate), "--compress", "none", "--memory", strconv.Itoa(188*mib))...)
	good := s.nextPoint(dev)
	stop := busy(t, dev, 24*block.MiB, 256*block.KiB, 10*time.Millisecond)
	eventually(t, "the agent says that it does not converge", func() bool {
		d, ok := s.status(dev)
		return ok && d.Pace != nil && !d.Pace.Converging && d.Pace.Drained > 0
	})
	eventually(t, "the agent tries less often", func() bool {
		d, ok := s.status(dev)
		return ok && d.Pace.Interval >= 4*300*time.Millisecond
	})
	d, _ := s.status(dev)
	t.Logf("%.1f MB/s dirtied, %.1f MB/s drained: %s", d.Pace.Dirtied/1e6, d.Pace.Drained/1e6, d.Error)
	if d.Pace.Dirtied < d.Pace.Drained || d.Pace.Drained > 8<<20 || d.Pace.Drained < 1<<20 {
		t.Errorf("a link of 4 MiB/s drains %.1f MB/s, %.1f MB/s are dirtied", d.Pace.Drained/1e6, d.Pace.Dirtied/1e6)
	}
	for _, want := range []string{"does not converge", "MB/s of bandwidth", "an interval of", "the next try comes in"} {
		if !strings.Contains(d.Error, want) {
			t.Errorf("%q is missing in: %s", want, d.Error)
		}
	}
	if n := strings.Count(a.logged(), "does not converge"); n != 1 {
		t.Errorf("logged %d times", n)
	}
	if text := s.ours("status", "--agent", s.path("agent.sock")); !strings.Contains(text, "does not converge") {
		t.Errorf("status does not say it:\n%s", text)
	}
	s.ours(s.remote("restore", dev+"@"+good.Seq.String(), s.path("old.img"))...)
	boundedMemory(t, a)
	stop()
	rate.Store(64 << 20)
	s.sameAs(dev)
	if d, _ := s.status(dev); d.Pace == nil || !d.Pace.Converging || d.Pace.Interval != 300*time.Millisecond {
		t.Errorf("afterwards: %+v", d.Pace)
	}
	if !strings.Contains(a.logged(), "recovery points again") {
		t.Error("the recovery was not logged")
	}
}

// boundedMemory holds that the agent never held 200 MiB. The race detector multiplies what a process holds.
func boundedMemory(t *testing.T, a *process) {
	t.Helper()
	if raceFlags != nil {
		return
	}
	if peak := peakMemory(t, a); peak > agentLimit {
		t.Errorf("the agent held %d MiB", peak/mib)
	}
}

// TestBusyFileSystem takes points of a file system that is written to all the time, and reports how long it was frozen for each.
func TestBusyFileSystem(t *testing.T) {
	s := newSite(t, "tcp")
	dev := s.loopDisk("disk", 512*mib)
	must(t, "mkfs.ext4", "-q", dev)
	mount := s.path("mnt")
	if err := os.Mkdir(mount, 0o700); err != nil {
		t.Fatal(err)
	}
	must(t, "mount", dev, mount)
	t.Cleanup(func() { must(t, "umount", mount) })
	file := s.path("mnt/file")
	must(t, "fallocate", "-l", "268435456", file)
	s.startReceiver("--max-points", "3")
	a := s.startAgent(dev)
	s.nextPoint(dev)
	stop := busy(t, file, 256*block.MiB, 64*block.KiB, 500*time.Microsecond)
	var frozen []time.Duration
	var read []block.Size
	last := block.Seq(0)
	eventually(t, "ten points of a busy file system", func() bool {
		if d, ok := s.status(dev); ok && d.LastPoint != nil && d.LastPoint.Seq != last {
			last = d.LastPoint.Seq
			frozen, read = append(frozen, d.LastPoint.Frozen), append(read, d.LastPoint.Changed)
		}
		return len(frozen) > 10
	})
	d, _ := s.status(dev)
	slices.Sort(frozen)
	slices.Sort(read)
	t.Logf("%.0f MB/s dirtied; frozen: median %v, longest %v; changed in a point: median %v", d.Pace.Dirtied/1e6,
		frozen[len(frozen)/2].Round(100*time.Microsecond), frozen[len(frozen)-1].Round(100*time.Microsecond), read[len(read)/2])
	boundedMemory(t, a)
	stop()
	must(t, "sync", "-f", mount)
	s.nextPoint(dev)
	if stdout, stderr, code := run(t, "understudy", "verify", dev, "--agent", s.path("agent.sock")); code != 0 {
		t.Fatalf("verify: exit %d: %s%s", code, stdout, stderr)
	}
}
