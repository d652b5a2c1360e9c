package ebpf

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/internal/block"
)

const childVar = "UNDERSTUDY_TEST_CHILD"

// TestMain lets the test binary be an agent that can be killed.
func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(childVar) {
	case "":
		status := m.Run()
		if left, _ := filepath.Glob(pinPrefix() + "*"); len(left) > 0 {
			fmt.Println("left pinned:", left)
			status = 1
		}
		os.Exit(status)
	case "agent":
		err = childAgent()
	case "probe":
		err = childProbe()
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// childAgent attaches, and takes what is marked into the pending bits, until it is killed.
func childAgent() error {
	id, err := block.ParseDiskID(os.Getenv("DISK"))
	if err != nil {
		return err
	}
	tr, err := Attach(Options{Device: os.Getenv("DEVICE"), Disk: id, PinRoot: os.Getenv("PINS")})
	if err != nil {
		return err
	}
	set := capture.NewSet(tr)
	for taken := uint64(0); ; {
		n, err := set.Take()
		if err != nil {
			return err
		}
		if n > taken {
			fmt.Println("taken", n)
			taken = n
		}
	}
}

// childProbe gives up every capability and probes.
func childProbe() error {
	if err := syscall.Setresuid(65534, 65534, 65534); err != nil {
		return err
	}
	return Probe()
}

type process struct {
	t   *testing.T
	cmd *exec.Cmd
	out *bufio.Reader
}

func child(t *testing.T, what string, env ...string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), append(env, childVar+"="+what)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{t, cmd, bufio.NewReader(pipe)}
	t.Cleanup(p.kill)
	return p
}

func (p *process) output() string {
	var b bytes.Buffer
	b.ReadFrom(p.out)
	return b.String()
}

// line waits for the next line it prints.
func (p *process) line() string {
	p.t.Helper()
	s, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatalf("the agent ended: %q", s)
	}
	return s
}

func (p *process) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// detach takes one program away from a live tracker.
func detach(t *testing.T, tr *Tracker, l link.Link, pin string) {
	t.Helper()
	if err := errors.Join(os.Remove(filepath.Join(tr.set.dir, pin)), l.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestKilledAgentsLoseNothing kills agent after agent in the middle of load, lets writes go on without any, and then holds
// the bits against what changed.
func TestKilledAgentsLoseNothing(t *testing.T) {
	d := newDisk(t, 64<<20)
	before := d.image()
	opt := Options{Device: d.path, Disk: block.DiskID{1}, PinRoot: pinRoot(t), Flights: FlightsOn}
	first := attach(t, d.path, opt)
	if first.Keep().Resumed {
		t.Error("a new tracker says that it resumed")
	}
	copy(first.Keep().Note, "what the bits are relative to")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for i := range 2 {
		writers.Go(func() { scribble(d, uint64(i), stop) })
	}
	for range 10 {
		p := child(t, "agent", "DEVICE="+d.path, "DISK="+opt.Disk.String(), "PINS="+opt.PinRoot)
		p.line()
		p.line()
		p.kill()
		d.write(int64(rand.IntN(16000))*4096, 4096, 0xaa) // with no agent at all
	}
	close(stop)
	writers.Wait()
	last := attach(t, d.path, opt)
	keep := last.Keep()
	if !keep.Resumed || !strings.HasPrefix(string(keep.Note), "what the bits are") {
		t.Errorf("resumed: %v, note %q", keep.Resumed, keep.Note[:30])
	}
	set := capture.NewSet(last)
	if _, err := set.Take(); err != nil {
		t.Fatal(err)
	}
	after := d.image()
	pending := block.BitmapOver(keep.Pending, 64<<20/4096)
	for i := range 64 << 20 / 4096 {
		if !bytes.Equal(before[i*4096:][:4096], after[i*4096:][:4096]) && !pending.Get(block.Index(i)) {
			t.Fatalf("block %d changed and is not marked", i)
		}
	}
	if n := pending.Count(); n < 100 || n == 64<<20/4096 {
		t.Errorf("%d blocks are marked: that proves nothing", n)
	}
}

// scribble writes here and there until it is stopped. It leaves a quarter of the disk alone.
func scribble(d *disk, seed uint64, stop chan struct{}) {
	rng := rand.New(rand.NewPCG(seed, 7))
	buf := aligned(64 << 10)
	for {
		select {
		case <-stop:
			return
		default:
		}
		n := 4096 << rng.IntN(5)
		off := rng.Int64N(d.size/4*3/4096)*4096 - int64(n)
		for i := range buf[:n] {
			buf[i] = byte(rng.Uint32())
		}
		unix.Pwrite(d.fd, buf[:n], max(off, 0))
		time.Sleep(time.Millisecond)
	}
}

// TestAMarkIsHandedOverBeforeItIsCleared: a kill in between finds it twice, never not at all.
func TestAMarkIsHandedOverBeforeItIsCleared(t *testing.T) {
	d := newDisk(t, 64<<20)
	tr := attach(t, d.path, Options{})
	d.write(70*4096, 4096, 1)
	d.discard(16<<20, 8<<20)
	m, seen := tr.set.mem, 0
	if err := tr.Take(func(w int, marks uint64) {
		seen++
		fine, coarse := m.words[m.marks+w], m.words[m.coarse+w/64]&(1<<uint(w%64)) != 0
		if fine&marks != marks && !coarse {
			t.Errorf("word %d was cleared before it was handed over", w)
		}
	}); err != nil || seen != 1+8<<20/4096/64 {
		t.Errorf("%d words were handed over, %v", seen, err)
	}
	wantMarks(t, tr)
}

// TestOneAgentADisk: a second one is refused while the first holds the disk, and let in when it is gone.
func TestOneAgentADisk(t *testing.T) {
	d := newDisk(t, 16<<20)
	opt := Options{Device: d.path, Disk: block.DiskID{2}, PinRoot: pinRoot(t)}
	p := child(t, "agent", "DEVICE="+d.path, "DISK="+opt.Disk.String(), "PINS="+opt.PinRoot)
	until(t, "the child's pins", func() bool { return fileExists(filepath.Join(opt.PinRoot, opt.Disk.String(), "0", donePin(2))) })
	if _, err := Attach(opt); !errors.Is(err, capture.ErrInUse) {
		t.Errorf("two agents for one disk: %v", err)
	}
	if err := RemovePins(opt.PinRoot, opt.Disk); !errors.Is(err, capture.ErrInUse) {
		t.Errorf("its pins were taken away: %v", err)
	}
	p.kill()
	attach(t, d.path, opt)
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// reattach closes the tracker and attaches anew with opt.
func reattach(t *testing.T, tr *Tracker, opt Options) *Tracker {
	t.Helper()
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	return attach(t, opt.Device, opt)
}

// TestBitsAreTakenOver: a disk that grew, and one that is tracked at another granularity, keep their bits and their note.
func TestBitsAreTakenOver(t *testing.T) {
	d := newDisk(t, 16<<20)
	opt := Options{Device: d.path, Disk: block.DiskID{3}, PinRoot: pinRoot(t)}
	tr := attach(t, d.path, opt)
	copy(tr.Keep().Note, "note")
	d.write(20*4096, 4096, 1)
	if _, err := capture.NewSet(tr).Take(); err != nil { // pending, not marked
		t.Fatal(err)
	}
	d.write(40*4096, 4096, 1) // marked
	d.discard(4<<20, 4<<20)   // marked coarsely

	if err := os.Truncate(d.file, 24<<20); err != nil {
		t.Fatal(err)
	}
	tool(t, "losetup", "--set-capacity", d.path)
	if a, err := tr.Audit(); err != nil || a.Missed {
		t.Errorf("growing is no miss: %+v, %v", a, err)
	}
	pending := func(tr *Tracker) []block.Run {
		_, n := tr.Geometry()
		if _, err := capture.NewSet(tr).Take(); err != nil {
			t.Fatal(err)
		}
		var runs []block.Run
		for r := range block.BitmapOver(tr.Keep().Pending, n).Runs() {
			runs = append(runs, r)
		}
		return runs
	}
	tr = reattach(t, tr, opt)
	if _, n := tr.Geometry(); n != 24<<20/4096 || !tr.Keep().Resumed || string(tr.Keep().Note[:4]) != "note" {
		t.Errorf("grown: %d blocks, resumed %v, note %q", n, tr.Keep().Resumed, tr.Keep().Note[:4])
	}
	d.write(20<<20, 4096, 1)
	if got, want := fmt.Sprint(pending(tr)), fmt.Sprint([]block.Run{run(20, 1), run(40, 1), run(1024, 1024), run(5120, 1)}); got != want {
		t.Errorf("grown: %v, want %v", got, want)
	}
	opt.BlockSize = 64 << 10
	tr = reattach(t, tr, opt)
	if got, want := fmt.Sprint(pending(tr)), fmt.Sprint([]block.Run{run(1, 2), run(64, 64), run(320, 1)}); got != want || !tr.Keep().Resumed {
		t.Errorf("at 64 KiB: %v, want %v", got, want)
	}
	if sets, err := os.ReadDir(filepath.Join(opt.PinRoot, opt.Disk.String())); err != nil || len(sets) != 1 {
		t.Errorf("%d sets of pins are left: %v", len(sets), err)
	}
	if err := os.Truncate(d.file, 16<<20); err != nil {
		t.Fatal(err)
	}
	tool(t, "losetup", "--set-capacity", d.path)
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Attach(opt); !errors.Is(err, capture.ErrShrunk) {
		t.Errorf("a disk that shrank: %v", err)
	}
}

// TestWhatIsNotTheSameIsNotResumed: another disk at the same device, a set that lost a program, pins that are damaged.
func TestWhatIsNotTheSameIsNotResumed(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, d *disk, set string){
		"another disk": func(t *testing.T, d *disk, set string) {
			unix.Close(d.fd)
			tool(t, "losetup", "--detach", d.path)
			until(t, "detached", func() bool { return text("/sys/block", filepath.Base(d.path), "loop/backing_file") == "" })
			tool(t, "losetup", d.path, d.file)
		},
		"a program is gone": func(t *testing.T, d *disk, set string) { os.Remove(filepath.Join(set, donePin(1))) },
		"the map is gone":   func(t *testing.T, d *disk, set string) { os.Remove(filepath.Join(set, mapPin)) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDisk(t, 16<<20)
			opt := Options{Device: d.path, Disk: block.DiskID{4}, PinRoot: pinRoot(t)}
			tr := attach(t, d.path, opt)
			set := tr.set.dir
			if err := tr.Close(); err != nil {
				t.Fatal(err)
			}
			spoil(t, d, set)
			if tr = attach(t, d.path, opt); tr.Keep().Resumed {
				t.Error("taken over as if nothing had happened")
			}
			if len(tr.set.links) != copies {
				t.Errorf("%d programs are attached", len(tr.set.links))
			}
		})
	}
}

// TestRemoveLeavesNothing: neither pins nor programs, nor the folder once the last disk has gone.
func TestRemoveLeavesNothing(t *testing.T) {
	root := pinRoot(t)
	other := attach(t, newDisk(t, 16<<20).path, Options{Disk: block.DiskID{6}, PinRoot: root})
	opt := Options{Device: newDisk(t, 16<<20).path, Disk: block.DiskID{5}, PinRoot: root}
	tr := attach(t, opt.Device, opt)
	if ids, err := Pinned(root); err != nil || len(ids) != 2 {
		t.Errorf("pinned are %v, %v", ids, err)
	}
	if err := tr.Remove(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(root); err != nil || len(left) != 1 || left[0].Name() != other.opt.Disk.String() {
		t.Errorf("left behind: %v, %v, want the other disk alone", left, err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if err := RemovePins(root, other.opt.Disk); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(root); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is left behind: %v", err)
	}
	if err := tr.Close(); err != nil {
		t.Errorf("close after remove: %v", err)
	}
}

// TestTakeAllocatesNothing: it is called while file systems are frozen.
func TestTakeAllocatesNothing(t *testing.T) {
	d := newDisk(t, 8<<20)
	tr := attach(t, d.path, Options{Flights: FlightsOn})
	enter(tr, 8, 8)
	d.write(0, 1<<20, 1)
	words := 0
	sink := func(int, uint64) { words++ }
	n := testing.AllocsPerRun(50, func() {
		if err := tr.Take(sink); err != nil {
			t.Error(err)
		}
	})
	if n > 0 || words == 0 {
		t.Errorf("Take allocates %v times; %d words were taken", n, words)
	}
}
