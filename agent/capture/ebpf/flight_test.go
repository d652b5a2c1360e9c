package ebpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/bench/testbed"
	"github.com/understudy-dr/understudy/internal/block"
)

// blind takes the programs at completion away, as a kernel would that tells of none.
func blind(t *testing.T, tr *Tracker) {
	t.Helper()
	for i, l := range tr.set.links[:copies] {
		detach(t, tr, l, donePin(i))
	}
	tr.set.links = tr.set.links[copies:]
}

// TestLiveCopyWithoutAnyCompletion: the table alone finds every write of a busy disk, and counts each just once.
func TestLiveCopyWithoutAnyCompletion(t *testing.T) {
	d := newDisk(t, 64<<20)
	file := "/sys/block/" + filepath.Base(d.path) + "/queue/scheduler"
	_, was, _ := strings.Cut(text(file), "[")
	was, _, _ = strings.Cut(was, "]")
	t.Cleanup(func() { // it stays with the device, for whoever gets that next
		if err := os.WriteFile(file, []byte(was), 0); err != nil {
			t.Error(err)
		}
	})
	for _, scheduler := range strings.Fields(strings.NewReplacer("[", "", "]", "").Replace(text(file))) {
		t.Run(scheduler, func(t *testing.T) {
			if err := os.WriteFile(file, []byte(scheduler), 0); err != nil {
				t.Fatal(err)
			}
			c := newCopier(t, d, FlightsOn)
			stat, err := c.tr.stats.written()
			if err != nil {
				t.Fatal(err)
			}
			blind(t, c.tr)
			var work []func()
			for i := range 8 {
				work = append(work, func() { hammer(d, uint64(i), 2000) })
			}
			c.while(t, work...)
			c.check(t)
			wantAudit(t, c.tr, "")
			now, err := c.tr.stats.written()
			if err != nil {
				t.Fatal(err)
			}
			if found := c.tr.set.mem.load(flightCopy, counterFound); found != now-stat {
				t.Errorf("found %d sectors of %d", found, now-stat)
			}
		})
	}
}

// TestWhatIsSeenIsNotFound: a write counts once, by its completion where that is seen, by the table where not.
func TestWhatIsSeenIsNotFound(t *testing.T) {
	d := newDisk(t, 64<<20)
	tr := attach(t, d.path, Options{Flights: FlightsOn})
	before, err := tr.stats.written()
	if err != nil {
		t.Fatal(err)
	}
	hammer(d, 1, 2000)
	take(t, tr) // settles
	now, err := tr.stats.written()
	if err != nil {
		t.Fatal(err)
	}
	seen, found := tr.set.mem.load(0, counterSectors), tr.set.mem.load(flightCopy, counterFound)
	if seen+found != now-before || seen < (now-before)/2 {
		t.Errorf("saw %d sectors and found %d of %d", seen, found, now-before)
	}
	if !tr.set.mem.still(nil) {
		t.Error("the table is not empty")
	}
}

// TestLiveCopyWithSyncs is the load under which one kernel was seen to withhold completions.
func TestLiveCopyWithSyncs(t *testing.T) {
	d := newDisk(t, 320<<20)
	if err := testbed.Mkfs(t.Context(), d.path, "ext4"); err != nil {
		t.Fatal(err)
	}
	m, err := d.bed.Mount(d.path, "mnt", "ext4")
	if err != nil {
		t.Fatal(err)
	}
	c := newCopier(t, d, FlightsOn)
	var failed [2]error
	c.while(t, func() { failed[0] = syncing(m.Dir, 1) }, func() { failed[1] = syncing(m.Dir, 2) })
	if err := errors.Join(failed[:]...); err != nil {
		t.Fatal(err)
	}
	if err := m.Unmount(); err != nil {
		t.Fatal(err)
	}
	c.pass(t)
	wantAudit(t, c.tr, "")
	c.check(t)
	t.Logf("%d sectors were found in the table", c.tr.set.mem.load(flightCopy, counterFound))
}

// syncing writes blocks at random places of a file, and syncs after every fourth.
func syncing(dir string, seed uint64) error {
	const blocks = 64 << 20 / 4096
	f, err := os.Create(filepath.Join(dir, fmt.Sprint(seed)))
	if err != nil {
		return err
	}
	defer f.Close()
	rng := rand.New(rand.NewPCG(seed, 17))
	data := make([]byte, 4096)
	for i := range 12000 {
		binary.LittleEndian.PutUint64(data[i%512*8:], rng.Uint64())
		if _, err = f.WriteAt(data, rng.Int64N(blocks)*4096); err == nil && i%4 == 3 {
			err = f.Sync()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// held is a disk whose writes do not land before thaw: the file under it is on a file system that is frozen.
func held(t *testing.T) (d *disk, freeze, thaw func()) {
	t.Helper()
	lower := newDisk(t, 256<<20)
	if err := testbed.Mkfs(t.Context(), lower.path, "ext4"); err != nil {
		t.Fatal(err)
	}
	m, err := lower.bed.Mount(lower.path, "lower", "ext4")
	if err != nil {
		t.Fatal(err)
	}
	d = newDiskIn(t, lower.bed, "lower/disk", 16<<20)
	frozen := false
	t.Cleanup(func() {
		if frozen {
			tool(t, "fsfreeze", "--unfreeze", m.Dir)
		}
	})
	return d, func() { tool(t, "fsfreeze", "--freeze", m.Dir); frozen = true },
		func() { tool(t, "fsfreeze", "--unfreeze", m.Dir); frozen = false }
}

// begin starts to write a block that does not land yet, and returns how to wait for it.
func (d *disk) begin(tr *Tracker, i int) (wait func()) {
	d.t.Helper()
	done, buf := make(chan error, 1), aligned(4096)
	go func() {
		_, err := unix.Pwrite(d.fd, buf, int64(i)*4096)
		done <- err
	}()
	until(d.t, "write under way", func() bool {
		return strings.Fields(text(tr.dev.dir, "inflight"))[1] != "0"
	})
	return func() {
		d.t.Helper()
		if err := <-done; err != nil {
			d.t.Error(err)
		}
	}
}

// TestAWriteIsHandedOverUntilItHasLanded: nobody sees it complete.
func TestAWriteIsHandedOverUntilItHasLanded(t *testing.T) {
	d, freeze, thaw := held(t)
	tr := attach(t, d.path, Options{Flights: FlightsOn})
	blind(t, tr)
	freeze()
	wait := d.begin(tr, 7)
	wantMarks(t, tr, run(7, 1))
	wantMarks(t, tr, run(7, 1))
	thaw()
	wait()
	wantMarks(t, tr, run(7, 1))
	wantMarks(t, tr)
	wantAudit(t, tr, "")
}

// enter puts a write of one block into the table that the kernel knows nothing of.
func enter(tr *Tracker, first, sectors uint64) {
	m := tr.set.mem
	at := m.flights + (m.entries-1)*entryWords
	copy(m.words[at:], []uint64{1, first, sectors, sectors})
}

// TestOnlyWhatHasLandedIsSettled: what the statistics do not account for stays in the table, and so does all of it while a
// write is under way, even if the numbers are right.
func TestOnlyWhatHasLandedIsSettled(t *testing.T) {
	d, freeze, thaw := held(t)
	tr := attach(t, d.path, Options{Flights: FlightsOn})
	enter(tr, 3*8, 8)
	wantMarks(t, tr, run(3, 1))
	wantMarks(t, tr, run(3, 1))
	freeze()
	wait := d.begin(tr, 7)
	tr.set.head.Baseline.add(16) // two writes of eight sectors have landed, says the statistics
	wantMarks(t, tr, run(3, 1), run(7, 1))
	wantMarks(t, tr, run(3, 1), run(7, 1))
	thaw()
	wait()
	tr.set.head.Baseline.add(-8)
	wantMarks(t, tr, run(3, 1), run(7, 1))
	wantMarks(t, tr)
	wantAudit(t, tr, "")
}

// TestTheAuditWaitsForWhatIsInTheTable: what nobody saw complete counts as missing only if it stays so.
func TestTheAuditWaitsForWhatIsInTheTable(t *testing.T) {
	d, freeze, thaw := held(t)
	tr := attach(t, d.path, Options{Flights: FlightsOn})
	blind(t, tr)
	d.write(3*4096, 4096, 1)
	freeze()
	wait := d.begin(tr, 7)
	audit := make(chan string)
	go func() {
		a, err := tr.Audit()
		audit <- fmt.Sprint(a.Reason, err)
	}()
	time.Sleep(flightsPatience / 5) // so that the audit waits; if it has not begun by now, it has less to wait for
	thaw()
	if got := <-audit; got != "<nil>" {
		t.Errorf("the audit says %q", got)
	}
	wait()
	wantMarks(t, tr, run(3, 1), run(7, 1))
}

// TestWhatWasNeverIssuedIsStillMissed: a write of which neither end was seen is no write that the table excuses.
func TestWhatWasNeverIssuedIsStillMissed(t *testing.T) {
	d := newDisk(t, 16<<20)
	tr := attach(t, d.path, Options{Flights: FlightsOn})
	for i, pin := range append([]string{donePin(0), donePin(1), donePin(2)}, requeuePin, issuePin) {
		detach(t, tr, tr.set.links[i], pin)
	}
	tr.set.links = nil
	d.write(4096, 4096, 1)
	wantMarks(t, tr)
	wantAudit(t, tr, "4 KiB did not show in its completions")
	wantAudit(t, tr, "")
	enter(tr, 0, 8) // something is in flight for long
	d.write(4096, 8192, 1)
	wantAudit(t, tr, "8 KiB did not show in its completions")
}

// TestAFlightIsCutToTheTrackedPart marks entries as the programs would.
func TestAFlightIsCutToTheTrackedPart(t *testing.T) {
	d := newDisk(t, 16<<20)
	tool(t, "addpart", d.path, "1", "2049", "8192")
	t.Cleanup(func() { tool(t, "delpart", d.path, "1") })
	tr := attach(t, d.path+"p1", Options{Flights: FlightsOn})
	for _, row := range []struct {
		first, sectors uint64
		want           []block.Run
	}{
		{2049 - 8, 8, nil},
		{2049 - 8, 9, []block.Run{run(0, 1)}},
		{2049 + 8*60, 8 * 200, []block.Run{run(60, 200)}},
		{2049 + 8191, 100, []block.Run{run(1023, 1)}},
		{2049 + 8192, 8, nil},
		{0, 32768, []block.Run{run(0, 1024)}},
	} {
		tr.set.markFlight(flight{first: row.first, sectors: row.sectors})
		t.Run(fmt.Sprint(row.first), func(t *testing.T) { wantMarks(t, tr, row.want...) })
	}
}

// TestASetOfAnOlderAgentIsTakenOver: one without a table, whose header ends before it.
func TestASetOfAnOlderAgentIsTakenOver(t *testing.T) {
	for _, queue := range []uint32{0, 1} {
		t.Run(fmt.Sprint(queue), func(t *testing.T) {
			d := newDisk(t, 16<<20)
			opt := Options{Device: d.path, Disk: block.DiskID{8}, PinRoot: pinRoot(t)}
			old := olderSet(t, opt, queue)
			d.write(5*4096, 4096, 1)
			copy(old.mem.note(), "note")
			old.mem.pendingWords()[0] = 1 << 9
			if err := old.close(); err != nil {
				t.Fatal(err)
			}
			tr := attach(t, d.path, opt)
			keep := tr.Keep()
			if !keep.Resumed || string(keep.Note[:4]) != "note" || keep.Pending[0] != 1<<5|1<<9 {
				t.Errorf("resumed: %v, note %q, pending %b", keep.Resumed, keep.Note[:4], keep.Pending[0])
			}
			if h := tr.set.head; h.Flights != queue || h.Table.entries() < 128 || !tr.set.whole() {
				t.Errorf("the new set's header is %+v", h)
			}
			d.write(6*4096, 4096, 1)
			wantMarks(t, tr, run(6, 1))
			wantAudit(t, tr, "")
			if left, _ := filepath.Glob(filepath.Join(tr.dir, "*")); len(left) != 1 {
				t.Errorf("pinned are %v", left)
			}
		})
	}
}

// olderSet makes a set with a header of version 1. Its queue mark, if any, is a further copy here: only the pin counts.
func olderSet(t *testing.T, opt Options, queue uint32) *pinned {
	t.Helper()
	dev, err := lookAt(opt.Device)
	if err == nil {
		err = mountBPF(opt.PinRoot)
	}
	if err != nil {
		t.Fatal(err)
	}
	h := dev.identity(4096)
	h.Table = table{}
	p, err := newSet(filepath.Join(opt.PinRoot, opt.Disk.String()), 0, h)
	if err != nil {
		t.Fatal(err)
	}
	if queue == 1 {
		target, err := p.target(flightCopy)
		if err == nil {
			err = p.attach(target.completion(), queuePin)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	p.head.Flights, p.head.Ready = queue, 1
	for range 2 {
		p.mem.store(p.head)
	}
	for slot := range 2 {
		b := p.mem.raw[slot*2048:]
		size := headerSize(1)
		binary.LittleEndian.PutUint32(b[8:], 1)
		binary.LittleEndian.PutUint32(b[size:], crc32.Checksum(b[:size], block.Castagnoli))
	}
	return p
}

// TestStatisticsAreRead holds the numbers against what was written.
func TestStatisticsAreRead(t *testing.T) {
	d := newDisk(t, 16<<20)
	dev, err := lookAt(d.path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := openStatistics(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	before, err := s.written()
	if err != nil {
		t.Fatal(err)
	}
	d.write(0, 12288, 1)
	d.discard(1<<20, 4096)
	d.read(0, 4096)
	if now, err := s.written(); err != nil || now-before != 32 {
		t.Errorf("%d sectors were written, want 32; %v", now-before, err)
	}
	if !s.idle() {
		t.Error("an idle disk is busy")
	}
	if _, err := s.read(s.inflight, 14); err == nil {
		t.Error("two numbers passed for fourteen")
	}
}
