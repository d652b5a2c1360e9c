package journal

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/understudy-dr/understudy/internal/block"
)

// maxOpenFiles bounds the open delta files that no read is using: a view may lie over thousands of deltas.
const maxOpenFiles = 64

// fileCache keeps deltas' files open between reads. It is safe for concurrent use.
type fileCache struct {
	fs FS

	mu     sync.Mutex
	open   map[string]*openFile // by path
	tick   uint64
	closed bool
}

type openFile struct {
	File
	refs   int
	used   uint64 // tick of the last use
	doomed bool   // out of the map: close it with the last ref
}

func newFileCache(fsys FS) *fileCache { return &fileCache{fs: fsys, open: map[string]*openFile{}} }

// acquire opens the file, or takes the open one. The caller must release it.
func (c *fileCache) acquire(path string) (*openFile, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, fmt.Errorf("read %s: the journal is closed: %w", path, os.ErrClosed)
	}
	o := c.open[path]
	if o == nil {
		f, err := c.fs.OpenFile(path, os.O_RDONLY)
		if err != nil {
			return nil, err
		}
		o = &openFile{File: f}
		c.open[path] = o
		c.evict(o)
	}
	c.tick++
	o.refs, o.used = o.refs+1, c.tick
	return o, nil
}

// evict closes the idle file that was used longest ago, if there are too many; keep stays.
func (c *fileCache) evict(keep *openFile) {
	if len(c.open) <= maxOpenFiles {
		return
	}
	var oldest string
	for path, o := range c.open {
		if o != keep && o.refs == 0 && (oldest == "" || o.used < c.open[oldest].used) {
			oldest = path
		}
	}
	if oldest != "" {
		c.open[oldest].Close() // it was only read: there is nothing to lose
		delete(c.open, oldest)
	}
}

func (c *fileCache) release(o *openFile) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o.refs--; o.refs == 0 && o.doomed {
		o.Close()
	}
}

// forget closes the file, now or when its readers are done.
func (c *fileCache) forget(path string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o := c.open[path]; o != nil {
		c.drop(path, o)
	}
}

func (c *fileCache) drop(path string, o *openFile) (err error) {
	delete(c.open, path)
	o.doomed = true
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
	for path, o := range c.open {
		err = errors.Join(err, c.drop(path, o))
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
