package ebpf

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/understudy-dr/understudy/internal/block"
)

func wantAudit(t *testing.T, tr *Tracker, reason string) {
	t.Helper()
	a, err := tr.Audit()
	if err != nil {
		t.Fatal(err)
	}
	if a.Missed != (reason != "") || !strings.Contains(a.Reason, reason) {
		t.Errorf("audit says %+v, want %q", a, reason)
	}
}

// TestTheAuditFindsWhatWasNotSeen takes the programs away one by one: as long as one has seen everything all is well, and a
// single write that none saw is found. Then writes in flight are kept in a table.
func TestTheAuditFindsWhatWasNotSeen(t *testing.T) {
	d := newDisk(t, 16<<20)
	opt := Options{Device: d.path, Disk: block.DiskID{6}, PinRoot: pinRoot(t)}
	tr := attach(t, d.path, opt)
	wantAudit(t, tr, "")
	d.write(0, 4096, 1)
	d.zeroOut(1<<20, 1<<20)
	d.discard(2<<20, 1<<20)
	wantAudit(t, tr, "")
	for i := range copies {
		detach(t, tr, tr.set.links[i], donePin(i))
		take(t, tr)
		d.write(int64(i)*4096, 4096, 2)
		if i < copies-1 {
			wantMarks(t, tr, run(i, 1))
			wantAudit(t, tr, "")
		}
	}
	wantMarks(t, tr)
	wantAudit(t, tr, "4 KiB did not show in its completions")
	if s := tr.Status(); !strings.Contains(s.Detail, "kept in a table") {
		t.Errorf("after a miss: %s", s.Detail)
	}
	d.write(9*4096, 4096, 3)
	d.read(9*4096, 4096)
	wantMarks(t, tr, run(9, 1)) // by the table, alone
	tr.set.links = tr.set.links[copies:]
}

// TestWritesDoNotHideAMiss: at the audit a write completes between the reading of the statistics and that of the counters. A miss of
// its size is found all the same, since a Take came before, when the disk was quiet.
func TestWritesDoNotHideAMiss(t *testing.T) {
	d := newDisk(t, 16<<20)
	tr := attach(t, d.path, Options{Device: d.path, Disk: block.DiskID{8}, PinRoot: pinRoot(t), Flights: FlightsOff})
	take(t, tr)
	wantAudit(t, tr, "")
	for i := range copies {
		detach(t, tr, tr.set.links[i], donePin(i))
	}
	tr.set.links = tr.set.links[copies:]
	d.write(0, 4096, 1)
	take(t, tr) // as in a freeze
	for c := range copies {
		tr.set.mem.words[tr.set.mem.counter(c, counterSectors)] += 8
	}
	wantAudit(t, tr, "4 KiB did not show in its completions")
}

// TestAuditBesideTakes runs both at once on a busy disk: nothing is missed, and nothing said to be.
func TestAuditBesideTakes(t *testing.T) {
	d := newDisk(t, 16<<20)
	tr := attach(t, d.path, Options{Device: d.path, Disk: block.DiskID{9}, PinRoot: pinRoot(t), Flights: FlightsOn})
	var work sync.WaitGroup
	for i := range 2 {
		work.Go(func() { hammer(d, uint64(i), 2000) })
	}
	done := make(chan struct{})
	go func() {
		work.Wait()
		close(done)
	}()
	var takes sync.WaitGroup
	takes.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				_ = tr.Take(func(int, uint64) {})
			}
		}
	})
	for going := true; going; {
		select {
		case <-done:
			going = false
		default:
			wantAudit(t, tr, "")
		}
	}
	takes.Wait()
}

// TestCopiesThatMissInTurn: each audit interval needs one copy that saw everything in it, not one that saw everything ever.
func TestCopiesThatMissInTurn(t *testing.T) {
	base := offsets{100, 100, 100}
	for _, row := range []struct {
		now   offsets
		short int64
	}{
		{offsets{92, 100, 100}, 0},
		{offsets{92, 92, 108}, 0}, // the third is ahead: a request completed between the two readings
		{offsets{92, 84, 92}, 0},  // the first is held to what it had, and has it
		{offsets{84, 76, 76}, 8},  // now each has missed something, the first the least
	} {
		if got := row.now.short(base); got != row.short {
			t.Errorf("%v against %v: short by %d, want %d", row.now, base, got, row.short)
		}
		base.lower(row.now)
	}
}

// TestAMissIsToldUntilItIsNoted: an agent that is killed between the audit and its note leaves the miss for the next one.
func TestAMissIsToldUntilItIsNoted(t *testing.T) {
	d := newDisk(t, 16<<20)
	opt := Options{Device: d.path, Disk: block.DiskID{7}, PinRoot: pinRoot(t), Flights: FlightsOff}
	tr := attach(t, d.path, opt)
	tr.set.mem.words[tr.set.mem.counter(1, counterDriver)]++
	wantAudit(t, tr, "pass-through")
	tr = reattach(t, tr, opt)
	wantAudit(t, tr, "an earlier agent found")
	wantAudit(t, tr, "")
	tr.set.mem.words[tr.set.mem.counter(0, counterOverflow)]++
	wantAudit(t, tr, "too large to mark")
	wantAudit(t, tr, "")
}

// TestPassThroughIsCounted uses the one pass-through request that a virtual disk sends by itself: the question for its serial
// number. It changes nothing, but nobody can tell from outside.
func TestPassThroughIsCounted(t *testing.T) {
	serials, _ := filepath.Glob("/sys/block/vd*/serial")
	if len(serials) == 0 {
		t.Log("no virtio disk here: only the audit of the counter is tested")
		return
	}
	dev := "/dev/" + filepath.Base(filepath.Dir(serials[0]))
	tr := attach(t, dev, Options{})
	if _, err := os.ReadFile(serials[0]); err != nil {
		t.Fatal(err)
	}
	wantAudit(t, tr, "pass-through")
}

// TestAnotherDiskIsNotBelieved: the device was given to another file while the agent ran.
func TestAnotherDiskIsNotBelieved(t *testing.T) {
	d := newDisk(t, 16<<20)
	tr := attach(t, d.path, Options{})
	tr.set.head.Seq++
	wantAudit(t, tr, "another one now")
}
