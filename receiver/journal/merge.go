package journal

import (
	"context"
	"errors"
	"fmt"

	"github.com/understudy-dr/understudy/internal/block"
)

// Merge makes one delta of those after the delta after, up to and including upto. What is left is the newest content of each
// range; the points in between are gone, and their views, but for those that are open, with them. It can be stopped and killed
// at any time. It holds no lock while it reads and writes: deltas come in, views are opened and read as ever.
//
//  1. every byte of the deltas is checked, their digests included: it is the last time that they can be
//  2. their indexes are sorted by place on the disk, in a file where memory does not do
//  3. frames are copied in that order; one that survives in part is cut, which means decoding and encoding it again
//  4. index, the last one's seal, merge section and footer follow, and the file is synced
//  5. it gets its name, durably. Points in between can't be pinned from here on
//  6. the files it stands for are removed, those that a view reads when it is closed
//
// It returns ErrPinned if a point in between is pinned. Memory: about 12 MiB and 40 bytes for each delta, whatever their sizes.
func (j *Journal) Merge(ctx context.Context, after, upto block.Seq) error {
	j.foldMu.Lock()
	defer j.foldMu.Unlock()
	run, err := j.pickRun(after, upto)
	if err != nil || len(run) < 2 {
		return err
	}
	err = j.mergeRun(ctx, run)
	if err = errors.Join(err, j.unref(run)); err != nil {
		return fmt.Errorf("merge %v: %w", spanOf(run), err)
	}
	return nil
}

func spanOf(run []*delta) span { return span{run[0].span.first, run[len(run)-1].span.last} }

// pickRun takes hold of the deltas to merge; fewer than two if there is nothing to do, and then it holds none.
func (j *Journal) pickRun(after, upto block.Seq) ([]*delta, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	err := j.usableLocked()
	if err == nil {
		err = j.damage // as long as it is not decided what becomes of it, all that is left stays as it is
	}
	if err != nil {
		return nil, fmt.Errorf("merge up to %v: %w", upto, err)
	}
	var run []*delta
	for _, d := range j.deltas {
		// A fold that was begun must find the deltas up to its target as they were, and the disk may hold one that was not.
		if d.span.first > max(after, j.pos.Target, j.doubt) && d.span.last <= upto {
			run = append(run, d)
		}
	}
	if len(run) < 2 {
		return nil, nil
	}
	if err := j.unpinned(spanOf(run)); err != nil {
		return nil, fmt.Errorf("merge %v: %w", spanOf(run), err)
	}
	for _, d := range run {
		d.refs++
	}
	return run, nil
}

// unpinned says which pinned point would be swallowed.
func (j *Journal) unpinned(s span) error {
	for seq := range j.pins {
		if s.swallows(seq) {
			return fmt.Errorf("%v: %w", seq, ErrPinned)
		}
	}
	return nil
}

func (j *Journal) mergeRun(ctx context.Context, run []*delta) error {
	for _, d := range run {
		if err := j.checkHeld(ctx, d); err != nil {
			return err
		}
	}
	m := newMerging(j, run)
	d, err := m.write(ctx)
	if err = errors.Join(err, m.order.drop(), m.index.drop()); err != nil {
		return errors.Join(err, m.abort())
	}
	return j.replace(run, d, m.out.path)
}

// replace puts the synced file at from in the place of the run.
func (j *Journal) replace(run []*delta, d *delta, from string) error {
	if err := j.settle(); err != nil {
		return errors.Join(err, j.fs.Remove(from))
	}
	j.mu.Lock()
	err := errors.Join(j.usableLocked(), j.unpinned(d.span))
	if err == nil {
		j.going = d.span
	}
	j.mu.Unlock()
	if err != nil {
		return errors.Join(err, j.fs.Remove(from))
	}
	err = j.giveName(from, d)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.going = span{}
	if err != nil {
		j.loose = true
		return err
	}
	left := make([]*delta, 0, len(j.deltas)-len(run)+1)
	for _, old := range j.deltas {
		switch {
		case old == run[0]:
			left = append(left, d)
		case old.span.first < d.span.first || old.span.first > d.span.last:
			left = append(left, old)
		}
	}
	j.deltas = left
	j.merged += uint64(len(run))
	for _, old := range run {
		old.dropped = true
	}
	return nil
}

// settle makes the removal of a merged delta durable that failed to get its name. Until then a crash may bring it back, which
// does no harm as long as it reaches over no position that the volume gets to, and over no part of another merge.
func (j *Journal) settle() error {
	j.mu.Lock()
	loose := j.loose
	j.mu.Unlock()
	if !loose {
		return nil
	}
	if err := j.fs.SyncDir(j.dir); err != nil {
		return err
	}
	j.mu.Lock()
	j.loose = false
	j.mu.Unlock()
	return nil
}

// merging is a merge under way.
type merging struct {
	j      *Journal
	run    []*delta
	header block.DeltaHeader
	chain  *block.Chain
	order  *extentSorter
	out    *output
	index  indexLog
	held   content

	raw, head, packed []byte  // memory for a frame as it is stored, for a new header, and for a part of a frame encoded again
	cuts              decoded // frames of which a part was taken: the next part often follows
}

func newMerging(j *Journal, run []*delta) *merging {
	last := run[len(run)-1]
	m := &merging{j: j, run: run, header: last.header}
	m.header.Parent = run[0].header.Parent
	m.chain = block.NewChain(j.codec, m.header)
	path := j.path(spanOf(run).name())
	m.order = newExtentSorter(j.fs, path+sortSuffix)
	m.index = newIndexLog(j.fs, path+spillSuffix)
	m.raw = make([]byte, maxFrameSize)
	return m
}

// write makes the file, whole and synced, and tells what it is.
func (m *merging) write(ctx context.Context) (*delta, error) {
	next, err := m.sort(ctx)
	if err != nil {
		return nil, err
	}
	s := spanOf(m.run)
	if m.out, err = newOutput(m.j.fs, m.j.path(s.name()+openSuffix), make([]byte, 0, bufferSize)); err != nil {
		return nil, err
	}
	if err := m.out.write(m.header.Append(nil)); err != nil {
		return nil, err
	}
	err = flatten(next, func(e extent) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return m.copy(&e)
	})
	if err != nil {
		return nil, err
	}
	return m.finish(s)
}

// sort reads the indexes.
func (m *merging) sort(ctx context.Context) (next func() (extent, bool, error), err error) {
	for src, d := range m.run {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		f, err := m.j.files.acquire(d)
		if err != nil {
			return nil, err
		}
		err = d.readIndex(f, func(n uint64, e indexEntry) error {
			return m.order.add(extent{rng: e.rng, pos: e.pos, payload: e.payload, src: uint32(src), number: uint32(n)})
		})
		m.j.files.release(f)
		if err != nil {
			return nil, err
		}
	}
	return m.order.sorted()
}

// copy writes what is left of a frame.
func (m *merging) copy(e *extent) error {
	if e.payload == 0 {
		return m.put(block.FrameHeader{Kind: block.FrameZero, Range: e.rng}, nil)
	}
	key := frameKey{src: e.src, number: e.number}
	if f, ok := m.cuts.get(key); ok {
		return m.putPart(f, e.rng)
	}
	d := m.run[e.src]
	f, err := m.j.files.acquire(d)
	if err != nil {
		return err
	}
	h, payload, err := d.fetch(f, m.raw, e)
	m.j.files.release(f)
	if err != nil {
		return err
	}
	if h.Range == e.rng {
		if err := m.j.codec.Check(h, payload); err != nil {
			return d.corrupt(e.pos, err)
		}
		return m.put(h, payload)
	}
	plain, err := m.j.codec.Open(make([]byte, 0, h.Range.Len), h, payload)
	if err != nil {
		return d.corrupt(e.pos, err)
	}
	if h.Coding == block.CodingNone { // it is in m.raw
		plain = append([]byte(nil), plain...)
	}
	cut := decodedFrame{key: key, rng: h.Range, plain: plain, coding: h.Coding}
	m.cuts.put(cut)
	return m.putPart(cut, e.rng)
}

// putPart writes a part of a frame, encoded as the whole was.
func (m *merging) putPart(f decodedFrame, r block.Range) error {
	if r.Intersect(f.rng) != r {
		return fmt.Errorf("part %v of a frame of range %v: %w", r, f.rng, block.ErrMalformed)
	}
	part := f.plain[r.Off-f.rng.Off:][:r.Len]
	if m.packed == nil {
		m.packed = make([]byte, 0, maxFrameSize+maxFrameSize/4) // for any coding
	}
	return m.put(m.j.codec.Pack(m.packed, f.coding, r.Off, part))
}

// put writes a frame under its new number.
func (m *merging) put(h block.FrameHeader, payload []byte) error {
	if m.held.frames == maxFrames {
		return fmt.Errorf("a delta has at most %d frames: %w", uint64(maxFrames), block.ErrOutOfRange)
	}
	h.Number = uint32(m.held.frames)
	if err := m.index.add(indexEntry{rng: h.Range, pos: m.out.pos(), payload: h.Payload}); err != nil {
		return err
	}
	m.head = h.Append(m.head[:0])
	m.chain.Write(m.head)
	m.chain.Write(payload)
	m.held.add(h)
	if err := m.out.write(m.head); err != nil {
		return err
	}
	return m.out.write(payload)
}

// finish writes what follows the frames, and syncs and closes the file.
func (m *merging) finish(s span) (*delta, error) {
	last := m.run[len(m.run)-1]
	name := s.name()
	d := &delta{path: m.j.path(name), name: name, span: s, header: m.header, seal: last.seal, held: m.held}
	d.foot.indexAt = m.out.pos()
	if err := m.index.writeTo(m.out, m.held.frames); err != nil {
		return nil, err
	}
	section := mergeSection{first: s.first, held: m.held}
	section.digest = section.seal(m.chain, d.seal)
	d.digest = section.digest
	d.foot.sealAt = m.out.pos()
	tail := d.seal.Append(nil)
	d.foot.mergeAt = d.foot.sealAt + block.Offset(len(tail))
	d.foot.size = block.Size(d.foot.mergeAt) + mergeSectionSize + footerSize
	if err := m.out.write(d.foot.append(section.append(tail))); err != nil {
		return nil, err
	}
	return d, m.out.sync()
}

// abort removes the file.
func (m *merging) abort() error {
	if m.out == nil {
		return nil
	}
	return errors.Join(m.out.close(), m.j.remove(spanOf(m.run).name()+openSuffix))
}
