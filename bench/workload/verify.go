package workload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Report says what Verify checked. Everything in it was found as it must be.
type Report struct {
	Rows      int   `json:"rows"`       // transactions acknowledged before the point: all there, byte for byte
	LaterRows int   `json:"later_rows"` // transactions that are there though they were not acknowledged by then: whole
	Files     int   `json:"files"`      // synced files (or their deletions) acknowledged before the point
	Later     int   `json:"later"`      // files and records that hold a later operation's content: whole
	Records   int   `json:"records"`    // records overwritten in place and acknowledged before the point
	Unsynced  int   `json:"unsynced"`   // files nobody synced: a beginning of what was written
	Bytes     int64 `json:"bytes"`      // compared, in files and records
}

// String is the report in one line.
func (r Report) String() string {
	return fmt.Sprintf("%d transactions (and %d later), %d synced files, %d records (%d with a later content), %d unsynced files, %.1f MiB compared byte by byte",
		r.Rows, r.LaterRows, r.Files, r.Records, r.Later, r.Unsynced, float64(r.Bytes)/(1<<20))
}

// maxTrouble is how many differences an error names.
const maxTrouble = 8

// Verify holds the file system at root, a copy as of time at, against the ledger: whatever was acknowledged before at is
// there and intact, whatever was begun and not acknowledged by then is there whole or not at all, and nothing else is there.
// Root must be writable: the database replays its log. The workload may go on meanwhile, on its own disk.
func (l *Ledger) Verify(ctx context.Context, root string, at time.Time) (Report, error) {
	v := &verification{root: root, at: at, known: map[string]bool{}}
	keys, rows := l.snapshot()
	for _, k := range slices.SortedFunc(mapKeys(keys), func(a, b key) int {
		return strings.Compare(string(a.kind)+a.slot, string(b.kind)+b.slot)
	}) {
		if err := ctx.Err(); err != nil {
			return v.report, err
		}
		v.key(k, keys[k])
	}
	v.strangers()
	v.unsynced()
	v.rows(ctx, rows)
	v.records(keys)
	if len(v.trouble) == 0 {
		return v.report, nil
	}
	more := ""
	if n := len(v.trouble) - maxTrouble; n > 0 {
		more = fmt.Sprintf("\n… and %d more", n)
		v.trouble = v.trouble[:maxTrouble]
	}
	return v.report, fmt.Errorf("the copy differs from what was acknowledged before %s:\n%w%s", at.Format(time.RFC3339Nano), errors.Join(v.trouble...), more)
}

func mapKeys(m map[key][]operation) func(func(key) bool) {
	return func(yield func(key) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// snapshot copies the ledger.
func (l *Ledger) snapshot() (map[key][]operation, []operation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	copied := func(from []*operation) []operation {
		to := make([]operation, len(from))
		for i, o := range from {
			to[i] = *o
		}
		return to
	}
	keys := make(map[key][]operation, len(l.keys))
	for k, ops := range l.keys {
		keys[k] = copied(ops)
	}
	return keys, copied(l.rows)
}

type verification struct {
	root    string
	at      time.Time
	report  Report
	known   map[string]bool // files that some operation made
	trouble []error
}

func (v *verification) fail(format string, args ...any) {
	v.trouble = append(v.trouble, fmt.Errorf(format, args...))
}

func (o operation) before(at time.Time) bool { return !o.acked.IsZero() && o.acked.Before(at) }

// allowed are the contents that may be there: that of the newest operation acknowledged before the point, and those of all
// that were begun after that one. Operations on one slot never overlap. acked tells whether there is such a newest one.
func (v *verification) allowed(ops []operation) (seqs []uint64, acked bool) {
	seqs = []uint64{0}
	for _, o := range ops {
		if o.before(v.at) {
			seqs, acked = seqs[:0], true
		}
		seqs = append(seqs, o.seq)
	}
	return seqs, acked
}

func (v *verification) key(k key, ops []operation) {
	if k.kind != kindFile {
		return
	}
	v.known[k.slot] = true
	allowed, acked := v.allowed(ops)
	if acked {
		v.report.Files++
	}
	b, err := os.ReadFile(filepath.Join(v.root, k.slot))
	if errors.Is(err, fs.ErrNotExist) {
		v.judge("file "+k.slot, 0, nil, allowed)
		return
	}
	if err != nil {
		v.fail("read file %s: %w", k.slot, err)
		return
	}
	v.report.Bytes += int64(len(b))
	seq, err := check(b)
	v.judge("file "+k.slot, seq, err, allowed)
}

// judge takes what was found in one place: content seq (0: nothing), and why it is not whole.
func (v *verification) judge(what string, seq uint64, damage error, allowed []uint64) {
	switch i := slices.Index(allowed, seq); {
	case damage != nil:
		v.fail("%s is damaged: %w", what, damage)
	case i < 0 && seq == 0:
		v.fail("%s is missing: number %d was acknowledged", what, allowed[0])
	case i < 0:
		v.fail("%s holds number %d; acknowledged was %d", what, seq, allowed[0])
	case i > 0:
		v.report.Later++
	}
}

// strangers finds files that no operation made.
func (v *verification) strangers() {
	for _, dir := range []string{"base", "files"} {
		err := filepath.WalkDir(filepath.Join(v.root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			slot, _ := filepath.Rel(v.root, path)
			// A put that was cut off leaves its new file.
			if !d.IsDir() && !v.known[strings.TrimSuffix(slot, ".new")] {
				v.fail("file %s is there, and nobody wrote it", slot)
			}
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			v.fail("list files: %w", err)
		}
	}
}

// unsynced holds that a file which nobody synced is a beginning of what was written.
func (v *verification) unsynced() {
	entries, err := os.ReadDir(filepath.Join(v.root, "scratch"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		v.fail("list files: %w", err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(v.root, "scratch", e.Name()))
		if err != nil {
			v.fail("read unsynced file: %w", err)
			continue
		}
		v.report.Unsynced++
		v.report.Bytes += int64(len(b))
		if len(b) == 0 {
			continue
		}
		seq, size, err := readHeader(b)
		if err != nil || size < len(b) || !bytes.Equal(b, Content(seq, size)[:len(b)]) {
			v.fail("unsynced file %s is no beginning of what was written (number %d, %d of %d bytes: %v)", e.Name(), seq, len(b), size, err)
		}
	}
}

func (v *verification) records(keys map[key][]operation) {
	f, err := os.Open(filepath.Join(v.root, "records"))
	if err != nil {
		for k := range keys {
			if k.kind == kindRecord {
				v.fail("open records: %w", err)
				return
			}
		}
		return
	}
	defer f.Close()
	b, zero := make([]byte, recordSize), make([]byte, recordSize)
	for n := range records {
		allowed, acked := v.allowed(keys[key{kindRecord, strconv.Itoa(n)}])
		if acked {
			v.report.Records++
		}
		if _, err := f.ReadAt(b, int64(n)*recordSize); err != nil {
			v.fail("read record %d: %w", n, err)
			continue
		}
		v.report.Bytes += recordSize
		var seq uint64
		if !bytes.Equal(b, zero) {
			seq, err = check(b)
		}
		v.judge(fmt.Sprintf("record %d", n), seq, err, allowed)
	}
}

func (v *verification) rows(ctx context.Context, rows []operation) {
	if len(rows) == 0 {
		return
	}
	acked := 0
	for i, o := range rows {
		if o.before(v.at) {
			acked = i + 1
		}
	}
	last, err := 0, error(nil)
	if _, err = os.Stat(filepath.Join(v.root, databaseName)); err == nil || acked > 0 {
		var n uint64
		if err == nil {
			n, err = readRows(ctx, v.root)
		}
		last = int(n)
		if err != nil {
			v.fail("database: %w", err)
		}
	}
	switch {
	case last < acked:
		v.fail("database ends with row %d; row %d was acknowledged", last, acked)
	case last > len(rows):
		v.fail("database ends with row %d; the last begun is %d", last, len(rows))
	}
	v.report.Rows, v.report.LaterRows = min(acked, last), max(0, last-acked)
}
