package journal

import (
	"container/list"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/understudy-dr/understudy/internal/block"
)

// maxOpenFiles bounds the open delta files that no read is using: a view may lie over thousands of deltas, and opening a file
// costs several times what a read of 4 KiB does. It is less where the process may not have many files: see openFilesFor.
const maxOpenFiles = 4096

// openFilesFor is the share of one disk in the files that the process may have open.
func openFilesFor(limit uint64) int { return int(min(maxOpenFiles, max(limit/16, 32))) }

// fileCache keeps deltas' files open between reads. It is safe for concurrent use.
type fileCache struct {
	fs  FS
	max int

	mu     sync.Mutex
	used   *list.List // of *openFile: who goes first is at the back, unless it was used again since it came there
	closed bool
}

// openFile is in a fileCache as long as it has a place there.
type openFile struct {
	File
	d     *delta
	place *list.Element // nil: it is out; close it with the last ref
	refs  int
	again bool // it was used since it came into its place: a mark costs less than a move

	mapping sync.Once
	mem     File // the file with its frames mapped; nil: not mapped
}

// mapped is the file, its frames to be read from memory if that can be had. The caller has acquired it.
func (o *openFile) mapped() File {
	o.mapping.Do(func() {
		if m, ok := o.File.(mapper); ok {
			if f, err := m.Map(int64(o.d.foot.indexAt)); err == nil { // else reads go on as they did
				o.mem = f
			}
		}
	})
	if o.mem != nil {
		return o.mem
	}
	return o.File
}

// Close closes the file and its map.
func (o *openFile) Close() error {
	if o.mem != nil {
		return o.mem.Close()
	}
	return o.File.Close()
}

func newFileCache(fsys FS) *fileCache {
	return &fileCache{fs: fsys, max: openFilesFor(openFilesLimit()), used: list.New()}
}

// acquire opens the delta's file, or takes the open one. The caller must release it.
func (c *fileCache) acquire(d *delta) (*openFile, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, fmt.Errorf("read %s: the journal is closed: %w", d.path, os.ErrClosed)
	}
	o := d.open
	if o != nil {
		o.again = true
		o.refs++
		return o, nil
	}
	f, err := c.fs.OpenFile(d.path, os.O_RDONLY)
	for err != nil && (errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)) && c.evict() {
		f, err = c.fs.OpenFile(d.path, os.O_RDONLY)
	}
	if err != nil {
		return nil, err
	}
	o = &openFile{File: f, d: d, refs: 1}
	o.place, d.open = c.used.PushFront(o), o
	if c.used.Len() > c.max {
		c.evict()
	}
	return o, nil
}

// evict closes an idle file that was not used for long, and tells whether there was one. Those that were used again get
// another turn.
func (c *fileCache) evict() bool {
	for range 2 * c.used.Len() { // after one round none is marked
		o := c.used.Back().Value.(*openFile)
		if o.refs == 0 && !o.again {
			_ = c.drop(o) // it was only read: there is nothing to lose
			return true
		}
		o.again = false
		c.used.MoveToFront(o.place)
	}
	return false
}

func (c *fileCache) release(o *openFile) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o.refs--; o.refs == 0 && o.place == nil {
		o.Close()
	}
}

// forget closes the delta's file, now or when its readers are done.
func (c *fileCache) forget(d *delta) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.open != nil {
		_ = c.drop(d.open)
	}
}

// drop takes the file out, and closes it if nobody reads it.
func (c *fileCache) drop(o *openFile) (err error) {
	c.used.Remove(o.place)
	o.place, o.d.open = nil, nil
	if o.refs == 0 {
		err = o.Close()
	}
	return err
}

func (c *fileCache) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	var err error
	for c.used.Len() > 0 {
		err = errors.Join(err, c.drop(c.used.Back().Value.(*openFile)))
	}
	return err
}

// maxDecoded frames of content are kept by a view: 4 MiB at most.
const maxDecoded = 16

// frameKey names a frame of a view.
type frameKey struct {
	src    uint32
	number uint32
}

// decoded keeps the frames that were decoded last, so that small reads of one frame cost one decoding. What it holds is
// never changed, so readers may go on using what was evicted. It is safe for concurrent use.
type decoded struct {
	mu     sync.Mutex
	frames [maxDecoded]decodedFrame
	tick   uint64
}

type decodedFrame struct {
	key    frameKey
	rng    block.Range
	plain  []byte // nil: the place is empty
	coding block.Coding
	used   uint64
}

func (c *decoded) get(k frameKey) (decodedFrame, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.frames {
		if f := &c.frames[i]; f.plain != nil && f.key == k {
			c.tick++
			f.used = c.tick
			return *f, true
		}
	}
	return decodedFrame{}, false
}

func (c *decoded) put(f decodedFrame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	oldest := &c.frames[0]
	for i := range c.frames {
		if c.frames[i].used < oldest.used {
			oldest = &c.frames[i]
		}
	}
	c.tick++
	f.used = c.tick
	*oldest = f
}
