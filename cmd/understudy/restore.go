package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/codec"
	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/wire"
)

// restoreReport is what a restore prints.
type restoreReport struct {
	Disk    block.DiskID `json:"disk"`
	Seq     block.Seq    `json:"seq"`
	Time    time.Time    `json:"time"`
	Class   block.Class  `json:"class"`
	Proven  bool         `json:"proven"`
	Target  string       `json:"target"`
	Size    block.Size   `json:"size_bytes"`
	Data    block.Size   `json:"data_bytes"` // the rest is zeroes
	Seconds float64      `json:"seconds"`
}

// restorer writes one recovery point into a file or device.
type restorer struct {
	stream *link.Stream
	codec  *codec.Codec
	target *restoreTarget
}

// run asks for the point and writes what comes. The target is complete, checked and durable when it returns nil.
func (r *restorer) run(ctx context.Context, disk, point string, progress func(done, total block.Size)) (restoreReport, error) {
	began := time.Now()
	var report restoreReport
	stop := context.AfterFunc(ctx, func() { r.stream.SetDeadline(time.Now()) })
	defer stop()
	if err := r.stream.Send(&wire.Read{Disk: disk, Point: point}); err != nil {
		return report, err
	}
	if err := r.stream.Flush(); err != nil {
		return report, err
	}
	start, err := expect[*wire.ReadStart](r.stream)
	if err != nil {
		return report, err
	}
	report = restoreReport{
		Disk: start.Disk, Seq: start.Seal.Seq, Time: start.Seal.Time, Class: start.Seal.Class,
		Proven: start.Seal.Proven(), Target: r.target.path, Size: start.Size,
	}
	if err := r.target.open(start.Size); err != nil {
		return report, err
	}
	defer r.target.abandon()
	if report.Data, err = r.content(start.Size, progress); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return report, err
	}
	err = r.target.finish()
	report.Seconds = time.Since(began).Seconds()
	return report, err
}

// content writes frames until the end of the stream, and holds that they cover the disk and carry the digest they should.
func (r *restorer) content(size block.Size, progress func(done, total block.Size)) (data block.Size, err error) {
	digest := r.codec.NewDigest()
	pos, buf := block.Offset(0), []byte(nil)
	for {
		got, err := r.stream.Receive()
		if err != nil {
			return data, err
		}
		if got.Frame == nil {
			return data, checkEnd(got.Message, pos, size, block.Digest(digest.Sum(nil)))
		}
		digest.Write(got.Raw)
		h := *got.Frame
		if h.Range.Off != pos || !h.Range.In(size) {
			return data, fmt.Errorf("receiver sent %v where %d should follow: %w", h.Range, int64(pos), wire.ErrProtocol)
		}
		pos = h.Range.End()
		if h.Kind == block.FrameZero {
			err = r.target.zero(h.Range)
		} else {
			if buf, err = r.codec.Open(buf, h, got.Raw[block.FrameHeaderSize:]); err == nil {
				_, err = r.target.dev.WriteAt(buf, int64(h.Range.Off))
				data += h.Range.Len
			}
			if h.Coding == block.CodingNone {
				buf = nil // it is the stream's memory
			}
		}
		if err != nil {
			return data, fmt.Errorf("write %s: %w", r.target.path, err)
		}
		progress(block.Size(pos), size)
	}
}

func checkEnd(m wire.Message, pos block.Offset, size block.Size, digest block.Digest) error {
	switch m := m.(type) {
	case *wire.Error:
		return m
	case *wire.ReadEnd:
		if block.Size(pos) != size {
			return fmt.Errorf("receiver ended at %d of %d bytes: %w", int64(pos), int64(size), wire.ErrProtocol)
		}
		if m.Digest != digest {
			return fmt.Errorf("the restored content: %w: restore again, and check the receiver's memory and disks", block.ErrChecksum)
		}
		return nil
	}
	return fmt.Errorf("receiver sent %T in a restore: %w", m, wire.ErrProtocol)
}

// restoreTarget is where a point is written: a new file, under another name until it is whole, or a device.
type restoreTarget struct {
	path      string
	overwrite bool
	dev       *block.File
	partial   string // the name of a file under way
	fresh     bool   // what is not written reads as zeroes
}

// open makes the target ready for a disk of the given size, and refuses to destroy what is there.
func (t *restoreTarget) open(size block.Size) error {
	info, err := os.Stat(t.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return t.openFile(size)
	case err != nil:
		return err
	case info.Mode().IsRegular():
		if !t.overwrite {
			return fmt.Errorf("%s exists: name another file, or say --overwrite to replace it", t.path)
		}
		return t.openFile(size)
	case info.Mode()&os.ModeDevice != 0 && info.Mode()&os.ModeCharDevice == 0:
		return t.openDevice(size)
	}
	return fmt.Errorf("%s is neither a file nor a block device", t.path)
}

func (t *restoreTarget) openFile(size block.Size) error {
	t.partial, t.fresh = t.path+".partial", true
	if err := os.Remove(t.partial); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var err error
	if t.dev, err = block.OpenFile(t.partial, block.Mode{Write: true, Create: true}); err != nil {
		return err
	}
	return t.dev.Truncate(size)
}

func (t *restoreTarget) openDevice(size block.Size) error {
	probe, err := os.OpenFile(t.path, os.O_RDONLY|syscall.O_EXCL, 0)
	if errors.Is(err, syscall.EBUSY) {
		return fmt.Errorf("%s is in use (mounted, or held by another device): unmount it first", t.path)
	}
	if err != nil {
		return err
	}
	probe.Close()
	if t.dev, err = block.OpenFile(t.path, block.Mode{Write: true}); err != nil {
		return err
	}
	if have := t.dev.Geometry().Size; have < size {
		return fmt.Errorf("%s holds %v, the disk has %v: name a device at least as large", t.path, have, size)
	}
	head := make([]byte, min(block.MiB, t.dev.Geometry().Size))
	if _, err := t.dev.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if !t.overwrite && !codec.IsZero(head) {
		return fmt.Errorf("%s holds data: say --overwrite to replace it", t.path)
	}
	return nil
}

func (t *restoreTarget) zero(r block.Range) error {
	if t.fresh {
		return nil
	}
	return block.ZeroRange(t.dev, r)
}

// finish makes the target durable and gives it its name.
func (t *restoreTarget) finish() error {
	if err := t.dev.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", t.path, err)
	}
	if err := t.dev.Close(); err != nil {
		return err
	}
	t.dev = nil
	if t.partial == "" {
		return nil
	}
	if err := os.Rename(t.partial, t.path); err != nil {
		return err
	}
	t.partial = ""
	return nil
}

// abandon drops a file that did not become whole.
func (t *restoreTarget) abandon() {
	if t.dev != nil {
		t.dev.Close()
	}
	if t.partial != "" {
		os.Remove(t.partial)
	}
}
