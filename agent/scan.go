package agent

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/codec"
	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/wire"
)

// A comparison holds a part of the live disk against the target's newest delta, by BLAKE3 of 64 KiB chunks. It closes a gap
// in tracking (resync.go), and it is the proof that the copy is one (verify.go, rolling.go).
//
//  1. the disk's part is cut into windows                                                     (in order of the disk)
//  2. a reader asks for a window's digests in groups, reads and hashes the window meanwhile   (windows in parallel, both ends)
//  3. where a group differs it asks for the group's chunks                                    (as they come)
//  4. what differs is visited: by chunk, or narrowed to the blocks that differ                (a batch of chunks at a time)
//
// Each reader has a stream of its own, so the target hashes in parallel too; neither side hashes anything twice.
//
// The tracker is attached all the while. So a chunk that was equal when it was read stays equal or is marked; that holds
// whichever of the two sides was read first. A chunk changed by a delta that was acknowledged in between may look different
// without being so: marking it costs a chunk of bandwidth and nothing else.
const (
	// scanWindow is the range of one request: long enough that a slow line's delay does not count.
	scanWindow = 32 * block.MiB
	// scanGroup is what one digest of the first level stands for.
	scanGroup = 4 * block.MiB
	// scanReaders is how many windows of a disk are compared at once.
	scanReaders = 3
	// narrowBatch is how many chunks are asked about at once to be narrowed: a slow line's delay does not count for each.
	narrowBatch = 64

	groupChunks = uint32(scanGroup / codec.ChunkSize)
)

// scanner is one stream of scan requests. It is for one goroutine.
type scanner struct {
	disk   *disk
	stream *link.Stream
	chunks []block.Digest
}

func newScanner(ctx context.Context, d *disk, s *link.Session) (*scanner, func(), error) {
	stream, err := s.OpenStream(ctx)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { stream.SetDeadline(time.Now()) })
	return &scanner{disk: d, stream: stream}, func() { stop(); stream.Close() }, nil
}

// request asks for the digests of r in chunks of the given size, group of them for each digest.
func (s *scanner) request(r block.Range, chunk block.Size, group uint32) error {
	if err := s.send(r, chunk, group); err != nil {
		return err
	}
	return s.stream.Flush()
}

func (s *scanner) send(r block.Range, chunk block.Size, group uint32) error {
	return s.stream.Send(&wire.ScanRequest{Disk: s.disk.id, Range: r, Chunk: chunk, Group: group})
}

// reply receives the digests of r.
func (s *scanner) reply(r block.Range, chunk block.Size, group uint32) (*wire.ScanReply, error) {
	reply, err := receive[*wire.ScanReply](s.stream)
	if err != nil {
		return nil, err
	}
	asked := wire.ScanRequest{Range: r, Chunk: chunk, Group: group}
	if want := asked.Digests(); int64(len(reply.Digests)) != want || reply.Range != r {
		return nil, fmt.Errorf("target sent %d digests for %v, asked were %d: %w", len(reply.Digests), r, want, wire.ErrProtocol)
	}
	return reply, nil
}

// window compares r, which is at most scanWindow, and returns the chunks that differ.
func (s *scanner) window(ctx context.Context, r block.Range, pace *pacer) ([]block.Range, error) {
	if err := s.request(r, codec.ChunkSize, groupChunks); err != nil {
		return nil, err
	}
	if err := s.hash(ctx, r, pace); err != nil {
		return nil, err
	}
	reply, err := s.reply(r, codec.ChunkSize, groupChunks)
	if err != nil {
		return nil, err
	}
	var differ []block.Range
	for i, want := range reply.Digests {
		ours := s.chunks[i*int(groupChunks) : min((i+1)*int(groupChunks), len(s.chunks))]
		if codec.GroupDigest(ours) == want {
			continue
		}
		off := r.Off + block.Offset(i)*block.Offset(scanGroup)
		group := block.Range{Off: off, Len: min(scanGroup, block.Size(r.End()-off))}
		if differ, err = s.group(group, ours, differ); err != nil {
			return nil, err
		}
	}
	return differ, nil
}

// narrow cuts chunks down to the blocks of the dirty set that differ.
func (s *scanner) narrow(ctx context.Context, chunks []block.Range) ([]block.Range, error) {
	bs := block.Size(s.disk.set.BlockSize())
	if bs >= codec.ChunkSize {
		return chunks, nil
	}
	var differ []block.Range
	visit := func(b block.Range) {
		if last := len(differ) - 1; last >= 0 && differ[last].End() == b.Off {
			differ[last].Len += b.Len
			return
		}
		differ = append(differ, b)
	}
	for batch := range slices.Chunk(chunks, narrowBatch) {
		for _, r := range batch {
			if err := s.send(r, bs, 1); err != nil {
				return nil, err
			}
		}
		if err := s.stream.Flush(); err != nil {
			return nil, err
		}
		for _, r := range batch {
			if _, err := s.unequal(ctx, r, bs, visit); err != nil {
				return nil, err
			}
		}
	}
	return differ, nil
}

// hash reads r and takes the digests of its chunks.
func (s *scanner) hash(ctx context.Context, r block.Range, pace *pacer) error {
	s.chunks = s.chunks[:0]
	for !r.Empty() {
		part := block.Range{Off: r.Off, Len: min(r.Len, scanGroup)}
		if err := pace.wait(ctx, part.Len); err != nil {
			return err
		}
		err := s.read(ctx, part, codec.ChunkSize, func(d block.Digest) { s.chunks = append(s.chunks, d) })
		if err != nil {
			return err
		}
		r = block.Range{Off: part.End(), Len: r.Len - part.Len}
	}
	return nil
}

// read reads r, of scanGroup at most, and takes the digests of its chunks.
func (s *scanner) read(ctx context.Context, r block.Range, chunk block.Size, visit func(block.Digest)) error {
	return s.disk.scans.borrow(ctx, func(buf *[]byte) error {
		b := (*buf)[:r.Len]
		if err := readFull(s.disk.dev, b, r.Off); err != nil {
			return err
		}
		s.disk.counts.compared.Add(int64(len(b)))
		for len(b) > 0 {
			n := min(len(b), int(chunk))
			visit(codec.ChunkDigest(b[:n]))
			b = b[n:]
		}
		return nil
	})
}

// group asks for the chunks of r, whose digests here are ours, and adds those that differ to list.
func (s *scanner) group(r block.Range, ours []block.Digest, list []block.Range) ([]block.Range, error) {
	if err := s.request(r, codec.ChunkSize, 1); err != nil {
		return list, err
	}
	reply, err := s.reply(r, codec.ChunkSize, 1)
	if err != nil {
		return list, err
	}
	for i, want := range reply.Digests {
		if ours[i] == want {
			continue
		}
		off := r.Off + block.Offset(i)*block.Offset(codec.ChunkSize)
		list = append(list, block.Range{Off: off, Len: min(codec.ChunkSize, block.Size(r.End()-off))})
	}
	return list, nil
}

// differing asks for r, of scanGroup at most, in chunks of the given size, reads the disk after the reply, and visits the
// chunks that differ. It returns the delta as of which the target answered.
func (s *scanner) differing(ctx context.Context, r block.Range, chunk block.Size, visit func(block.Range)) (block.Seq, error) {
	if err := s.request(r, chunk, 1); err != nil {
		return 0, err
	}
	return s.unequal(ctx, r, chunk, visit)
}

// unequal does the same for a request that has been sent.
func (s *scanner) unequal(ctx context.Context, r block.Range, chunk block.Size, visit func(block.Range)) (block.Seq, error) {
	reply, err := s.reply(r, chunk, 1)
	if err != nil {
		return 0, err
	}
	i := 0
	err = s.read(ctx, r, chunk, func(d block.Digest) {
		if start := block.Size(i) * chunk; d != reply.Digests[i] {
			visit(block.Range{Off: r.Off + block.Offset(start), Len: min(chunk, r.Len-start)})
		}
		i++
	})
	return reply.Seq, err
}

// comparison is one run over a part of a disk.
type comparison struct {
	disk    *disk
	session *link.Session
	part    block.Range
	readers int
	pace    *pacer
	narrow  bool // what differs to the blocks that do
	// visit is called for what differs, by several readers at once. It may use the scanner's stream.
	visit func(*scanner, block.Range) error
	// reached is called with the end of what has been compared and visited without a gap; never by two at once.
	reached func(block.Offset)
}

// run compares the part.
func (c *comparison) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	windows := make(chan block.Range)
	mark := waterMark{at: c.part.Off, ends: map[block.Offset]block.Offset{}}
	var wg sync.WaitGroup
	for range c.readers {
		wg.Go(func() {
			if err := c.read(ctx, windows, &mark); err != nil {
				cancel(err)
			}
		})
	}
	window := scanWindow
	if c.pace.rate > 0 { // in small steps, so that the target's share of the work is spread too
		window = scanGroup
	}
	for r := c.part; !r.Empty() && ctx.Err() == nil; {
		n := min(r.Len, window)
		select {
		case windows <- block.Range{Off: r.Off, Len: n}:
		case <-ctx.Done():
		}
		r = block.Range{Off: r.Off + block.Offset(n), Len: r.Len - n}
	}
	close(windows)
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("compare %s: %w", c.disk.path, err)
	}
	return nil
}

// read compares windows until there are no more.
func (c *comparison) read(ctx context.Context, windows <-chan block.Range, mark *waterMark) error {
	s, end, err := newScanner(ctx, c.disk, c.session)
	if err != nil {
		return err
	}
	defer end()
	for r := range windows {
		differ, err := s.window(ctx, r, c.pace)
		if err == nil && c.narrow {
			differ, err = s.narrow(ctx, differ)
		}
		if err != nil {
			return err
		}
		for _, part := range differ {
			if err := c.visit(s, part); err != nil {
				return err
			}
		}
		mark.finish(r, c.reached)
	}
	return nil
}

// waterMark is how far a comparison has come without a gap.
type waterMark struct {
	mu   sync.Mutex
	at   block.Offset
	ends map[block.Offset]block.Offset // of windows that are finished beyond at, by where they begin
}

func (m *waterMark) finish(r block.Range, reached func(block.Offset)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ends[r.Off] = r.End()
	for {
		end, ok := m.ends[m.at]
		if !ok {
			break
		}
		delete(m.ends, m.at)
		m.at = end
	}
	reached(m.at)
}
