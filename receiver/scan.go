package receiver

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/codec"
	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/wire"
	"github.com/understudy-dr/understudy/receiver/journal"
)

// scan answers requests for digests of the newest delta's state, one after the other, on one stream. A source opens several
// streams for one disk, and so has its copy hashed in parallel; how many chunks are read at once over all streams of all
// sources is bounded (Receiver.hashing).
func (r *Receiver) scan(ctx context.Context, may reach, stream *link.Stream, first *wire.ScanRequest) error {
	s := &scanState{receiver: r, may: may}
	defer s.close()
	for req := first; ; {
		reply, err := s.answer(ctx, req)
		if err != nil {
			return storageError(err)
		}
		stream.SetDeadline(time.Now().Add(replyTime))
		if err := stream.Send(reply); err != nil {
			return err
		}
		if err := stream.Flush(); err != nil {
			return err
		}
		stream.SetDeadline(time.Time{}) // the next request may take its time
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
	may      reach
	replica  *replica
	view     *journal.View
	seq      block.Seq
	last     hashed
}

// hashed are the digests of all chunks of the last request that was answered in groups. Where groups differ the source asks
// for their chunks next, and nothing is read twice.
type hashed struct {
	seq    block.Seq
	rng    block.Range
	chunk  block.Size
	chunks []block.Digest
}

// part are the digests of r, nil if they are not known.
func (h hashed) part(seq block.Seq, r block.Range, chunk block.Size) []block.Digest {
	inside := r.Off >= h.rng.Off && r.End() <= h.rng.End()
	whole := r.End() == h.rng.End() || r.Len%chunk == 0 // a chunk that r cuts short has another digest
	if h.seq != seq || h.chunk != chunk || !inside || !whole || block.Size(r.Off-h.rng.Off)%chunk != 0 {
		return nil
	}
	first := int(block.Size(r.Off-h.rng.Off) / chunk)
	return h.chunks[first : first+int((r.Len-1)/chunk)+1]
}

func (s *scanState) close() {
	if s.view != nil {
		s.view.Close()
		s.view = nil
	}
}

// answer takes its turn among all that is hashed now.
func (s *scanState) answer(ctx context.Context, req *wire.ScanRequest) (*wire.ScanReply, error) {
	buf, err := s.receiver.hashing.take(ctx, s.may.host)
	if err != nil {
		return nil, err
	}
	defer s.receiver.hashing.giveBack(s.may.host, buf)
	if err := s.open(req.Disk); err != nil {
		return nil, err
	}
	reply := &wire.ScanReply{Seq: s.seq, Range: req.Range}
	if known := s.last.part(s.seq, req.Range, req.Chunk); known != nil && req.Group == 1 {
		reply.Digests = known
		return reply, nil
	}
	chunks, err := s.digests(ctx, req, buf[:req.Chunk])
	if err != nil || req.Group == 1 {
		reply.Digests = chunks
		return reply, err
	}
	s.last = hashed{seq: s.seq, rng: req.Range, chunk: req.Chunk, chunks: chunks}
	for group := int(req.Group); len(chunks) > 0; chunks = chunks[min(group, len(chunks)):] {
		reply.Digests = append(reply.Digests, codec.GroupDigest(chunks[:min(group, len(chunks))]))
	}
	return reply, nil
}

// digests reads the range and takes the digest of each of its chunks.
func (s *scanState) digests(ctx context.Context, req *wire.ScanRequest, buf []byte) ([]block.Digest, error) {
	chunks := make([]block.Digest, 0, req.Chunks())
	size := s.view.Geometry().Size
	for off := req.Range.Off; off < req.Range.End(); off += block.Offset(req.Chunk) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n := min(req.Chunk, block.Size(req.Range.End()-off))
		if !(block.Range{Off: off, Len: n}).In(size) { // the source has grown, the copy has not yet
			chunks = append(chunks, block.Digest{})
			continue
		}
		if _, err := s.view.ReadAt(buf[:n], int64(off)); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		chunks = append(chunks, codec.ChunkDigest(buf[:n]))
	}
	return chunks, nil
}

// open makes the view one of the newest delta.
func (s *scanState) open(id block.DiskID) error {
	if s.replica == nil {
		rep := s.receiver.store.get(id)
		if rep == nil {
			return wire.Errorf(wire.CodeUnknownDisk, "no disk %v here", id)
		}
		// A digest tells whoever can guess a block's content whether it is there.
		if owner := rep.journal.Meta().Host; !s.may.covers(owner) {
			return wire.Errorf(wire.CodeForbidden, "disk %v belongs to host %s: %s may not compare anything with it", id, owner, s.may.host)
		}
		s.replica = rep
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
