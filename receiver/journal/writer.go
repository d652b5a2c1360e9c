package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/understudy-dr/understudy/internal/block"
)

// Writer takes in one delta:
//
//  1. frames are copied into a buffer, the digest is taken, the index noted
//  2. full buffers are written, and the disk is told to begin with them
//  3. Commit adds index, seal and footer, syncs the file, renames it, syncs the directory
//
// All in order and in the caller's goroutine. It is for one goroutine. Memory: a buffer of 1 MiB and up to 1 MiB of index.
type Writer struct {
	j      *Journal
	header block.DeltaHeader
	chain  *block.Chain
	out    *output
	index  indexLog

	held content

	err  error // why the delta can't be committed any more
	done bool
}

// Begin starts the delta that follows the tip. One delta is written at a time: ErrBusy. ErrTip, ErrGeneration and ErrShrunk
// say what is wrong with the header. The Writer must be ended by Commit or Abort.
func (j *Journal) Begin(h block.DeltaHeader) (*Writer, error) {
	w := &Writer{j: j, header: h}
	if err := j.admit(w); err != nil {
		return nil, fmt.Errorf("begin delta %v: %w", h.Seq, err)
	}
	out, err := newOutput(j.fs, j.path(deltaName(h.Seq)+openSuffix), w.takeBuffer())
	if err != nil {
		j.leave(w)
		return nil, fmt.Errorf("begin delta %v: %w", h.Seq, err)
	}
	w.out = out
	w.chain = block.NewChain(j.codec, h)
	w.index = newIndexLog(j.fs, j.path(deltaName(h.Seq)+spillSuffix))
	if err := w.out.write(h.Append(nil)); err != nil {
		return nil, errors.Join(fmt.Errorf("begin delta %v: %w", h.Seq, err), w.Abort())
	}
	return w, nil
}

// admit checks the header and makes w the writer.
func (j *Journal) admit(w *Writer) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	h, tip := w.header, j.tip()
	if err := j.usableLocked(); err != nil {
		return err
	}
	if h.Disk != j.meta.Disk {
		return fmt.Errorf("it is of disk %v, the journal of %v", h.Disk, j.meta.Disk)
	}
	if g := j.fence(); h.Generation < g {
		return fmt.Errorf("generation %d, the disk is at %d: this side was superseded: %w", h.Generation, g, ErrGeneration)
	}
	if j.damage != nil {
		return j.damage
	}
	if h.Seq != tip.Seq+1 || h.Parent != tip.Digest {
		return fmt.Errorf("after %.16s…, the newest here is %v, %.16s…: %w", h.Parent.String(), tip.Seq, tip.Digest.String(), ErrTip)
	}
	if h.DiskSize < tip.Size {
		return fmt.Errorf("disk of %v, its copy has %v: grow it back, or protect it anew under another id: %w", h.DiskSize, tip.Size, ErrShrunk)
	}
	if h.DiskSize > block.MaxDiskSize {
		return fmt.Errorf("disk of %d bytes: %w", h.DiskSize, block.ErrOutOfRange)
	}
	if err := h.BlockSize.Check(); err != nil {
		return err
	}
	if j.writer != nil {
		return ErrBusy
	}
	j.writer = w
	return nil
}

// takeBuffer gives the one buffer that the journal's writers use one after the other.
func (w *Writer) takeBuffer() []byte {
	w.j.mu.Lock()
	defer w.j.mu.Unlock()
	if w.j.buffer == nil {
		w.j.buffer = make([]byte, 0, bufferSize)
	}
	return w.j.buffer
}

// leave makes room for the next writer.
func (j *Journal) leave(w *Writer) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.writer == w {
		j.writer = nil
	}
}

// Append adds a frame: its encoded header and payload as they came, which it does not keep. h is that header parsed. The
// payload's sum must have been checked. After an error, out of space say, the delta can only be aborted.
func (w *Writer) Append(h block.FrameHeader, frame []byte) error {
	if err := w.usable(); err != nil {
		return err
	}
	if err := w.append(h, frame); err != nil {
		w.err = fmt.Errorf("append frame %d of delta %v: %w", w.held.frames, w.header.Seq, err)
		return w.err
	}
	return nil
}

func (w *Writer) append(h block.FrameHeader, frame []byte) error {
	parsed, err := block.ParseFrameHeader(frame)
	if err != nil {
		return err
	}
	if parsed != h || len(frame) != block.FrameHeaderSize+int(h.Payload) {
		return fmt.Errorf("%d bytes that begin with another header: %w", len(frame), block.ErrMalformed)
	}
	if err := checkFrame(h, w.header.DiskSize, w.held.frames); err != nil {
		return err
	}
	if w.held.frames == maxFrames {
		return fmt.Errorf("a delta has at most %d frames: %w", uint64(maxFrames), block.ErrOutOfRange)
	}
	e := indexEntry{rng: h.Range, pos: w.out.pos(), payload: h.Payload}
	if err := w.out.write(frame); err != nil {
		return err
	}
	if err := w.index.add(e); err != nil {
		return err
	}
	w.chain.Write(frame)
	w.held.add(h)
	return nil
}

func (w *Writer) usable() error {
	if w.done {
		return fmt.Errorf("delta %v: %w", w.header.Seq, os.ErrClosed)
	}
	return w.err
}

// Commit checks the seal against what was appended and makes the delta durable; it is when nil is returned. After an error
// the delta does not exist. Either way the Writer is done.
func (w *Writer) Commit(s block.Seal) error {
	err := w.usable()
	if err == nil {
		err = w.verify(s)
	}
	if err != nil {
		return errors.Join(err, w.Abort())
	}
	foot, err := w.finish(s)
	if err != nil {
		return errors.Join(fmt.Errorf("commit delta %v: %w", w.header.Seq, err), w.Abort())
	}
	defer w.end()
	name := deltaName(w.header.Seq)
	s.Time = s.Time.UTC()
	d := &delta{
		path: w.j.path(name), name: name, span: span{s.Seq, s.Seq}, header: w.header, seal: s, held: w.held,
		digest: s.Digest, foot: foot,
	}
	if err := w.publish(d); err != nil {
		return fmt.Errorf("commit delta %v: %w", w.header.Seq, err)
	}
	return nil
}

// verify holds the seal against what was appended.
func (w *Writer) verify(s block.Seal) error {
	if err := s.Check(); err != nil {
		return fmt.Errorf("commit delta %v: %w", w.header.Seq, err)
	}
	if s.Seq != w.header.Seq || s.Frames != w.held.frames || s.Payload != w.held.payload || s.Covered != w.held.covered {
		return fmt.Errorf("commit delta %v: seal of %v with %v; %v came: %w",
			w.header.Seq, s.Seq, content{s.Frames, s.Payload, s.Covered}, w.held, ErrSeal)
	}
	if w.chain.Seal(s) != s.Digest {
		return fmt.Errorf("commit delta %v: digest: %w", w.header.Seq, ErrSeal)
	}
	return nil
}

// finish writes what follows the frames, and syncs and closes the file.
func (w *Writer) finish(s block.Seal) (footer, error) {
	var f footer
	f.indexAt = w.out.pos()
	if err := w.index.writeTo(w.out, w.held.frames); err != nil {
		return f, err
	}
	f.sealAt = w.out.pos()
	tail := s.Append(nil)
	f.mergeAt = f.sealAt + block.Offset(len(tail))
	f.size = block.Size(f.mergeAt) + footerSize
	if err := w.out.write(f.append(tail)); err != nil {
		return f, err
	}
	return f, w.out.sync()
}

// publish gives the finished file its name and adds the delta.
func (w *Writer) publish(d *delta) error {
	j := w.j
	if err := j.giveName(w.out.path, d); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.deltas = append(j.deltas, d)
	return nil
}

// giveName gives the synced file at from the name of d, durably. An error takes the name away again; where that fails too,
// nobody can say whether the delta is there, and the journal is not written any more until it is opened anew.
func (j *Journal) giveName(from string, d *delta) error {
	err := j.fs.Rename(from, d.path)
	if err == nil {
		err = j.fs.SyncDir(j.dir)
	}
	if err == nil {
		return nil
	}
	for _, path := range []string{d.path, from} {
		if e := j.fs.Remove(path); e != nil && !errors.Is(e, fs.ErrNotExist) {
			j.breakWith(fmt.Errorf("delta %v can't be taken back (%w): restart the receiver", d.span, e))
			err = errors.Join(err, e)
		}
	}
	return err
}

func (j *Journal) breakWith(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken == nil {
		j.broken = fmt.Errorf("journal in %s: %w", j.dir, err)
	}
}

// Abort drops the delta. It may be called again, and after Commit, and does nothing then.
func (w *Writer) Abort() error {
	if w.done {
		return nil
	}
	defer w.end()
	err := w.out.close()
	if e := w.j.fs.Remove(w.out.path); e != nil && !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	if err != nil {
		return fmt.Errorf("abort delta %v: %w", w.header.Seq, err)
	}
	return nil
}

// end lets go of everything but the delta's file.
func (w *Writer) end() {
	w.done = true
	w.index.drop()
	w.j.leave(w)
}
