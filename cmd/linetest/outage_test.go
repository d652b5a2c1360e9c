package linetest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/wire"
)

// TestAgentBeforeTheNetwork starts the agent on a host without any network, and the network and the receiver later: it keeps
// trying, tracks meanwhile, and protects then.
func TestAgentBeforeTheNetwork(t *testing.T) {
	needRoot(t)
	for _, carrier := range []string{"tcp", "quic"} {
		t.Run(carrier, func(t *testing.T) {
			// The thread is not given back: it ends with this goroutine. What the test starts is in its namespace too.
			runtime.LockOSThread()
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				t.Fatal(err)
			}
			s := newSiteAt(t, carrier, "127.0.0.1:7443")
			dev := s.loopDisk("disk", 32*mib)
			write(t, dev, 0, 4*mib)
			a := s.startAgent(dev)
			eventually(t, "the agent says that it is not linked", func() bool { return strings.Contains(a.logged(), "not linked, trying again") })
			write(t, dev, 8*mib, mib)
			must(t, "ip", "link", "set", "lo", "up")
			s.startReceiver()
			s.sameAs(dev)
			if !alive(a) {
				t.Error("the agent gave up")
			}
		})
	}
}

// TestOutage simulates that the receiver is away for long: a backlog of churn over the same blocks. The agent takes no more
// memory for it, sends what changed once, with no first sync and no comparison, and is protected then.
func TestOutage(t *testing.T) {
	s := newSite(t, "tcp")
	dev := s.loopDisk("disk", 256*mib)
	write(t, dev, 0, 128*mib)
	r := s.startReceiver()
	a := s.startAgent(dev)
	s.sameAs(dev)
	write(t, dev, 0, 16*mib) // by now every part of the agent was in use
	s.sameAs(dev)
	before := residentKiB(t, a.cmd.Process.Pid)
	sent, _ := s.status(dev)
	r.kill()
	eventually(t, "the agent sees that it is gone", func() bool {
		d, ok := s.status(dev)
		return ok && d.State != "protected" || strings.Contains(a.logged(), "not linked")
	})
	for day := range 6 {
		for part := range int64(4) {
			write(t, dev, part*48*mib, 16*mib)
		}
		d, ok := s.status(dev)
		if !ok || d.Pending > 80*mib {
			t.Fatalf("day %d: %v pending, 64 MiB differ", day, d.Pending)
		}
	}
	if now := residentKiB(t, a.cmd.Process.Pid); now > before+48<<10 {
		t.Errorf("the agent grew from %d to %d KiB over the outage", before, now)
	}
	s.startReceiver()
	s.sameAs(dev)
	d, _ := s.status(dev)
	if caught := d.Sent - sent.Sent; caught < 64*mib || caught > 100*mib {
		t.Errorf("%v sent to catch up, 64 MiB differed", caught)
	}
	if strings.Count(a.logged(), "first sync") > 1 || strings.Contains(a.logged(), "had a gap") {
		t.Errorf("it began anew:\n%s", a.logged())
	}
}

// residentKiB is what a process has of memory.
func residentKiB(t *testing.T, pid int) int {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if text, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.Atoi(strings.Fields(text)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// TestClockBehind: the newest point is from the future, as after a step back of the host's clock. Later points are later
// still, in their order, and say so; a selection by time finds the newest.
func TestClockBehind(t *testing.T) {
	s := newSite(t, "tcp")
	dev := s.loopDisk("disk", mib)
	s.startReceiver()
	a := s.startAgent(dev)
	s.sameAs(dev)
	d, _ := s.status(dev)
	a.stop()
	future := time.Now().Add(time.Hour)
	raw, err := s.openRaw("source", wire.Open{Disk: d.ID, Boot: bootOf(t)})
	if err != nil {
		t.Fatal(err)
	}
	raw.begin(0)
	raw.frame(0, 9)
	if err := raw.commit(future); err != nil {
		t.Fatal(err)
	}
	raw.close()
	s.free(d.ID)
	a = s.startAgent(dev)
	eventually(t, "three points after that", func() bool {
		p := s.points(d.ID.String())
		return len(p) > 3 && p[len(p)-3].Seq > raw.opened.TipSeq && p[len(p)-1].Class == block.ClassCrash
	})
	points := s.points(d.ID.String())
	for i := 1; i < len(points); i++ {
		if !points[i].Time.After(points[i-1].Time) {
			t.Errorf("%v is of %v, the point before it of %v", points[i].Seq, points[i].Time, points[i-1].Time)
		}
	}
	if !strings.Contains(a.logged(), "clock is behind") {
		t.Error("the agent does not say that its clock is behind")
	}
	path := s.restore(d.ID.String() + "@" + future.Add(time.Minute).Format(time.RFC3339))
	if out, err := exec.Command("cmp", path, dev).CombinedOutput(); err != nil {
		t.Errorf("the newest point by time is not the disk: %s", out)
	}
	if now, ok := s.status(dev); !ok || now.Lag < 0 {
		t.Errorf("lag %v", now.Lag)
	}
}

// bootOf is the boot id of this kernel.
func bootOf(t *testing.T) [16]byte {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	id, err := block.ParseDiskID(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return id
}
