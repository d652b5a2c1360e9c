package journal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"os"
	"path/filepath"

	"github.com/understudy-dr/understudy/internal/block"
)

// delta is a sealed delta's file.
type delta struct {
	path   string
	name   string // its base name
	span   span   // what it stands for
	header block.DeltaHeader
	seal   block.Seal   // of the last of span
	held   content      // what is in the file
	digest block.Digest // of the file: the seal's own, or that of the merge section
	foot   footer

	open *openFile // under fileCache.mu; nil: it is not open

	refs    int  // views and readers of the file; under Journal.mu
	dropped bool // folded or merged: the file goes with the last ref; under Journal.mu
}

// merged tells whether the file stands for several deltas.
func (d *delta) merged() bool { return d.span.first != d.span.last }

// corrupt is damage in the unit at off.
func (d *delta) corrupt(off block.Offset, err error) error {
	return &block.CorruptionError{File: d.path, Off: off, Seq: d.header.Seq, Err: err}
}

// readFull reads p from the unit at unit. A file that ends too early is damaged; a read that fails is not known to be.
func (d *delta) readFull(f File, p []byte, at, unit block.Offset) error {
	n, err := f.ReadAt(p, int64(at))
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return d.corrupt(unit, fmt.Errorf("the file ends at %d: %w", int64(at)+int64(n), block.ErrMalformed))
	}
	return fmt.Errorf("read %s at %d: %w", d.path, int64(at), err)
}

// openDelta reads the ends of the file, which should stand for want.
func openDelta(fsys FS, path string, want span) (*delta, error) {
	f, err := fsys.OpenFile(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	d := &delta{path: path, name: filepath.Base(path)}
	d.header.Seq = want.last
	if err := d.readEnds(f); err != nil {
		return nil, err
	}
	if d.span != want {
		return nil, d.corrupt(0, fmt.Errorf("it is delta %v: %w", d.span, block.ErrMalformed))
	}
	return d, nil
}

// readEnds reads header, footer, seal and merge section. A number in d.header is what the header should say.
func (d *delta) readEnds(f File) error {
	size, err := f.Size()
	if err != nil {
		return err
	}
	if size < block.DeltaHeaderSize+footerSize {
		return d.corrupt(0, fmt.Errorf("a file of %d bytes: %w", size, block.ErrMalformed))
	}
	seq := d.header.Seq
	raw := make([]byte, block.DeltaHeaderSize)
	if err := d.readFull(f, raw, 0, 0); err != nil {
		return err
	}
	header, err := block.ParseDeltaHeader(raw)
	if err != nil {
		// A newer version here is damage: a release that writes one raises the journal's version, which was read before.
		return d.corrupt(0, fmt.Errorf("%v: %w", err, block.ErrMalformed))
	}
	if seq != 0 && header.Seq != seq {
		return d.corrupt(0, fmt.Errorf("it is delta %v: %w", header.Seq, block.ErrMalformed))
	}
	d.header = header
	footAt := block.Offset(size - footerSize)
	raw = make([]byte, footerSize)
	if err := d.readFull(f, raw, footAt, footAt); err != nil {
		return err
	}
	if d.foot, err = parseFooter(raw, block.Size(size)); err != nil {
		return d.corrupt(footAt, err)
	}
	if err := d.readSeal(f); err != nil {
		return err
	}
	if err := d.readMerge(f); err != nil {
		return err
	}
	if block.Size(d.foot.sealAt-d.foot.indexAt) != indexSize(d.held.frames) {
		return d.corrupt(footAt, fmt.Errorf("an index of %d bytes for %d frames: %w",
			d.foot.sealAt-d.foot.indexAt, d.held.frames, block.ErrMalformed))
	}
	return nil
}

func (d *delta) readSeal(f File) error {
	raw := make([]byte, d.foot.mergeAt-d.foot.sealAt)
	if err := d.readFull(f, raw, d.foot.sealAt, d.foot.sealAt); err != nil {
		return err
	}
	seal, n, err := block.ParseSeal(raw)
	if err == nil && (n != len(raw) || seal.Seq != d.header.Seq) {
		err = fmt.Errorf("a seal of %v in %d of %d bytes: %w", seal.Seq, n, len(raw), block.ErrMalformed)
	}
	if err != nil {
		return d.corrupt(d.foot.sealAt, err)
	}
	d.seal = seal
	return nil
}

// readMerge tells what the delta stands for, and how much is in it: by the merge section, or where there is none by the seal.
func (d *delta) readMerge(f File) error {
	raw := make([]byte, d.foot.at()-d.foot.mergeAt)
	if len(raw) == 0 {
		d.span = span{d.header.Seq, d.header.Seq}
		d.held = content{d.seal.Frames, d.seal.Payload, d.seal.Covered}
		d.digest = d.seal.Digest
		return nil
	}
	if err := d.readFull(f, raw, d.foot.mergeAt, d.foot.mergeAt); err != nil {
		return err
	}
	m, err := parseMergeSection(raw)
	if err == nil && (m.first == 0 || m.first >= d.header.Seq) {
		err = fmt.Errorf("merged from %v to %v: %w", m.first, d.header.Seq, block.ErrMalformed)
	}
	if err != nil {
		return d.corrupt(d.foot.mergeAt, err)
	}
	d.span, d.held, d.digest = span{m.first, d.header.Seq}, m.held, m.digest
	return nil
}

// readIndex visits the index's entries in the order of the frames. What was visited may be believed once it has returned nil,
// for the checksum stands at the end.
func (d *delta) readIndex(f File, visit func(number uint64, e indexEntry) error) error {
	length := int64(d.foot.sealAt - d.foot.indexAt)
	r := bufio.NewReaderSize(io.NewSectionReader(f, int64(d.foot.indexAt), length), int(min(length, 256<<10)))
	bad := func(err error) error {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("index is cut short: %w", block.ErrMalformed)
		}
		if !errors.Is(err, block.ErrMalformed) && !errors.Is(err, block.ErrChecksum) {
			return fmt.Errorf("read index of %s: %w", d.path, err)
		}
		return d.corrupt(d.foot.indexAt, err)
	}
	var raw [indexEntrySize]byte
	if _, err := io.ReadFull(r, raw[:len(indexHead)]); err != nil {
		return bad(err)
	}
	if string(raw[:len(indexHead)]) != indexHead {
		return bad(fmt.Errorf("index begins otherwise: %w", block.ErrMalformed))
	}
	sum := indexSum
	for n := range d.held.frames {
		if _, err := io.ReadFull(r, raw[:]); err != nil {
			return bad(err)
		}
		sum = crc32.Update(sum, block.Castagnoli, raw[:])
		if err := visit(n, parseIndexEntry(raw[:])); err != nil {
			return err
		}
	}
	if _, err := io.ReadFull(r, raw[:indexTailSize]); err != nil {
		return bad(err)
	}
	if string(raw[:indexTailSize]) != string(indexTail(d.held.frames, sum)) {
		return bad(fmt.Errorf("index: %w", block.ErrChecksum))
	}
	return nil
}

// frameVisitor gets each frame in order; plain is the new content, nil for zeroes, and holds until it returns.
type frameVisitor func(h block.FrameHeader, pos block.Offset, plain []byte) error

// walk reads the header and all frames in order and checks every byte of them: header sums, payload sums, numbers, ranges, and
// at the end counts and digest against the seal. Frames are visited before the digest is known to be right.
func (d *delta) walk(ctx context.Context, f File, c block.Codec, visit frameVisitor) error {
	var again delta
	again.path, again.header.Seq = d.path, d.header.Seq
	if err := again.readEnds(f); err != nil {
		return err
	}
	if again.header != d.header || again.digest != d.digest || again.seal.Digest != d.seal.Digest || again.foot != d.foot {
		return d.corrupt(0, fmt.Errorf("another delta is in its place: %w", block.ErrMalformed))
	}
	w := newWalker(d, f, c)
	for w.pos < d.foot.indexAt {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.next(visit); err != nil {
			return err
		}
	}
	if w.held != d.held {
		return d.corrupt(d.foot.sealAt, fmt.Errorf("%v, its end says %v: %w", w.held, d.held, block.ErrMalformed))
	}
	got := block.Digest{}
	if d.merged() {
		got = mergeSection{first: d.span.first, held: d.held}.seal(w.chain, d.seal)
	} else {
		got = w.chain.Seal(d.seal)
	}
	if got != d.digest {
		return d.corrupt(d.foot.sealAt, fmt.Errorf("digest of the delta: %w", block.ErrChecksum))
	}
	return nil
}

// walker is a walk under way.
type walker struct {
	d     *delta
	codec block.Codec
	chain *block.Chain
	r     *bufio.Reader
	pos   block.Offset
	plain []byte // memory for decoding
	held  content
}

// newWalker begins after the header of d, which has been read, and ends where the index begins.
func newWalker(d *delta, f File, c block.Codec) *walker {
	w := &walker{d: d, codec: c, chain: block.NewChain(c, d.header), pos: block.DeltaHeaderSize}
	length := int64(d.foot.indexAt - w.pos)
	w.r = bufio.NewReaderSize(io.NewSectionReader(f, int64(w.pos), length), int(min(length, bufferSize)))
	return w
}

// next reads one frame. The reader's buffer holds any frame whole, so nothing is copied.
func (w *walker) next(visit frameVisitor) error {
	raw, err := w.peek(block.FrameHeaderSize)
	if err != nil {
		return err
	}
	h, err := block.ParseFrameHeader(raw)
	if err == nil {
		err = checkFrame(h, w.d.header.DiskSize, w.held.frames)
	}
	if err != nil {
		return w.d.corrupt(w.pos, err)
	}
	size := block.FrameHeaderSize + int(h.Payload)
	if raw, err = w.peek(size); err != nil {
		return err
	}
	w.chain.Write(raw)
	var plain []byte
	if h.Kind == block.FrameData {
		if w.plain == nil {
			w.plain = make([]byte, block.MaxFrameData)
		}
		if plain, err = w.codec.Open(w.plain, h, raw[block.FrameHeaderSize:]); err != nil {
			return w.d.corrupt(w.pos, err)
		}
	}
	if err := visit(h, w.pos, plain); err != nil {
		return err
	}
	w.held.add(h)
	w.pos += block.Offset(size)
	_, err = w.r.Discard(size)
	return err
}

func (w *walker) peek(n int) ([]byte, error) {
	if left := w.d.foot.indexAt - w.pos; block.Offset(n) > left {
		return nil, w.d.corrupt(w.pos, fmt.Errorf("%d bytes of a frame of %d: %w", left, n, block.ErrMalformed))
	}
	raw, err := w.r.Peek(n)
	if err == nil {
		return raw, nil
	}
	if errors.Is(err, io.EOF) {
		return nil, w.d.corrupt(w.pos, fmt.Errorf("the file ends in a frame: %w", block.ErrMalformed))
	}
	return nil, fmt.Errorf("read %s at %d: %w", w.d.path, int64(w.pos), err)
}

// checkFrame holds a frame's header against its place: the disk's size, and how many frames came before.
func checkFrame(h block.FrameHeader, disk block.Size, number uint64) error {
	if !h.Range.In(disk) {
		return fmt.Errorf("frame %d of range %v on a disk of %v: %w", h.Number, h.Range, disk, block.ErrOutOfRange)
	}
	if uint64(h.Number) != number {
		return fmt.Errorf("frame %d where %d should be: %w", h.Number, number, block.ErrMalformed)
	}
	return nil
}

// indexEntries reads the index entry by entry. next gives io.EOF at its end, else the error of readIndex. stop must be called.
func (d *delta) indexEntries(f File) (next func() (indexEntry, error), stop func()) {
	var failed error
	pull, stop := iter.Pull(func(yield func(indexEntry) bool) {
		failed = d.readIndex(f, func(_ uint64, e indexEntry) error {
			if !yield(e) {
				return errStop
			}
			return nil
		})
	})
	return func() (indexEntry, error) {
		e, ok := pull()
		if !ok && failed == nil {
			return e, io.EOF
		}
		if !ok {
			return e, failed
		}
		return e, nil
	}, stop
}

// fetch reads the frame of e, which the index led to, into buf and holds its header against the index. The payload's sum is
// for the caller to check.
func (d *delta) fetch(f File, buf []byte, e *extent) (block.FrameHeader, []byte, error) {
	if e.payload > block.MaxFramePayload {
		return block.FrameHeader{}, nil, d.corrupt(d.foot.indexAt, fmt.Errorf("payload of %d bytes: %w", e.payload, block.ErrMalformed))
	}
	raw := buf[:block.FrameHeaderSize+int(e.payload)]
	if err := d.readFull(f, raw, e.pos, e.pos); err != nil {
		return block.FrameHeader{}, nil, err
	}
	h, err := block.ParseFrameHeader(raw)
	if err == nil {
		err = checkFrame(h, d.header.DiskSize, uint64(e.number))
	}
	if err == nil && (h.Kind != block.FrameData || h.Payload != e.payload || h.Range.Intersect(e.rng) != e.rng) {
		err = fmt.Errorf("frame of range %v where the index has one for %v: %w", h.Range, e.rng, block.ErrMalformed)
	}
	if err != nil {
		return h, nil, d.corrupt(e.pos, err)
	}
	return h, raw[block.FrameHeaderSize:], nil
}
