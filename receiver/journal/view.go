package journal

import (
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
)

// View is a disk as of one delta, read-only: the volume, and over it the frames of the deltas that are not folded. It is a
// block.Device and a block.Extenter, safe for concurrent use. Every read of a frame checks its header's and payload's sums, in a
// copy; a damaged one fails the read with a *block.CorruptionError.
//
// As long as it is open, the journal folds no further than its delta, and keeps the files that it reads.
type View struct {
	j       *Journal
	seq     block.Seq
	size    block.Size // of the disk as of seq
	base    block.Size // of the disk when the volume's position was taken: beyond it the volume counts for nothing
	deltas  []*delta
	extents []extent       // in the order of the disk, none overlaps
	starts  []block.Offset // of every startEvery-th of extents: a search begins in what fits into the processor's cache

	cache decoded
	raw   sync.Pool // *[]byte of maxFrameSize

	opened time.Time
	detour atomic.Int32 // reads that are not to go through a map, see fetch
	closed atomic.Bool
}

// View opens the disk as of the delta seq, which need not be a recovery point. It costs a read of the index of each delta
// from the volume's position up to seq, and 40 bytes of memory for each frame. ErrNoPoint if there is no such delta any more.
func (j *Journal) View(seq block.Seq) (*View, error) {
	v, err := j.register(seq)
	if err != nil {
		return nil, fmt.Errorf("view %v: %w", seq, err)
	}
	if err := v.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("view %v: %w", seq, err), v.Close())
	}
	return v, nil
}

// register takes hold of what a view of seq needs.
func (j *Journal) register(seq block.Seq) (*View, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil, j.usableLocked()
	}
	tip := j.tip().Seq
	if seq > tip && j.damage != nil {
		return nil, j.damage
	}
	if seq < j.pos.Target || seq > tip {
		return nil, fmt.Errorf("%s: %w", j.near(seq), ErrNoPoint)
	}
	if j.volume == nil && j.pos.Seq > 0 {
		return nil, fmt.Errorf("the journal was opened without its volume, and deltas up to %v are in that", j.pos.Seq)
	}
	v := &View{j: j, seq: seq, size: j.pos.Size, base: j.pos.Size, opened: time.Now()}
	v.raw.New = func() any { b := make([]byte, maxFrameSize); return &b }
	at := j.pos.Seq
	for _, d := range j.deltas {
		if d.header.Seq > seq {
			break
		}
		v.deltas = append(v.deltas, d)
		at, v.size = d.header.Seq, d.header.DiskSize
	}
	if at != seq {
		return nil, fmt.Errorf("it was merged into the one after it; %s: %w", j.near(seq), ErrNoPoint)
	}
	for _, d := range v.deltas {
		d.refs++
	}
	j.views[v]++
	return v, nil
}

// near names the points around seq, for whoever asked for one that is not there.
func (j *Journal) near(seq block.Seq) string {
	points := j.points()
	if len(points) == 0 {
		return "there is no recovery point yet"
	}
	i := sort.Search(len(points), func(i int) bool { return points[i].Seq > seq })
	var names []string
	for _, p := range points[max(0, i-1):min(len(points), i+1)] {
		names = append(names, p.Seq.String())
	}
	return "nearest: " + strings.Join(names, ", ")
}

// load reads the indexes.
func (v *View) load() error {
	var all []extent
	for src, d := range v.deltas {
		f, err := v.j.files.acquire(d)
		if err != nil {
			return err
		}
		err = d.readIndex(f, func(n uint64, e indexEntry) error {
			all = append(all, extent{rng: e.rng, pos: e.pos, payload: e.payload, src: uint32(src), number: uint32(n)})
			return nil
		})
		v.j.files.release(f)
		if err != nil {
			return err
		}
	}
	v.extents = resolve(all)
	for i := 0; i < len(v.extents); i += startEvery {
		v.starts = append(v.starts, v.extents[i].rng.Off)
	}
	return nil
}

// startEvery is how many extents are between two of a view's starts.
const startEvery = 32

// find is the first extent that ends after off.
func (v *View) find(off block.Offset) int {
	k := sort.Search(len(v.starts), func(i int) bool { return v.starts[i] > off })
	first := max(0, k-1) * startEvery // what is before it ends at or before a start that is not after off
	part := v.extents[first:min(first+startEvery, len(v.extents))]
	return first + sort.Search(len(part), func(i int) bool { return part[i].rng.End() > off })
}

// Seq is the delta that the view is as of.
func (v *View) Seq() block.Seq { return v.seq }

// Geometry implements block.Device.
func (v *View) Geometry() block.Geometry {
	return block.Geometry{Size: v.size, Logical: 512, ReadOnly: true}
}

// WriteAt implements block.Device: it is refused.
func (v *View) WriteAt([]byte, int64) (int, error) {
	return 0, fmt.Errorf("write to view %v: %w", v.seq, block.ErrReadOnly)
}

// Sync implements block.Device: there is nothing to sync.
func (v *View) Sync() error { return nil }

// Close implements block.Device. Files that were folded meanwhile are removed.
func (v *View) Close() error {
	if v.closed.Swap(true) {
		return nil
	}
	v.j.mu.Lock()
	delete(v.j.views, v)
	v.j.mu.Unlock()
	return v.j.unref(v.deltas)
}

// ReadAt implements block.Device.
func (v *View) ReadAt(p []byte, off int64) (int, error) {
	if v.closed.Load() {
		return 0, fmt.Errorf("read view %v: %w", v.seq, block.ErrClosed)
	}
	if off < 0 {
		return 0, fmt.Errorf("read view %v at %d: %w", v.seq, off, block.ErrOutOfRange)
	}
	want := block.Range{Off: block.Offset(off), Len: block.Size(len(p))}
	var end error
	if !want.In(v.size) {
		end = io.EOF
		want.Len = max(0, v.size-block.Size(off))
	}
	done := 0
	err := v.pieces(want, func(r block.Range, e *extent) error {
		dst := p[r.Off-want.Off : r.End()-want.Off]
		var err error
		switch {
		case e == nil:
			err = v.readBase(dst, r.Off)
		case e.payload == 0:
			clear(dst)
		default:
			err = v.readFrame(dst, r, e)
		}
		if err == nil {
			done += len(dst)
		}
		return err
	})
	if err != nil {
		return done, fmt.Errorf("read view %v: %w", v.seq, err)
	}
	return done, end
}

// pieces visits what r is made of, in order: parts of extents, and nil for what lies between them.
func (v *View) pieces(r block.Range, visit func(r block.Range, e *extent) error) error {
	i := v.find(r.Off)
	for pos := r.Off; pos < r.End(); {
		next, e := r.End(), (*extent)(nil)
		if i < len(v.extents) {
			if x := &v.extents[i]; x.rng.Off > pos {
				next = min(next, x.rng.Off)
			} else {
				next, e = min(next, x.rng.End()), x
				i++
			}
		}
		if err := visit(block.Range{Off: pos, Len: block.Size(next - pos)}, e); err != nil {
			return err
		}
		pos = next
	}
	return nil
}

// readBase reads from the volume; what the disk has grown by since is zeroes.
func (v *View) readBase(dst []byte, off block.Offset) error {
	r := block.Range{Off: off, Len: block.Size(len(dst))}.Intersect(block.Range{Len: v.base})
	if !r.Empty() {
		n, err := v.j.volume.ReadAt(dst[:r.Len], int64(off))
		if n < int(r.Len) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("volume: %w", err)
		}
	}
	clear(dst[r.Len:])
	return nil
}

// readFrame reads r, a part of the frame of e, and keeps the frame decoded if it was not read whole.
func (v *View) readFrame(dst []byte, r block.Range, e *extent) error {
	key := frameKey{src: e.src, number: e.number}
	if r != e.rng || r.Len != block.Size(e.payload) { // else it is whole and plain, most likely, and never kept
		if f, ok := v.cache.get(key); ok {
			copy(dst, f.plain[r.Off-f.rng.Off:])
			return nil
		}
	}
	buf := v.raw.Get().(*[]byte)
	defer v.raw.Put(buf)
	h, payload, err := v.fetch(*buf, e)
	if err != nil {
		return err
	}
	whole := h.Range == r
	to := dst
	if !whole {
		to = make([]byte, h.Range.Len)
	}
	d := v.deltas[e.src]
	plain, err := v.j.codec.Open(to[:len(to):len(to)], h, payload)
	if err != nil {
		return d.corrupt(e.pos, err)
	}
	if len(plain) != len(to) {
		return d.corrupt(e.pos, fmt.Errorf("%d bytes for range %v: %w", len(plain), h.Range, block.ErrMalformed))
	}
	if &plain[0] != &to[0] { // it is the payload itself, in memory that goes back to the pool
		copy(to, plain)
	}
	if !whole {
		copy(dst, to[r.Off-h.Range.Off:])
		v.cache.put(decodedFrame{key: key, rng: h.Range, plain: to})
	}
	return nil
}

// A frame is read by a system call, which may wait for the disk, or through the file's map, which costs about half but
// must not wait: a processor of the Go runtime would stand still meanwhile. So the map is for what is in the page cache.
const (
	// freshFor is for how many seconds after a read of a frame the page cache is taken to hold it still.
	freshFor = 10
	// maxMappedPayload is the largest for which the system call counts for much beside the copy, in bytes.
	maxMappedPayload = 16 << 10
	// slowRead is longer than a frame of that size takes in memory: the page cache is losing what is fresh.
	slowRead = 30 * time.Microsecond
	// detour is how many reads go by system calls after a slow one through a map.
	detour = 64
)

// fetch reads the frame of e into buf.
func (v *View) fetch(buf []byte, e *extent) (block.FrameHeader, []byte, error) {
	d := v.deltas[e.src]
	f, err := v.j.files.acquire(d)
	if err != nil {
		return block.FrameHeader{}, nil, err
	}
	defer v.j.files.release(f)
	began := time.Since(v.opened)
	now, seen := uint32(began/time.Second)+1, atomic.LoadUint32(&e.seen) // 0 is never
	fresh := seen != 0 && now-seen <= freshFor && e.payload <= maxMappedPayload
	if fresh && v.detour.Load() > 0 {
		v.detour.Add(-1)
		fresh = false
	}
	from := f.File
	if fresh {
		from = f.mapped()
	}
	h, payload, err := d.fetch(from, buf, e)
	if fresh && time.Since(v.opened)-began > slowRead {
		v.detour.Store(detour)
	}
	if err == nil && seen != now {
		atomic.StoreUint32(&e.seen, now)
	}
	return h, payload, err
}

// Extents implements block.Extenter: zero frames, what the disk grew by, and the volume's own holes are holes.
func (v *View) Extents(r block.Range, visit func(block.Extent) bool) error {
	if !r.In(v.size) {
		return fmt.Errorf("extents %v of view %v of %v: %w", r, v.seq, v.size, block.ErrOutOfRange)
	}
	m := merger{visit: visit}
	err := v.pieces(r, func(r block.Range, e *extent) error {
		switch {
		case e == nil:
			return v.baseExtents(r, &m)
		default:
			return m.add(block.Extent{Range: r, Hole: e.payload == 0})
		}
	})
	if err == nil {
		err = m.flush()
	}
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

func (v *View) baseExtents(r block.Range, m *merger) error {
	in := r.Intersect(block.Range{Len: v.base})
	if !in.Empty() {
		x, ok := v.j.volume.(block.Extenter)
		if !ok {
			if err := m.add(block.Extent{Range: in}); err != nil {
				return err
			}
		} else {
			var stop error
			err := x.Extents(in, func(e block.Extent) bool { stop = m.add(e); return stop == nil })
			if err = errors.Join(err, stop); err != nil {
				return err
			}
		}
	}
	return m.add(block.Extent{Range: block.Range{Off: r.Off + block.Offset(in.Len), Len: r.Len - in.Len}, Hole: true})
}

// errStop ends a visit that its visitor has had enough of.
var errStop = errors.New("stop")

// merger joins neighbours of one kind.
type merger struct {
	visit func(block.Extent) bool
	last  block.Extent
}

func (m *merger) add(e block.Extent) error {
	switch {
	case e.Empty():
		return nil
	case m.last.Empty():
		m.last = e
		return nil
	case m.last.Hole == e.Hole:
		m.last.Len += e.Len
		return nil
	}
	err := m.flush()
	m.last = e
	return err
}

func (m *merger) flush() error {
	if !m.last.Empty() && !m.visit(m.last) {
		m.last = block.Extent{}
		return errStop
	}
	m.last = block.Extent{}
	return nil
}
