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
// One goroutine a disk does all four in order. A break before 3 leaves nothing behind.

// replicate serves one source's stream of one disk.
func (r *Receiver) replicate(ctx context.Context, peer link.Peer, stream *link.Stream, open *wire.Open) error {
	rep, err := r.replicaFor(ctx, peer.Host, open)
	if err != nil {
		return err
	}
	release, err := rep.claim(&holder{host: peer.Host, boot: open.Boot, evict: func() { stream.SetDeadline(time.Now()) }})
	if err != nil {
		return err
	}
	defer release()
	meta, tip := rep.journal.Meta(), rep.journal.Tip()
	err = stream.Send(&wire.Opened{
		TipSeq: tip.Seq, TipDigest: tip.Digest, TipSize: tip.Size, Generation: meta.Generation,
		HasPoint: len(rep.journal.Points()) > 0,
	})
	if err == nil {
		err = stream.Flush()
	}
	if err != nil {
		return err
	}
	in := &intake{stream: stream, replica: rep, codec: r.codec}
	defer in.abort() // before release: the next claim begins with the journal free
	for {
		if err := in.next(); err != nil {
			return storageError(err)
		}
	}
}

// replicaFor finds the copy of the disk, or makes a place for one. host is who the source's certificate says it is.
func (r *Receiver) replicaFor(ctx context.Context, host string, open *wire.Open) (*replica, error) {
	if open.Size <= 0 || open.Size > block.MaxDiskSize {
		return nil, wire.Errorf(wire.CodeProtocol, "a disk of %d bytes", open.Size)
	}
	rep := r.store.get(open.Disk)
	if rep == nil {
		var err error
		rep, err = r.store.create(journal.Meta{
			Disk: open.Disk, Name: open.Name, Host: host, Size: open.Size, BlockSize: open.BlockSize,
			Created: time.Now().UTC(),
		})
		if err != nil {
			return nil, storageError(err)
		}
		r.log.Info("new disk", "disk", open.Disk.String(), "host", host, "name", open.Name, "size", open.Size)
		r.startFolder(ctx, rep)
	}
	meta := rep.journal.Meta()
	if host != meta.Host {
		return nil, wire.Errorf(wire.CodeForbidden, "disk %v belongs to host %s, not to %s: a copied state directory? give this host's disk an id of its own by removing its disks.json",
			open.Disk, meta.Host, host)
	}
	if tip := rep.journal.Tip(); open.Size < tip.Size {
		return nil, wire.Errorf(wire.CodeTip, "the disk has %v, its copy %v: a disk that became smaller is refused; grow it back, or protect it anew under another id",
			open.Size, tip.Size)
	}
	if meta.Name != open.Name || meta.Size != open.Size {
		meta.Name, meta.Size = open.Name, open.Size
		if err := rep.journal.SetMeta(meta); err != nil {
			return nil, storageError(err)
		}
	}
	return rep, nil
}

// intake is the delta that is coming in.
type intake struct {
	stream  *link.Stream
	replica *replica
	codec   block.Codec
	writer  *journal.Writer
	decoded []byte // memory for checking coded payloads
}

func (in *intake) abort() {
	if in.writer != nil {
		in.writer.Abort()
		in.writer = nil
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
		in.writer, err = in.replica.journal.Begin(*got.Header)
		if errors.Is(err, journal.ErrTip) {
			return wire.Errorf(wire.CodeTip, "%v", err)
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
	if err := w.Commit(s); err != nil {
		return err
	}
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
