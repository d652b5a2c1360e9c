package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/codec"
)

// markedByHand is a tracker whose marks a test sets.
type markedByHand struct {
	mu    sync.Mutex
	n     block.Count
	marks []uint64
	keep  capture.Keep
}

func newMarkedByHand(size block.Size) *markedByHand {
	n := block.DefaultBlockSize.Count(size)
	words := block.WordsFor(n)
	return &markedByHand{
		n: n, marks: make([]uint64, words),
		keep: capture.Keep{Pending: make([]uint64, words), Note: make([]byte, capture.NoteSize)},
	}
}

func (m *markedByHand) mark(i block.Index) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.marks[i/64] |= 1 << (i % 64)
}

func (m *markedByHand) Geometry() (block.BlockSize, block.Count) { return block.DefaultBlockSize, m.n }

func (m *markedByHand) Take(sink func(int, uint64)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for w, v := range m.marks {
		if v != 0 {
			sink(w, v)
			m.marks[w] = 0
		}
	}
	return nil
}
func (m *markedByHand) Audit() (capture.Audit, error) { return capture.Audit{}, nil }
func (m *markedByHand) Keep() capture.Keep            { return m.keep }
func (m *markedByHand) Status() capture.Status        { return capture.Status{} }
func (m *markedByHand) Close() error                  { return nil }
func (m *markedByHand) Remove() error                 { return nil }

// member is a disk of a group, on a real loop device, with a tracker that a test marks.
type member struct {
	*upload
	marks *markedByHand
}

func newMember(t *testing.T, dev string) member {
	t.Helper()
	state, err := lookAtDevice(dev)
	if err != nil {
		t.Fatal(err)
	}
	marks := newMarkedByHand(state.size)
	d := &disk{path: dev, opened: state, tracker: marks}
	if err := d.openDevice(newMemory(Config{Disks: []string{dev}, Memory: otherMemory + 16*block.MiB, Compress: codec.LevelNone})); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.dev.Close(); d.residue.arena.close() })
	return member{&upload{disk: d, budget: 50 * time.Millisecond}, marks}
}

// TestTheFrozenSectionAllocatesNothing runs it over two real disks with an ext4 each: freeze, swap, collect, read, swap, thaw.
func TestTheFrozenSectionAllocatesNothing(t *testing.T) {
	dir := scratch(t)
	one, _ := ext4(t, dir, "one", "64M")
	two, _ := ext4(t, dir, "two", "64M")
	a, b := newMember(t, one), newMember(t, two)
	f := &freezer{guard: startGuard(t), limit: time.Minute}
	c := startCutter(f, 2)
	defer c.stop()
	if err := f.prepare([]Mount{mountOf(t, one), mountOf(t, two)}); err != nil {
		t.Fatal(err)
	}
	defer f.release()
	c.members = []*upload{a.upload, b.upload}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // as cut does
	var failed error
	read := block.Size(0)
	once := func() (allocated uint64) {
		for i := range block.Index(100) {
			a.marks.mark(i * 3)
			b.marks.mark(1000 + i)
		}
		a.disk.set.Rewind()
		b.disk.set.Rewind()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := c.frozen()
		runtime.ReadMemStats(&after)
		failed = errors.Join(failed, err, f.guard.disarm(), f.guard.arm(f.fds))
		read = c.residueBytes()
		return after.Mallocs - before.Mallocs
	}
	// The runtime itself may allocate now and then (a thread, a place in a queue): what the section allocates shows each time.
	least := once()
	for range 20 {
		least = min(least, once())
	}
	if least > 0 {
		t.Errorf("the frozen section allocates %d times", least)
	}
	if failed != nil || read != 200*4096 {
		t.Fatalf("%v read, %v: the test proves nothing", read, failed)
	}
}

// TestACutReadsTheDisk: what is read is what is on the disk, and a write during the reads is found.
func TestACutReadsTheDisk(t *testing.T) {
	dir := scratch(t)
	dev, mnt := ext4(t, dir, "disk", "64M")
	want := bytes.Repeat([]byte("what an application wrote. "), 4096)
	if err := os.WriteFile(filepath.Join(mnt, "file"), want, 0o600); err != nil {
		t.Fatal(err)
	}
	m := newMember(t, dev)
	for i := range block.Index(m.marks.n) {
		m.marks.mark(i)
	}
	m.disk.residue.arena.close()
	var err error
	if m.disk.residue, err = newResidue(64 * block.MiB); err != nil {
		t.Fatal(err)
	}
	m.disk.residue.arena.warm(block.MiB)
	f := &freezer{guard: startGuard(t), limit: time.Minute}
	c := startCutter(f, 1)
	defer c.stop()
	if err := errors.Join(f.prepare([]Mount{mountOf(t, dev)}), f.sync(), c.cut([]*upload{m.upload})); err != nil {
		t.Fatal(err)
	}
	f.release()
	if c.busy[0] || !bytes.Contains(m.disk.residue.arena.mem, want) {
		t.Errorf("busy %v; the file is not in what was read", c.busy[0])
	}
	m.disk.residue.reset()
	if m.disk.residue.arena.mem[0] != 0 || bytes.Contains(m.disk.residue.arena.mem, want) {
		t.Error("the memory was not given back")
	}
	m.marks.mark(7)
	quit := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			default:
				m.marks.mark(9)
			}
		}
	}()
	err = c.cut([]*upload{m.upload})
	close(quit)
	<-done
	if err != nil || !c.busy[0] {
		t.Errorf("a disk that was written during the cut: busy %v, %v", c.busy[0], err)
	}
}

// TestNestedFileSystems freezes a file system in a file of another one: the inner first, whichever was mounted first, and the
// other way round it would hang until the guard comes.
func TestNestedFileSystems(t *testing.T) {
	dir := scratch(t)
	outer, mnt := ext4(t, dir, "outer", "128M")
	inner, innerMnt := ext4(t, mnt, "inner", "32M")
	var devs []string
	for _, dev := range []string{inner, outer} {
		d, _, err := mountsOver(dev)
		if err != nil {
			t.Fatal(err)
		}
		devs = append(devs, d...)
	}
	// The outer one is seen as the later mount too.
	again := filepath.Join(dir, "again")
	if err := os.Mkdir(again, 0o700); err != nil {
		t.Fatal(err)
	}
	tool(t, "mount", "--bind", mnt, again)
	t.Cleanup(func() { tool(t, "umount", again) })
	mounts, err := together(devs)
	if err != nil || len(mounts) != 2 || mounts[0].Path != innerMnt || mounts[1].Path != mnt {
		t.Fatalf("to be frozen in this order: %v, %v", mounts, err)
	}
	if got := freezeOrder([]Mount{mounts[0], mounts[1]}); got[0].Path != innerMnt {
		t.Errorf("mounted in the other order, %s is frozen first", got[0].Path)
	}
	g := startGuard(t)
	f := freezer{guard: g, limit: 20 * time.Second}
	for range 3 {
		if err := f.prepare(mounts); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(innerMnt, "dirty"), bytes.Repeat([]byte{1}, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		err := f.freeze()
		if err == nil {
			err = f.thaw()
		}
		f.release()
		if err != nil {
			t.Fatal(err)
		}
	}
	// The guard thaws both too.
	f.limit = 300 * time.Millisecond
	if err := errors.Join(f.prepare(mounts), f.freeze()); err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		if !writable(t, m, 10*time.Second) {
			t.Fatalf("%s is still frozen", m.Path)
		}
	}
	if err := f.thaw(); !errors.Is(err, errLate) {
		t.Errorf("a freeze that was ended by the guard: %v", err)
	}
	f.release()
}

// TestMountsOfOtherNamespaces: a file system that a container alone has mounted is found, opened and frozen.
func TestMountsOfOtherNamespaces(t *testing.T) {
	dir := scratch(t)
	image, mnt := filepath.Join(dir, "image"), filepath.Join(dir, "mnt")
	tool(t, "truncate", "-s", "64M", image)
	tool(t, "mkfs.ext4", "-q", image)
	dev := loop(t, image)
	if err := os.Mkdir(mnt, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--mount", "sh", "-c", `mount "$1" "$2" && echo mounted && read line; umount "$2"`, "holder", dev, mnt)
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); cmd.Wait() })
	line := make([]byte, 8)
	if _, err := stdout.Read(line); err != nil || string(line) != "mounted\n" {
		t.Fatalf("the other namespace: %q, %v", line, err)
	}
	m := mountOf(t, dev)
	if !strings.HasPrefix(m.Path, "/proc/") || !strings.HasSuffix(m.Path, mnt) {
		t.Errorf("found at %s", m.Path)
	}
	f := freezer{guard: startGuard(t), limit: time.Minute}
	if err := errors.Join(f.prepare([]Mount{m}), f.freeze()); err != nil {
		t.Fatal(err)
	}
	held := !writable(t, m, 300*time.Millisecond)
	if err := f.thaw(); err != nil || !held {
		t.Errorf("frozen: %v; thaw: %v", held, err)
	}
	f.release()
}

// TestAMountThatIsCovered: another file system mounted over the first mount point is not frozen in its place.
func TestAMountThatIsCovered(t *testing.T) {
	dir := scratch(t)
	dev, mnt := ext4(t, dir, "disk", "64M")
	m := mountOf(t, dev)
	tool(t, "mount", "-t", "tmpfs", "tmpfs", mnt)
	t.Cleanup(func() { tool(t, "umount", mnt) })
	if fd, err := m.open(); err == nil || !strings.Contains(err.Error(), "mounted over") {
		unix.Close(fd)
		t.Errorf("opened what covers it: %v", err)
	}
	again := filepath.Join(dir, "again")
	if err := os.Mkdir(again, 0o700); err != nil {
		t.Fatal(err)
	}
	tool(t, "mount", dev, again)
	t.Cleanup(func() { tool(t, "umount", again) })
	fd, err := mountOf(t, dev).open()
	if err != nil {
		t.Fatalf("it is mounted elsewhere too: %v", err)
	}
	unix.Close(fd)
}

// TestReadableBeforeFrozen: a freeze that could not read what is left is not begun, and the reason has figures.
func TestReadableBeforeFrozen(t *testing.T) {
	dev, _ := ext4(t, scratch(t), "disk", "64M")
	m := newMember(t, dev)
	cfg := Config{FreezeBudget: 50 * time.Millisecond}
	for i := range block.Index(m.marks.n) {
		m.marks.mark(i)
	}
	if err := m.readable(cfg); !errors.Is(err, errOutpaced) || !strings.Contains(fmt.Sprint(err), "64 MiB are still to be sent, and a freeze may read 16 MiB") {
		t.Errorf("more than fits: %v", err)
	}
	m.disk.residue.arena.close()
	var err error
	if m.disk.residue, err = newResidue(64 * block.MiB); err != nil {
		t.Fatal(err)
	}
	m.disk.pump.rate.add([]block.Read{{Buf: make([]byte, block.MiB)}}, 3*30*time.Millisecond) // 30 ms a MiB by three readers
	if err := m.readable(cfg); !errors.Is(err, errOutpaced) || !strings.Contains(fmt.Sprint(err), "1.92s to read; it may take 50ms") {
		t.Errorf("more than is read in time: %v", err)
	}
	m.disk.pump.rate = readRate{kinds: [2]tally{{block.MiB, time.Hour}, {64 * block.MiB, 3 * 40 * time.Millisecond}}}
	if err := m.readable(cfg); err != nil {
		t.Errorf("read in time: %v", err)
	}
}

// TestACutThatOverranGivesNothing: what it read goes back into the dirty set, nothing stays frozen, and the reason names the
// setting.
func TestACutThatOverranGivesNothing(t *testing.T) {
	dev, _ := ext4(t, scratch(t), "disk", "64M")
	m := newMember(t, dev)
	for i := range block.Index(100) {
		m.marks.mark(i)
	}
	f := &freezer{guard: startGuard(t), limit: time.Microsecond}
	c := startCutter(f, 1)
	defer c.stop()
	mount := mountOf(t, dev)
	if err := f.prepare([]Mount{mount}); err != nil {
		t.Fatal(err)
	}
	err := c.cut([]*upload{m.upload})
	if !errors.Is(err, errLate) {
		t.Fatalf("a freeze of more than a microsecond: %v", err)
	}
	f.limit = time.Minute // and one that is late while it reads
	f.release()
	if err := f.prepare([]Mount{mount}); err != nil {
		t.Fatal(err)
	}
	if err := f.freeze(); err != nil {
		t.Fatal(err)
	}
	f.limit = time.Microsecond
	c.members = []*upload{m.upload}
	if err := errors.Join(c.readAll(), f.thaw()); !errors.Is(err, errLate) {
		t.Errorf("late while it reads: %v", err)
	}
	f.release()
	g := &group{freezer: f, cfg: Config{FreezeBudget: 50 * time.Millisecond}}
	if text := g.explain(err).Error(); !strings.Contains(text, "raise freeze_budget (it is 50ms)") || !strings.Contains(text, "no recovery point") {
		t.Errorf("it says %q", text)
	}
	if err := m.settle(false); err != nil || m.left() != 100*4096 {
		t.Errorf("%v are to be sent again, %v", m.left(), err)
	}
	if !writable(t, mount, 10*time.Second) {
		t.Error("still frozen")
	}
}
