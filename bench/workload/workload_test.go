package workload

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/bench/testbed"
)

// TestMain lets the test binary be the workload's process.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == Command {
		if err := Main(context.Background(), os.Args[1:], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

type world struct {
	bed    *testbed.Bed
	loop   *testbed.Loop
	mount  *testbed.Mount
	ledger *Ledger
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if err := testbed.Need("sqlite3", "mkfs.ext4", "losetup"); err != nil {
		t.Fatal(err)
	}
	b, err := testbed.New("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{bed: b, ledger: &Ledger{}}
	if w.loop, err = b.Loop(t.Context(), "disk", 300<<20); err != nil {
		t.Fatal(err)
	}
	if err := testbed.Mkfs(t.Context(), w.loop.Device, "ext4"); err != nil {
		t.Fatal(err)
	}
	if w.mount, err = b.Mount(w.loop.Device, "mnt", "ext4"); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) start(t *testing.T, o Options) *testbed.Process {
	t.Helper()
	o.Root = w.mount.Dir
	var p *testbed.Process
	err := o.Start(func(stdout *os.File, argv ...string) (err error) {
		p, err = w.bed.Start("workload", stdout, argv...)
		return err
	}, w.ledger)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// busy runs a workload until it has done something of each kind.
func (w *world) busy(t *testing.T, rows, files int) *testbed.Process {
	t.Helper()
	fill := w.start(t, Options{Fill: 20 << 20, Seed: 1})
	<-fill.Done()
	if fill.Err() != nil {
		t.Fatalf("fill: %v: %s", fill.Err(), fill.Log())
	}
	p := w.start(t, Options{Pause: time.Millisecond, Seed: 1})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if c := w.ledger.Counts(); c.Rows >= rows && c.Files >= files {
			return p
		}
		select {
		case <-p.Done():
			t.Fatalf("workload ended: %v: %s", p.Err(), p.Log())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("workload did only %+v", w.ledger.Counts())
		}
	}
}

// TestKilledWorkload kills the workload: what it was told is durable is there.
func TestKilledWorkload(t *testing.T) {
	w := newWorld(t)
	p := w.busy(t, 200, 300)
	p.KillGroup()
	if err := w.ledger.Wait(); err != nil {
		t.Fatal(err)
	}
	at := time.Now()
	report, err := w.ledger.Verify(t.Context(), w.mount.Dir, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(report)
	if report.Rows < 200 || report.Files < 100 || report.Records < 30 || report.Bytes < 20<<20 {
		t.Errorf("checked too little: %+v", report)
	}
	// A point before all of it asks for nothing.
	report, err = w.ledger.Verify(t.Context(), w.mount.Dir, time.Unix(1, 0))
	if err != nil || report.Rows != 0 || report.Files != 0 || report.Later == 0 {
		t.Errorf("verified for a time before: %v, %+v", err, report)
	}
	w.damage(t, at)
}

// damage breaks the disk in one way after another: Verify must see each.
func (w *world) damage(t *testing.T, at time.Time) {
	root := w.mount.Dir
	some := func(want func(ops []operation) bool) string {
		keys, _ := w.ledger.snapshot()
		for k, ops := range keys {
			if k.kind == kindFile && strings.HasPrefix(k.slot, "files/") && want(ops) {
				return filepath.Join(root, k.slot)
			}
		}
		t.Fatal("no such file")
		return ""
	}
	there := func(ops []operation) bool { o := ops[len(ops)-1]; return o.seq != 0 && o.before(at) }
	twice := func(ops []operation) bool {
		return len(ops) > 1 && there(ops) && ops[len(ops)-2].seq != 0
	}
	deleted := func(ops []operation) bool { o := ops[len(ops)-1]; return o.seq == 0 && o.before(at) }
	stale := some(twice)
	var old uint64
	keys, rows := w.ledger.snapshot()
	for k, ops := range keys {
		if filepath.Join(root, k.slot) == stale {
			old = ops[len(ops)-2].seq
		}
	}
	record := func(b []byte) { copy(b[1<<20:], Content(99, recordSize)) }
	for _, row := range []struct {
		name, path, want string
		change           func(b []byte) []byte // nil: remove
	}{
		{"flipped bit", some(there), "is damaged: number", func(b []byte) []byte { b[len(b)-1] ^= 1; return b }},
		{"cut", some(there), "is damaged", func(b []byte) []byte { return b[:len(b)-1] }},
		{"zeroed", some(there), "is damaged: header", func(b []byte) []byte { return make([]byte, len(b)) }},
		{"missing", some(there), "is missing", nil},
		{"older content", stale, "acknowledged was", func([]byte) []byte { return Content(old, 5000) }},
		{"deleted file is back", some(deleted), "acknowledged was 0", func([]byte) []byte { return Content(7, 5000) }},
		{"stranger", filepath.Join(root, "files/00/zzz"), "nobody wrote it", func([]byte) []byte { return Content(7, 5000) }},
		{"initial data", filepath.Join(root, "base/0002"), "is damaged", func(b []byte) []byte { b[1<<20]++; return b }},
		{"torn record", filepath.Join(root, "records"), "is damaged", tear},
		{"wrong record", filepath.Join(root, "records"), "holds number 99", func(b []byte) []byte { record(b); return b }},
		{"unsynced file", someScratch(t, root), "no beginning", func(b []byte) []byte { b[len(b)-1]++; return b }},
		{"database gone", filepath.Join(root, databaseName), "database", nil},
		{"database page lost", filepath.Join(root, databaseName), "database", func(b []byte) []byte { clear(b[len(b)/2/4096*4096:][:4096]); return b }},
		{"row lost", filepath.Join(root, databaseName), "an earlier transaction is missing", sqlite(t, root, "DELETE FROM work WHERE n=50;")},
		{"row changed", filepath.Join(root, databaseName), "not its own", sqlite(t, root, "UPDATE work SET payload='x' WHERE n=50;")},
		{"last row lost", filepath.Join(root, databaseName), "was acknowledged", sqlite(t, root, fmt.Sprintf("DELETE FROM work WHERE n>=%d;", len(rows)-1))},
		{"row too many", filepath.Join(root, databaseName), "the last begun", sqlite(t, root, fmt.Sprintf("INSERT OR IGNORE INTO work VALUES (%d,'%s');INSERT INTO work VALUES (%d,'%s');", len(rows), rowPayload(uint64(len(rows))), len(rows)+1, rowPayload(uint64(len(rows)+1))))},
	} {
		t.Run(row.name, func(t *testing.T) { breakFile(t, w, at, row.path, row.change, row.want) })
	}
	if _, err := w.ledger.Verify(t.Context(), root, at); err != nil {
		t.Errorf("after everything was put back: %v", err)
	}
}

// breakFile changes one file, sees Verify find it, and puts it back. A change that returns nil has changed the file itself.
func breakFile(t *testing.T, w *world, at time.Time, path string, change func([]byte) []byte, want string) {
	before, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	existed := err == nil
	if change == nil {
		err = os.Remove(path)
	} else if after := change(bytes.Clone(before)); after != nil {
		err = os.WriteFile(path, after, 0o600)
	} else {
		err = nil
	}
	if err != nil {
		t.Fatal(err)
	}
	_, got := w.ledger.Verify(t.Context(), w.mount.Dir, at)
	if got == nil || !strings.Contains(got.Error(), want) {
		t.Errorf("Verify says %v, want: …%s…", got, want)
	}
	if existed {
		err = os.WriteFile(path, before, 0o600)
	} else {
		err = os.Remove(path)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// tear clears the second half of the first record that was written.
func tear(b []byte) []byte {
	for off := 0; ; off += recordSize {
		if b[off] != 0 {
			clear(b[off+recordSize/2:][:recordSize/2])
			return b
		}
	}
}

func someScratch(t *testing.T, root string) string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(root, "scratch", "*"))
	if err != nil || len(all) == 0 {
		t.Fatalf("no unsynced file: %v", err)
	}
	return all[0]
}

// sqlite changes the database by a statement. Verify has replayed its log before, so the file is all of it.
func sqlite(t *testing.T, root, sql string) func([]byte) []byte {
	return func([]byte) []byte {
		if _, err := testbed.Output(t.Context(), "sqlite3", filepath.Join(root, databaseName), sql); err != nil {
			t.Fatal(err)
		}
		return nil
	}
}

// TestFrozenCopies copies the disk while it is frozen under the running workload: each copy holds what its time promises.
func TestFrozenCopies(t *testing.T) {
	w := newWorld(t)
	p := w.busy(t, 50, 50)
	for i := range 4 {
		at := time.Now()
		if _, err := testbed.Output(t.Context(), "fsfreeze", "--freeze", w.mount.Dir); err != nil {
			t.Fatal(err)
		}
		image := w.bed.Path(fmt.Sprint("copy", i))
		_, err := testbed.Output(t.Context(), "cp", "--sparse=always", w.loop.File, image)
		if _, thaw := testbed.Output(t.Context(), "fsfreeze", "--unfreeze", w.mount.Dir); thaw != nil || err != nil {
			t.Fatal(thaw, err)
		}
		if out, err := testbed.Fsck(t.Context(), image); err != nil {
			t.Errorf("copy %d: %v\n%s", i, err, out)
		}
		loop, err := w.bed.Attach(t.Context(), image)
		if err != nil {
			t.Fatal(err)
		}
		m, err := w.bed.Mount(loop.Device, fmt.Sprint("mnt", i), "ext4")
		if err != nil {
			t.Fatal(err)
		}
		report, err := w.ledger.Verify(t.Context(), m.Dir, at)
		if err != nil {
			t.Error(err)
		}
		t.Log(report)
		// The copy does not hold what was acknowledged after it: the ledger can tell an old copy from a new one.
		time.Sleep(500 * time.Millisecond)
		if _, err := w.ledger.Verify(t.Context(), m.Dir, time.Now()); err == nil {
			t.Error("an old copy passes for a new one")
		}
	}
	p.KillGroup()
	if err := w.ledger.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestWorkloadReportsFailure(t *testing.T) {
	w := newWorld(t)
	p := w.start(t, Options{Fill: 1 << 40, Seed: 1})
	<-p.Done()
	if p.Err() == nil || !strings.Contains(p.Log(), "no space left") {
		t.Errorf("a full disk: %v: %s", p.Err(), p.Log())
	}
	if err := w.ledger.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestLedgerRefusesNonsense(t *testing.T) {
	for _, row := range []struct{ name, text, want string }{
		{"ack of nothing", `{"op":3,"acked":5}`, "did not begin"},
		{"row left out", `{"op":1,"kind":"row","seq":2}`, "after row 0"},
		{"no event", `hello`, "read events"},
	} {
		if err := new(Ledger).read(strings.NewReader(row.text)); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v", row.name, err)
		}
	}
	if err := new(Ledger).read(strings.NewReader(`{"op":1,"kind":"file","slot":"a","seq":2}` + "\n" + `{"op":1,"ack`)); err != nil {
		t.Errorf("a line that was cut off: %v", err)
	}
}
