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
	header block.DeltaHeader
	seal   block.Seal
	foot   footer

	refs    int  // views and readers of the file; under Journal.mu
	dropped bool // folded: the file goes with the last ref; under Journal.mu
}

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

// openDelta reads header, footer and seal of the file, which should be delta seq.
func openDelta(fsys FS, path string, seq block.Seq) (*delta, error) {
	f, err := fsys.OpenFile(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	d := &delta{path: path, name: filepath.Base(path)}
	d.header.Seq = seq
	return d, d.readEnds(f)
}

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
	raw = make([]byte, footAt-d.foot.sealAt)
	if err := d.readFull(f, raw, d.foot.sealAt, d.foot.sealAt); err != nil {
		return err
	}
	seal, n, err := block.ParseSeal(raw)
	if err == nil && (n != len(raw) || seal.Seq != header.Seq) {
		err = fmt.Errorf("a seal of %v in %d of %d bytes: %w", seal.Seq, n, len(raw), block.ErrMalformed)
	}
	if err == nil && block.Size(d.foot.sealAt-d.foot.indexAt) != indexSize(seal.Frames) {
		err = fmt.Errorf("an index of %d bytes for %d frames: %w", d.foot.sealAt-d.foot.indexAt, seal.Frames, block.ErrMalformed)
	}
	if err != nil {
		return d.corrupt(d.foot.sealAt, err)
	}
	d.seal = seal
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
	for n := range d.seal.Frames {
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
	if string(raw[:indexTailSize]) != string(indexTail(d.seal.Frames, sum)) {
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
	if again.header != d.header || again.seal.Digest != d.seal.Digest || again.foot != d.foot {
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
	if w.frames != d.seal.Frames || w.payload != d.seal.Payload || w.covered != d.seal.Covered {
		return d.corrupt(d.foot.sealAt, fmt.Errorf("%d frames with %d bytes for %d of the disk, the seal says %d, %d, %d: %w",
			w.frames, w.payload, w.covered, d.seal.Frames, d.seal.Payload, d.seal.Covered, block.ErrMalformed))
	}
	if got := w.chain.Seal(d.seal); got != d.seal.Digest {
		return d.corrupt(d.foot.sealAt, fmt.Errorf("digest of the delta: %w", block.ErrChecksum))
	}
	return nil
}

// walker is a walk under way.
type walker struct {
	d       *delta
	codec   block.Codec
	chain   *block.Chain
	r       *bufio.Reader
	pos     block.Offset
	plain   []byte // memory for decoding
	frames  uint64
	payload block.Size
	covered block.Size
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
		err = checkFrame(h, w.d.header.DiskSize, w.frames)
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
	w.frames++
	w.payload += block.Size(h.Payload)
	w.covered += h.Range.Len
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

// indexEntries reads the index entry by entry; next is false at its end or when it can't be read. stop must be called.
func (d *delta) indexEntries(f File) (next func() (indexEntry, bool), stop func()) {
	return iter.Pull(func(yield func(indexEntry) bool) {
		_ = d.readIndex(f, func(_ uint64, e indexEntry) error {
			if !yield(e) {
				return errStop
			}
			return nil
		})
	})
}
