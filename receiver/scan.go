package receiver

import (
	"context"
	"errors"
	"io"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/codec"
	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/wire"
	"github.com/understudy-dr/understudy/receiver/journal"
)

// scan answers requests for digests of the newest delta's state, one after the other, on one stream.
func (r *Receiver) scan(ctx context.Context, stream *link.Stream, first *wire.ScanRequest) error {
	s := &scanState{receiver: r}
	defer s.close()
	for req := first; ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		reply, err := s.digests(req)
		if err != nil {
			return storageError(err)
		}
		if err := stream.Send(reply); err != nil {
			return err
		}
		if err := stream.Flush(); err != nil {
			return err
		}
		got, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var ok bool
		if req, ok = got.Message.(*wire.ScanRequest); !ok {
			return wire.Errorf(wire.CodeProtocol, "%T in a scan", got.Message)
		}
	}
}

// scanState keeps the view open from one request to the next, as long as it is of the newest delta: a view that is held
// open would keep the journal from folding.
type scanState struct {
	receiver *Receiver
	replica  *replica
	view     *journal.View
	seq      block.Seq
	buf      []byte
}

func (s *scanState) close() {
	if s.view != nil {
		s.view.Close()
		s.view = nil
	}
}

func (s *scanState) digests(req *wire.ScanRequest) (*wire.ScanReply, error) {
	if err := s.open(req.Disk); err != nil {
		return nil, err
	}
	reply := &wire.ScanReply{Seq: s.seq, Range: req.Range}
	size := s.view.Geometry().Size
	if cap(s.buf) < int(req.Chunk) {
		s.buf = make([]byte, req.Chunk)
	}
	for off := req.Range.Off; off < req.Range.End(); off += block.Offset(req.Chunk) {
		n := min(req.Chunk, block.Size(req.Range.End()-off))
		if !(block.Range{Off: off, Len: n}).In(size) { // the source has grown, the copy has not yet
			reply.Digests = append(reply.Digests, block.Digest{})
			continue
		}
		if _, err := s.view.ReadAt(s.buf[:n], int64(off)); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		reply.Digests = append(reply.Digests, codec.ChunkDigest(s.buf[:n]))
	}
	return reply, nil
}

// open makes the view one of the newest delta.
func (s *scanState) open(id block.DiskID) error {
	if s.replica == nil {
		if s.replica = s.receiver.store.get(id); s.replica == nil {
			return wire.Errorf(wire.CodeUnknownDisk, "no disk %v here", id)
		}
	}
	if s.replica.journal.Meta().Disk != id {
		return wire.Errorf(wire.CodeProtocol, "a scan of two disks on one stream")
	}
	tip := s.replica.journal.Tip().Seq
	if s.view != nil && s.seq == tip {
		return nil
	}
	s.close()
	view, err := s.replica.journal.View(tip)
	if err != nil {
		return err
	}
	s.view, s.seq = view, tip
	return nil
}
