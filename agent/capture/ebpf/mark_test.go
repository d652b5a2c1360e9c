package ebpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/bench/testbed"
	"github.com/understudy-dr/understudy/internal/block"
)

// TestMarksAreBits holds what is marked against what was written, bit by bit. Writes that overlap what is marked already tell
// an OR from an ADD.
func TestMarksAreBits(t *testing.T) {
	d := newDisk(t, 64<<20)
	tr := attach(t, d.path, Options{})
	wantMarks(t, tr)
	d.write(3*4096, 4096, 1)
	d.write(2*4096, 3*4096, 2)
	d.write(2*4096, 3*4096, 3)
	wantMarks(t, tr, run(2, 3))
	wantMarks(t, tr)
	d.write(63*4096, 2*4096, 1)         // over the edge of a word
	d.write(256<<10+512, 512, 1)        // part of a block
	d.write(1<<20-512, 1024, 1)         // parts of two
	d.write(64<<20-4096, 4096, 1)       // the last block
	d.read(8<<20, 1<<20)                // leaves no mark
	d.write(32<<20, 600<<10, 1)         // 150 blocks: three words
	d.write(32<<20+300<<10, 600<<10, 1) // and over half of it again
	d.zeroOut(48<<20, 4096)             // a write without data
	d.discard(49<<20, 8192)             // and one that takes data away
	wantMarks(t, tr, run(63, 2), run(255, 2), run(8192, 225), run(12288, 1), run(12544, 2), run(16383, 1))
}

// TestEachCopyMarksAlone: three copies run, and each of them would do alone. So a completion that interrupts a copy on its CPU,
// and is lost to that copy, is marked by another.
func TestEachCopyMarksAlone(t *testing.T) {
	d := newDisk(t, 16<<20)
	if tr := attach(t, d.path, Options{}); len(tr.set.links) != 3 {
		t.Errorf("%d copies are attached, want 3", len(tr.set.links))
	}
	for alone := range copies {
		t.Run(fmt.Sprint(alone), func(t *testing.T) {
			tr := attach(t, d.path, Options{PinRoot: pinRoot(t)})
			for i, l := range tr.set.links {
				if i != alone {
					detach(t, tr, l, donePin(i))
				}
			}
			d.write(int64(alone)*8192, 4096, 9)
			wantMarks(t, tr, run(2*alone, 1))
			for c := range copies {
				if got := tr.set.mem.load(c, counterSectors); (got == 8) != (c == alone) {
					t.Errorf("copy %d counted %d sectors", c, got)
				}
			}
		})
	}
}

// TestAWriteIsMarkedWhenItLands: a write is under way, and is marked after it has landed, whatever was taken before. The file
// under the disk is on a file system that is frozen meanwhile, so the test decides when it lands.
func TestAWriteIsMarkedWhenItLands(t *testing.T) {
	for _, flights := range []Flights{FlightsOff, FlightsOn} {
		t.Run(string(flights), func(t *testing.T) {
			lower := newDisk(t, 256<<20)
			if err := testbed.Mkfs(t.Context(), lower.path, "ext4"); err != nil {
				t.Fatal(err)
			}
			m, err := lower.bed.Mount(lower.path, "lower", "ext4")
			if err != nil {
				t.Fatal(err)
			}
			d := newDiskIn(t, lower.bed, "lower/disk", 16<<20)
			tr := attach(t, d.path, Options{Flights: flights})

			tool(t, "fsfreeze", "--freeze", m.Dir)
			thawed := false
			thaw := func() {
				if !thawed {
					thawed = true
					tool(t, "fsfreeze", "--unfreeze", m.Dir)
				}
			}
			defer thaw()
			done := make(chan error, 1)
			buf := aligned(4096)
			go func() {
				_, err := unix.Pwrite(d.fd, buf, 7*4096)
				done <- err
			}()
			until(t, "write under way", func() bool {
				return strings.Fields(text(tr.dev.dir, "inflight"))[1] != "0"
			})
			early := take(t, tr)
			if want := flights == FlightsOn; (len(early) > 0) != want {
				t.Errorf("handed over before it landed: %v", early)
			}
			thaw()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			wantMarks(t, tr, run(7, 1))
		})
	}
}

// TestALargeDiscardIsMarkedWhole uses the largest requests there are, with ends inside words and coarse words.
func TestALargeDiscardIsMarkedWhole(t *testing.T) {
	const size = 9 << 30
	d := newDisk(t, size)
	for _, bs := range []block.BlockSize{512, 4096, 64 << 10} {
		t.Run(fmt.Sprint(int(bs)), func(t *testing.T) {
			tr := attach(t, d.path, Options{BlockSize: bs, PinRoot: pinRoot(t)})
			for _, r := range []block.Range{
				{Off: 0, Len: size},
				{Off: 4096 * 37, Len: 8<<30 - 4096*5},
				{Off: 1<<30 + 512*9, Len: 4096 * 64 * 3},
				{Off: 1 << 30, Len: 4096 * 64 * 64 * 2},
				{Off: size - 4096*65, Len: 4096 * 65},
			} {
				d.discard(int64(r.Off), int64(r.Len))
				wantMarks(t, tr, r.Covering(bs))
			}
			if n := tr.set.sum(counterOverflow); n != 0 {
				t.Errorf("%d requests were too large to mark", n)
			}
		})
	}
}

// TestOnlyTheDiskIsMarked: two disks side by side, a partition, and what is next to it.
func TestOnlyTheDiskIsMarked(t *testing.T) {
	bed := newBed(t)
	a, b := newDiskIn(t, bed, "a", 16<<20), newDiskIn(t, bed, "b", 16<<20)
	// A partition of 4 MiB at 1 MiB and a sector: the start need not be on a block.
	const start, sectors = 2049, 8192
	tool(t, "addpart", b.path, "1", fmt.Sprint(start), fmt.Sprint(sectors))
	t.Cleanup(func() { tool(t, "delpart", b.path, "1") })
	part := b.path + "p1"

	trA := attach(t, a.path, Options{PinRoot: pinRoot(t, "a")})
	trB := attach(t, b.path, Options{PinRoot: pinRoot(t, "b")})
	trP := attach(t, part, Options{PinRoot: pinRoot(t, "p")})
	if _, n := trP.Geometry(); n != sectors/8 {
		t.Errorf("the partition has %d blocks, want %d", n, sectors/8)
	}
	a.write(5*4096, 4096, 1)
	wantMarks(t, trA, run(5, 1))
	wantMarks(t, trB)
	p := openDisk(t, bed, part, "", sectors*512)
	p.write(6*4096, 4096, 1)
	wantMarks(t, trP, run(6, 1))
	wantMarks(t, trB, run((start*512+6*4096)/4096, 2))
	// Through the whole disk: beside the partition, over its first and last block, and over all of it.
	b.write(start*512-4096*3, 4096*2, 1)
	b.write((start+sectors)*512+512*7, 4096, 1)
	wantMarks(t, trP)
	b.write(start*512-512, 4096, 1)
	b.write((start+sectors)*512-512, 1024, 1)
	wantMarks(t, trP, run(0, 1), run(sectors/8-1, 1))
	b.zeroOut(0, 16<<20)
	wantMarks(t, trP, run(0, sectors/8))
	wantMarks(t, trA)
	for _, tr := range []*Tracker{trA, trB, trP} {
		if got, err := tr.Audit(); err != nil || got.Missed {
			t.Errorf("audit of %s: %+v, %v", tr.opt.Device, got, err)
		}
	}
}

// TestGranularity marks at other block sizes, on a disk that is no multiple of them.
func TestGranularity(t *testing.T) {
	d := newDisk(t, 16<<20+512*3)
	for _, row := range []struct {
		bs    block.BlockSize
		count block.Count
		last  int
	}{{512, 32771, 32768}, {4096, 4097, 4096}, {64 << 10, 257, 256}, {1 << 20, 17, 16}} {
		t.Run(fmt.Sprint(int(row.bs)), func(t *testing.T) {
			tr := attach(t, d.path, Options{BlockSize: row.bs, PinRoot: pinRoot(t)})
			if bs, n := tr.Geometry(); bs != row.bs || n != row.count {
				t.Errorf("geometry %v, %v", bs, n)
			}
			d.write(16<<20, 512, 1)
			wantMarks(t, tr, run(row.last, 1))
			d.write(int64(row.bs)*3, int(row.bs)*2, 1)
			wantMarks(t, tr, run(3, 2))
			d.zeroOut(0, 16<<20+512*3)
			wantMarks(t, tr, run(0, int(row.count)))
		})
	}
	if _, err := Attach(Options{Device: d.path, BlockSize: 5000, PinRoot: pinRoot(t)}); err == nil {
		t.Error("5000 bytes are no block size, and were taken")
	}
	big := newDisk(t, 1<<40)
	tr := attach(t, big.path, Options{PinRoot: pinRoot(t, "big")})
	if bs, n := tr.Geometry(); bs != 8192 || n != 1<<27 {
		t.Errorf("1 TiB is tracked at %v in %d blocks, want 8 KiB: one bitmap of 16 MiB", bs, n)
	}
}

// TestRefusals: what can't be tracked is refused in a sentence that says why.
func TestRefusals(t *testing.T) {
	d := newDisk(t, 16<<20)
	root := pinRoot(t)
	for name, row := range map[string]struct {
		device string
		is     error
		says   string
	}{
		"nothing there": {device: "/dev/nothing", is: unix.ENOENT, says: "/dev/nothing"},
		"a file":        {device: d.file, says: "is not a block device"},
		"a folder":      {device: "/dev", says: "is not a block device"},
	} {
		_, err := Attach(Options{Device: row.device, PinRoot: root})
		if err == nil || !strings.Contains(err.Error(), row.says) || row.is != nil && !errors.Is(err, row.is) {
			t.Errorf("%s: %v", name, err)
		}
	}
	tool(t, "sh", "-c", "echo 0 > /sys/block/"+strings.TrimPrefix(d.path, "/dev/")+"/queue/iostats")
	_, err := Attach(Options{Device: d.path, PinRoot: root})
	if !errors.Is(err, capture.ErrUnsupported) || !strings.Contains(err.Error(), "keeps no statistics") {
		t.Errorf("a disk without statistics: %v", err)
	}
	tool(t, "sh", "-c", "echo 1 > /sys/block/"+strings.TrimPrefix(d.path, "/dev/")+"/queue/iostats")

	dir := t.TempDir()
	tool(t, "mkdir", "-p", dir+"/slaves/sda2")
	err = device{dir: dir, name: "dm-0"}.trackable("/dev/mapper/root")
	if !errors.Is(err, capture.ErrUnsupported) || !strings.Contains(err.Error(), "stands on /dev/sda2: protect that instead") {
		t.Errorf("a mapped disk: %v", err)
	}
}

// TestProbe: this host can, and a process without rights is told what it lacks.
func TestProbe(t *testing.T) {
	if err := Probe(); err != nil {
		t.Error(err)
	}
	file := filepath.Join(t.TempDir(), "realtime")
	if err := os.WriteFile(file, []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := refuseRealtime(file); !errors.Is(err, capture.ErrUnsupported) || !strings.Contains(err.Error(), "real-time preemption") {
		t.Errorf("a kernel with real-time preemption: %v", err)
	}
	out := child(t, "probe").output()
	if !strings.Contains(out, "CAP_BPF") || strings.Count(strings.TrimSpace(out), "\n") > 0 {
		t.Errorf("without capabilities the probe says %q", out)
	}
}

// TestTheLicenceIsSaid: the kernel's helpers ask for it.
func TestTheLicenceIsSaid(t *testing.T) {
	f, err := readFields()
	if err != nil {
		t.Fatal(err)
	}
	m, err := newMap(newLayout(64, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	spec := target{fields: f, layout: newLayout(64, 0), sectors: 8, mapFD: m.FD()}.completion()
	if spec.License != license || !strings.Contains(license, "GPL") {
		t.Errorf("the programs are loaded as %q", spec.License)
	}
	spec.License = "Apache-2.0"
	if p, err := ebpf.NewProgram(spec); err == nil {
		p.Close()
		t.Log("this kernel loads them under any licence")
	}
}
