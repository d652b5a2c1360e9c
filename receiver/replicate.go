package receiver

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/wire"
	"github.com/understudy-dr/understudy/receiver/journal"
)

// How a delta comes in:
//
//  1. its header says whose it is and what it builds on; the journal checks both
//  2. each frame is checked against its sum and appended as it came
//  3. the seal's counts and digest must be those of what arrived; then it is made durable
//  4. the ack goes out
//
// One goroutine a disk does all four in order. A break before 3 leaves nothing behind. A promotion ends it wherever it is
// (promote.go).

// replicate serves one source's stream of one disk.
func (r *Receiver) replicate(ctx context.Context, may reach, stream *link.Stream, open *wire.Open) error {
	rep, err := r.replicaFor(ctx, may, open)
	if err != nil {
		return err
	}
	release, err := rep.claim(&holder{host: may.host, boot: open.Boot, evict: func() { stream.SetDeadline(time.Now()) }})
	if err != nil {
		return err
	}
	defer release()
	if err := rep.enter(open); err != nil {
		return err
	}
	opened := r.opened(rep)
	if err := stream.Send(opened); err != nil {
		return err
	}
	if err := stream.Flush(); err != nil {
		return err
	}
	in := &intake{stream: stream, replica: rep, codec: r.codec}
	defer in.abort() // before release: the next claim begins with the journal free
	for {
		if err := in.next(); err != nil {
			if fenced := rep.fenced(opened.Generation); fenced != nil {
				return fenced // the better reason for a stream that a promotion broke
			}
			return storageError(err)
		}
	}
}

// opened is what the copy holds.
func (r *Receiver) opened(rep *replica) *wire.Opened {
	meta, tip, points := rep.journal.Meta(), rep.journal.Tip(), rep.journal.Points()
	m := &wire.Opened{
		TipSeq: tip.Seq, TipDigest: tip.Digest, TipSize: tip.Size, PointTime: time.Unix(0, 0),
		Generation: meta.Generation, HasPoint: len(points) > 0,
	}
	if m.HasPoint {
		m.PointTime = points[len(points)-1].Time
	}
	return m
}

// replicaFor finds the copy of the disk, or makes a place for one. may.host is who the source's certificate says it is.
func (r *Receiver) replicaFor(ctx context.Context, may reach, open *wire.Open) (*replica, error) {
	if open.Size <= 0 || open.Size > block.MaxDiskSize {
		return nil, wire.Errorf(wire.CodeProtocol, "a disk of %d bytes", open.Size)
	}
	rep := r.store.get(open.Disk)
	if rep == nil {
		if n := r.store.count(may); n >= maxDisks {
			return nil, wire.Errorf(wire.CodeForbidden, "host %s has %d disks here, and no more are taken of one host: move folders of disks that it has no more away", may.host, n)
		}
		var err error
		rep, err = r.store.create(journal.Meta{
			Disk: open.Disk, Name: open.Name, Host: may.host, Size: open.Size, BlockSize: open.BlockSize,
			Generation: open.Generation, Created: time.Now().UTC(),
		})
		if err != nil {
			return nil, storageError(err)
		}
		r.log.Info("new disk", "disk", open.Disk.String(), "host", may.host, "name", open.Name, "size", open.Size)
		r.startFolder(ctx, rep)
	}
	meta := rep.journal.Meta()
	if !may.covers(meta.Host) {
		return nil, wire.Errorf(wire.CodeForbidden, "disk %v belongs to host %s, not to %s: a copied state directory? give this host's disks ids of their own with understudy-agent identity new",
			open.Disk, meta.Host, may.host)
	}
	if err := rep.admit(open, false); err != nil {
		return nil, err
	}
	if !open.Rejoin {
		if err := rep.fenced(open.Generation); err != nil {
			return nil, err
		}
	}
	if tip := rep.journal.Tip(); open.Size < tip.Size {
		return nil, wire.Errorf(wire.CodeTip, "the disk has %v, its copy %v: a disk that became smaller is refused; grow it back, or protect it anew under another id",
			open.Size, tip.Size)
	}
	return rep, nil
}

// enter brings what is known of the disk up to what its source says, once the source has it to itself. A source of a newer
// generation raises it: its target was put back from a backup.
func (r *replica) enter(open *wire.Open) error {
	if err := r.admit(open, true); err != nil {
		return err
	}
	if !open.Rejoin {
		if err := r.fenced(open.Generation); err != nil {
			return err
		}
	}
	err := r.change(func(m *journal.Meta) bool {
		was := *m
		m.Name, m.Size, m.Generation = open.Name, open.Size, max(m.Generation, open.Generation)
		return *m != was
	})
	if err != nil {
		return storageError(err)
	}
	return nil
}

// intake is the delta that is coming in.
type intake struct {
	stream  *link.Stream
	replica *replica
	codec   block.Codec
	writer  *journal.Writer
	header  block.DeltaHeader // of the delta that writer takes in
	decoded []byte            // memory for checking coded payloads
}

func (in *intake) abort() {
	if in.writer != nil {
		in.writer.Abort()
		in.writer = nil
		in.replica.counts.dropped.Add(1)
	}
}

// next takes one unit off the stream.
func (in *intake) next() error {
	got, err := in.stream.Receive()
	if err != nil {
		return err
	}
	switch {
	case got.Header != nil:
		in.abort()
		if err := in.replica.fenced(got.Header.Generation); err != nil {
			return err
		}
		in.header = *got.Header
		in.writer, err = in.replica.journal.Begin(in.header)
		switch {
		case errors.Is(err, journal.ErrTip):
			return wire.Errorf(wire.CodeTip, "%v", err)
		case errors.Is(err, journal.ErrGeneration):
			return wire.Errorf(wire.CodeFenced, "%v", err)
		}
		return err
	case got.Frame != nil:
		if in.writer == nil {
			return wire.Errorf(wire.CodeProtocol, "a frame outside of a delta")
		}
		return in.frame(*got.Frame, got.Raw)
	case got.Seal != nil:
		if in.writer == nil {
			return wire.Errorf(wire.CodeProtocol, "a seal outside of a delta")
		}
		return in.seal(*got.Seal)
	}
	if _, ok := got.Message.(*wire.Abort); ok {
		in.abort()
		return nil
	}
	return wire.Errorf(wire.CodeProtocol, "%T in a delta", got.Message)
}

// frame checks the payload, decoding it as a reader will have to, and stores it as it came.
func (in *intake) frame(h block.FrameHeader, raw []byte) error {
	if h.Kind == block.FrameData {
		plain, err := in.codec.Open(in.decoded, h, raw[block.FrameHeaderSize:])
		if err != nil {
			in.replica.counts.damagedFrames.Add(1)
			return wire.Errorf(wire.CodeProtocol, "%v", err)
		}
		if h.Coding != block.CodingNone {
			in.decoded = plain[:0]
		}
	}
	return in.writer.Append(h, raw)
}

// seal makes the delta durable and acknowledges it.
func (in *intake) seal(s block.Seal) error {
	w := in.writer
	in.writer = nil
	if err := in.replica.commit(w, in.header, s); err != nil {
		in.replica.counts.dropped.Add(1)
		return err
	}
	in.replica.counts.sealed(s)
	if err := in.stream.Send(&wire.Ack{Seq: s.Seq, Digest: s.Digest}); err != nil {
		return err
	}
	in.replica.poke()
	return in.stream.Flush()
}

// storageError says what the source can make of an error of this receiver's storage.
func storageError(err error) error {
	var corrupt *block.CorruptionError
	switch {
	case errors.As(err, new(*wire.Error)) || link.Broken(err):
		return err
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return wire.Errorf(wire.CodeNoSpace, "the target's disk is full")
	case errors.As(err, &corrupt):
		return wire.Errorf(wire.CodeCorrupt, "%v", err)
	}
	return fmt.Errorf("store delta: %w", err)
}
