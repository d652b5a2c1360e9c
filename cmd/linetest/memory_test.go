package linetest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"github.com/understudy-dr/understudy/internal/block"
)

// agentLimit is the most memory an agent may hold at the default budget, in bytes.
const agentLimit = 200 * mib

// TestMemory: the agent holds no more than 200 MiB with all that takes memory at its most at once: bitmaps as large as they
// get, four first syncs, then four comparisons and freezes that read as much as they may.
func TestMemory(t *testing.T) {
	const disks, size = 4, 16 << 30
	s := newSite(t, "quic")
	s.startReceiver()
	// The race detector takes several times what a program takes.
	const plain = "plain-understudy-agent"
	must(t, "go", "build", "-o", filepath.Join(bin, plain), "../understudy-agent")
	var devs []string
	for i := range disks {
		devs = append(devs, s.loopDisk(fmt.Sprintf("disk%d", i), size))
		write(t, devs[i], size-512*mib, 64*mib)
	}
	// 16 GiB in units of 512 bytes are 32 million bits, a quarter of what all disks' bitmaps may hold.
	a := start(t, plain, append(s.agentArgs(devs...), "--block-size", "512", "--compress", "none",
		"--interval", "3s", "--freeze=false", "--freeze-budget", "10s")...)
	eventually(t, "all disks are protected", func() bool {
		for _, dev := range devs {
			if d, ok := s.status(dev); !ok || d.LastPoint == nil {
				return false
			}
		}
		return true
	})
	synced := peakMemory(t, a)

	for _, dev := range devs { // for longer than the test
		start(t, "understudy", "verify", dev, "--agent", s.path("agent.sock"))
	}
	most, room := block.Size(0), (256-184)*block.MiB
	for round := uint8(0); round < 20 && most < room*3/4; round++ {
		s.nextPoint(devs[0]) // the next one comes in an interval
		var writes sync.WaitGroup
		for i, dev := range devs {
			writes.Go(func() { scatter(t, dev, rand.NewChaCha8([32]byte{round, byte(i)}), 16*mib, 8192) })
		}
		writes.Wait()
		s.nextPoint(devs[0])
		most = max(most, s.lastResidue())
	}
	peak := peakMemory(t, a)
	t.Logf("peak %d MiB after the first sync, %d MiB at the end; a cut read %v of %v", synced/mib, peak/mib, most, room)
	if most < room*3/4 {
		t.Errorf("no cut read as much as it may: the figures say too little")
	}
	if peak > agentLimit {
		t.Errorf("the agent held %d MiB, %d at most", peak/mib, agentLimit/mib)
	}
}

// lastResidue is what the last cut read of all disks.
func (s *site) lastResidue() (sum block.Size) {
	s.t.Helper()
	report, ok := s.report()
	if !ok {
		s.t.Fatal("the agent does not answer")
	}
	for _, d := range report.Disks {
		sum += d.LastPoint.Residue
	}
	return sum
}

// scatter writes n random bytes to dev in pieces of 4 KiB that begin so far apart.
func scatter(t *testing.T, dev string, random *rand.ChaCha8, n, apart int64) {
	t.Helper()
	f, err := os.OpenFile(dev, os.O_WRONLY|syscall.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := block.AlignedBuffer(4096)
	for i := range n / 4096 {
		random.Read(buf)
		if _, err := f.WriteAt(buf, i*apart); err != nil {
			t.Fatal(err)
		}
	}
}

var peakLine = regexp.MustCompile(`(?m)^VmHWM:\s+(\d+) kB$`)

// peakMemory is the most memory that a process has held, in bytes.
func peakMemory(t *testing.T, p *process) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	m := peakLine.FindSubmatch(bytes.TrimSpace(status))
	if m == nil {
		t.Fatalf("no VmHWM in %s", status)
	}
	kib, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
