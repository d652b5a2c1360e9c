package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/codec"
	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/wire"
)

// A scan compares the live disk with the target's newest delta, by the digests of 64 KiB chunks. It closes a gap in
// tracking (only what differs is sent), and it is the proof that the copy is one (verify.go).
//
// The tracker is attached while it runs. So a chunk that was equal when it was read stays equal or is marked; and a chunk
// that differs is marked by the scan. A chunk changed by a delta that was acknowledged in between may look different
// without being so: marking it costs a chunk of bandwidth and nothing else.

const (
	// scanBatch is the range of one request.
	scanBatch = 4 * block.MiB
	// scanAhead is how many requests are on their way.
	scanAhead = 4
)

// scanner is one stream of scan requests.
type scanner struct {
	disk   *disk
	stream *link.Stream
	buf    []byte
}

func newScanner(ctx context.Context, d *disk, s *link.Session) (*scanner, func(), error) {
	stream, err := s.OpenStream(ctx)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { stream.SetDeadline(time.Now()) })
	return &scanner{disk: d, stream: stream, buf: block.AlignedBuffer(scanBatch)}, func() { stop(); stream.Close() }, nil
}

// request asks for the digests of r in chunks of the given size.
func (s *scanner) request(r block.Range, chunk block.Size) error {
	if err := s.stream.Send(&wire.ScanRequest{Disk: s.disk.id, Range: r, Chunk: chunk}); err != nil {
		return err
	}
	return s.stream.Flush()
}

// differing receives the reply for r, reads the disk, and visits the chunks that differ. It returns the delta as of which
// the target answered.
func (s *scanner) differing(r block.Range, chunk block.Size, visit func(block.Range)) (block.Seq, error) {
	reply, err := receive[*wire.ScanReply](s.stream)
	if err != nil {
		return 0, err
	}
	if want := int((r.Len + chunk - 1) / chunk); len(reply.Digests) != want || reply.Range != r {
		return 0, fmt.Errorf("target sent %d digests for %v, asked were %d: %w", len(reply.Digests), r, want, wire.ErrProtocol)
	}
	if err := readFull(s.disk.dev, s.buf[:r.Len], r.Off); err != nil {
		return 0, err
	}
	for i, want := range reply.Digests {
		start := block.Size(i) * chunk
		end := min(start+chunk, r.Len)
		if codec.ChunkDigest(s.buf[start:end]) != want {
			visit(block.Range{Off: r.Off + block.Offset(start), Len: end - start})
		}
	}
	return reply.Seq, nil
}

// run scans the whole disk. progress is called with the end of each batch.
func (s *scanner) run(ctx context.Context, visit func(block.Range), progress func(done block.Size)) error {
	size := s.disk.pump.size
	batch := func(off block.Size) block.Range {
		return block.Range{Off: block.Offset(off), Len: min(scanBatch, size-off)}
	}
	var asked, done block.Size
	for done < size {
		for asked < size && asked < done+scanAhead*scanBatch {
			if err := s.request(batch(asked), codec.ChunkSize); err != nil {
				return err
			}
			asked += batch(asked).Len
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := s.differing(batch(done), codec.ChunkSize, visit); err != nil {
			return err
		}
		done += batch(done).Len
		progress(done)
	}
	return nil
}

// rescan marks what differs from the target.
func (u *upload) rescan(s *link.Session) error {
	d := u.disk
	scan, end, err := newScanner(u.ctx, d, s)
	if err != nil {
		return err
	}
	defer end()
	var found block.Size
	d.show(func(st *DiskStatus) { st.Total, st.Done = d.pump.size, 0 })
	err = scan.run(u.ctx, func(r block.Range) {
		found += r.Len
		d.set.Mark(r.Covering(d.set.BlockSize()))
	}, func(done block.Size) {
		d.show(func(st *DiskStatus) { st.Done = done })
	})
	if err != nil {
		return fmt.Errorf("scan %s: %w", d.path, err)
	}
	u.log.Info("compared the disk with the target", "disk", d.path, "size", d.pump.size, "differing", found)
	return nil
}

// resync closes a gap in tracking before anything else is sent.
func (u *upload) resync(s *link.Session) error {
	u.disk.show(func(st *DiskStatus) { st.State = StateScanning })
	u.log.Info("tracking had a gap: comparing the disk with the target", "disk", u.disk.path)
	if err := u.rescan(s); err != nil {
		return err
	}
	u.disk.update(func(n *note) { n.Synced, n.Missed = true, false })
	return nil
}

// proveAgain compares the disk while points go on, after a write may have been missed. The next point is proven again,
// unless a further audit failed meanwhile.
func (u *upload) proveAgain(s *link.Session) error {
	before := u.disk.missedCount()
	if err := u.rescan(s); err != nil {
		return err
	}
	if u.disk.missedCount() == before {
		u.disk.update(func(n *note) { n.Missed = false })
	}
	return nil
}
