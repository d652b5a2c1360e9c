package journaltest

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/receiver/journal"
)

// sector is what the disk writes whole or not at all.
const sector = 512

// ErrStale is what a handle from before a crash gets.
var ErrStale = errors.New("handle of before the crash")

// Op is what an FS is asked to do.
type Op string

// The operations that can fail.
const (
	OpOpen    Op = "open"
	OpRead    Op = "read"
	OpWrite   Op = "write"
	OpSync    Op = "sync"
	OpRename  Op = "rename"
	OpRemove  Op = "remove"
	OpReadDir Op = "readdir"
	OpSyncDir Op = "syncdir"
)

// FS is a journal.FS in memory. After Crash, files hold what was synced and any sectors of what was not, and directories hold
// the names that were synced and any of the changes since. Directories are there without being made. It is safe for concurrent
// use, its fields apart: set them while no call is under way.
type FS struct {
	Fail  func(op Op, name string) error // asked before each operation; an error is returned instead of doing it
	Limit block.Size                     // of all files together, 0 for none: beyond it a write is short and ENOSPC

	mu      sync.Mutex
	epoch   int // raised by Crash
	names   map[string]*inode
	durable map[string]*inode
	pending []nameOp
}

type inode struct {
	now, durable []byte
	pending      []fileWrite
}

// fileWrite is a write since the last sync; without data, a truncation to nothing.
type fileWrite struct {
	off  int64
	data []byte
}

// nameOp is a change of a directory since its last sync.
type nameOp struct {
	dir      string
	set, del string // either may be empty
	node     *inode // what set leads to
}

// New is an empty FS.
func New() *FS { return &FS{names: map[string]*inode{}, durable: map[string]*inode{}} }

func (f *FS) ask(op Op, name string) error {
	if f.Fail == nil {
		return nil
	}
	if err := f.Fail(op, name); err != nil {
		return &fs.PathError{Op: string(op), Path: name, Err: err}
	}
	return nil
}

// OpenFile implements journal.FS.
func (f *FS) OpenFile(name string, flag int) (journal.File, error) {
	if err := f.ask(OpOpen, name); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	node := f.names[name]
	if node == nil {
		if flag&os.O_CREATE == 0 {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		node = &inode{}
		f.change(nameOp{dir: filepath.Dir(name), set: name, node: node})
	}
	if flag&os.O_TRUNC != 0 && len(node.now) > 0 {
		node.now = nil
		node.pending = append(node.pending, fileWrite{})
	}
	return &file{fs: f, name: name, node: node, epoch: f.epoch}, nil
}

// change makes a change of a directory that is not durable yet.
func (f *FS) change(op nameOp) {
	op.apply(f.names)
	f.pending = append(f.pending, op)
}

func (op nameOp) apply(names map[string]*inode) {
	if op.del != "" {
		delete(names, op.del)
	}
	if op.set != "" {
		names[op.set] = op.node
	}
}

// Rename implements journal.FS.
func (f *FS) Rename(from, to string) error {
	if err := f.ask(OpRename, to); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	node := f.names[from]
	if node == nil {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	if filepath.Dir(from) != filepath.Dir(to) {
		return fmt.Errorf("rename %s to %s: directories differ", from, to)
	}
	f.change(nameOp{dir: filepath.Dir(to), set: to, del: from, node: node})
	return nil
}

// Remove implements journal.FS.
func (f *FS) Remove(name string) error {
	if err := f.ask(OpRemove, name); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.names[name] == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	f.change(nameOp{dir: filepath.Dir(name), del: name})
	return nil
}

// MkdirAll implements journal.FS.
func (f *FS) MkdirAll(string) error { return nil }

// ReadDir implements journal.FS.
func (f *FS) ReadDir(dir string) ([]string, error) {
	if err := f.ask(OpReadDir, dir); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []string
	for name := range f.names {
		if filepath.Dir(name) == filepath.Clean(dir) {
			list = append(list, filepath.Base(name))
		}
	}
	slices.Sort(list) // so that a seed gives the same run again
	return list, nil
}

// SyncDir implements journal.FS.
func (f *FS) SyncDir(dir string) error {
	if err := f.ask(OpSyncDir, dir); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var rest []nameOp
	for _, op := range f.pending {
		if op.dir == filepath.Clean(dir) {
			op.apply(f.durable)
		} else {
			rest = append(rest, op)
		}
	}
	f.pending = rest
	return nil
}

// Clone is a copy with all that is durable and all that is not, and no open files. Fail and Limit are not copied.
func (f *FS) Clone() *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	nodes := map[*inode]*inode{}
	twin := func(n *inode) *inode {
		if n == nil {
			return nil
		}
		if nodes[n] == nil { // writes are put into place, what is durable and what is pending is never changed
			nodes[n] = &inode{now: slices.Clone(n.now), durable: slices.Clone(n.durable), pending: slices.Clone(n.pending)}
		}
		return nodes[n]
	}
	c := New()
	for name, n := range f.names {
		c.names[name] = twin(n)
	}
	for name, n := range f.durable {
		c.durable[name] = twin(n)
	}
	for _, op := range f.pending {
		op.node = twin(op.node)
		c.pending = append(c.pending, op)
	}
	return c
}

// Crash is a loss of power. Open handles fail from now on.
func (f *FS) Crash(rng *rand.Rand) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.epoch++
	chance := []float64{0, 0.5, 0.9, 1}[rng.IntN(4)]
	for _, op := range f.pending {
		// A rename of what is not there can't have got to the disk; all else can, in any selection.
		if op.del != "" && op.set != "" && f.durable[op.del] != op.node {
			continue
		}
		if rng.Float64() < chance {
			op.apply(f.durable)
		}
	}
	f.pending = nil
	f.names = map[string]*inode{}
	for _, name := range slices.Sorted(maps.Keys(f.durable)) {
		f.names[name] = f.durable[name]
		f.durable[name].crash(rng)
	}
}

// crash keeps any sectors of what was not synced. Where a later one survives and an earlier one does not, zeroes are between.
func (n *inode) crash(rng *rand.Rand) {
	chance := []float64{0, 0.5, 0.9, 1}[rng.IntN(4)]
	for _, w := range n.pending {
		if w.data == nil {
			if rng.Float64() < chance {
				n.durable = nil
			}
			continue
		}
		for i := int64(0); i < int64(len(w.data)); {
			step := min(int64(len(w.data))-i, sector-(w.off+i)%sector)
			if rng.Float64() < chance {
				n.durable = put(n.durable, w.data[i:i+step], w.off+i)
			}
			i += step
		}
	}
	n.pending = nil
	n.now = append([]byte(nil), n.durable...)
}

// put writes p at off into b, which grows.
func put(b, p []byte, off int64) []byte {
	if grow := off + int64(len(p)) - int64(len(b)); grow > 0 {
		b = append(b, make([]byte, grow)...)
	}
	copy(b[off:], p)
	return b
}

// used is the size of all files.
func (f *FS) used() block.Size {
	var n block.Size
	for _, node := range f.names {
		n += block.Size(len(node.now))
	}
	return n
}

// Flip inverts one bit of the file, durably, as a disk may.
func (f *FS) Flip(name string, bit int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	node := f.names[name]
	node.now = append([]byte(nil), node.now...)
	node.now[bit/8] ^= 1 << (bit % 8)
	node.durable = append([]byte(nil), node.now...)
	node.pending = nil
}

// Size is how many bytes the file has, -1 when it is not there.
func (f *FS) Size(name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.names[name]; n != nil {
		return len(n.now)
	}
	return -1
}
