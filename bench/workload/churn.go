package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// The shape of the churn: small enough that hours of it do not fill a disk of 1 GiB.
const (
	slots      = 240       // files in "files", of up to maxFile bytes: 60 MiB
	maxFile    = 256 << 10 //
	folders    = 12
	records    = 512      // in "records", 8 MiB
	recordSize = 16 << 10 //
	scratches  = 16       // files in "scratch", replaced without sync
	fillFile   = 4 << 20  // each file of the initial data
)

// churn is one writer of files. It is for one goroutine.
type churn struct {
	root   string
	report *reporter
	random *rand.Rand
	seq    uint64
	pause  time.Duration
	there  map[string]uint64 // slots that hold a file
	record *os.File
}

// Fill writes size bytes of initial data, syncs it and reports it as acknowledged.
func (c *churn) fill(ctx context.Context, size int64) error {
	for n := 0; int64(n)*fillFile < size; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.put(fmt.Sprintf("base/%04d", n), fillFile); err != nil {
			return err
		}
	}
	return nil
}

// prepare makes the folders and the record file.
func (c *churn) prepare() error {
	dirs := []string{"base", "scratch"}
	for i := range folders {
		dirs = append(dirs, fmt.Sprintf("files/%02d", i))
	}
	for _, d := range dirs {
		if err := os.MkdirAll(filepath.Join(c.root, d), 0o700); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(filepath.Join(c.root, "records"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	c.record = f
	if err := f.Truncate(records * recordSize); err != nil {
		return err
	}
	return errors.Join(f.Sync(), syncDir(filepath.Join(c.root, "files")), syncDir(c.root))
}

// run does one operation after another until ctx ends.
func (c *churn) run(ctx context.Context) error {
	defer c.record.Close()
	for ctx.Err() == nil {
		if err := c.step(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(c.pause):
		}
	}
	return nil
}

func (c *churn) step() error {
	slot := c.slot()
	switch n := c.random.IntN(100); {
	case n < 40:
		return c.put(slot, headerSize+c.random.IntN(maxFile-headerSize))
	case n < 50:
		return c.remove(slot)
	case n < 60:
		return c.rename(slot, c.slot())
	case n < 90:
		return c.overwrite(c.random.IntN(records))
	}
	return c.scribble()
}

func (c *churn) slot() string {
	n := c.random.IntN(slots)
	return fmt.Sprintf("files/%02d/%03d", n%folders, n)
}

// put replaces the file in a slot: a new file is written and synced, then renamed over the old one, then the folder is
// synced.
func (c *churn) put(slot string, size int) error {
	c.seq++
	op, err := c.report.begin(kindFile, slot, c.seq)
	if err != nil {
		return err
	}
	path := filepath.Join(c.root, slot)
	if err := writeSynced(path+".new", Content(c.seq, size)); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return err
	}
	c.there[slot] = c.seq
	return c.report.ack(op)
}

func (c *churn) remove(slot string) error {
	if c.there[slot] == 0 {
		return nil
	}
	op, err := c.report.begin(kindFile, slot, 0)
	if err != nil {
		return err
	}
	path := filepath.Join(c.root, slot)
	if err := os.Remove(path); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return err
	}
	delete(c.there, slot)
	return c.report.ack(op)
}

func (c *churn) rename(from, to string) error {
	seq := c.there[from]
	if seq == 0 || from == to {
		return nil
	}
	gone, err := c.report.begin(kindFile, from, 0)
	if err != nil {
		return err
	}
	come, err := c.report.begin(kindFile, to, seq)
	if err != nil {
		return err
	}
	a, b := filepath.Join(c.root, from), filepath.Join(c.root, to)
	if err := os.Rename(a, b); err != nil {
		return err
	}
	// The new name first: then no moment is synced in which the file has neither.
	if err := errors.Join(syncDir(filepath.Dir(b)), syncDir(filepath.Dir(a))); err != nil {
		return err
	}
	delete(c.there, from)
	c.there[to] = seq
	return c.report.ack(gone, come)
}

// overwrite replaces a record in place by one write.
func (c *churn) overwrite(n int) error {
	c.seq++
	op, err := c.report.begin(kindRecord, strconv.Itoa(n), c.seq)
	if err != nil {
		return err
	}
	if _, err := c.record.WriteAt(Content(c.seq, recordSize), int64(n)*recordSize); err != nil {
		return err
	}
	if err := c.record.Sync(); err != nil {
		return err
	}
	return c.report.ack(op)
}

// scribble writes a file that nobody syncs. It is reported to nobody: whatever is there of it must be a beginning of it.
func (c *churn) scribble() error {
	c.seq++
	path := filepath.Join(c.root, "scratch", strconv.Itoa(c.random.IntN(scratches)))
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.WriteFile(path, Content(c.seq, headerSize+c.random.IntN(maxFile)), 0o600)
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
