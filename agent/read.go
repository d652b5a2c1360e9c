package agent

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/codec"
)

// How a pass goes over the dirty set:
//
//  1. dispatch takes runs out of the set, marks them sent, and queues some at a time (one goroutine, in order of the disk)
//  2. readers read runs O_DIRECT, cut the zeroes out and encode the rest             (in parallel)
//  3. delta.put numbers the frames and hands them to the stream                      (one at a time)
//
// A run is marked sent before it is read, so a write that lands after the read marks it anew. Passes do not overlap: the
// next begins when the last frame of this one is put, so a block's later content has the later frame.
const (
	// runBytes is the most that one reader takes at once: enough that zero ranges grow long, little enough to share out.
	runBytes = 16 * block.MiB
	// readBytes is one read of the disk.
	readBytes = block.MiB
	// readers work side by side for a pass, while other disks' passes leave them something to work with (passWorkers).
	readers = 3
	// passDepth is how many pieces each of them has read at once. Random writes leave pieces of a block here and there, and a disk
	// takes as long for a few of those as for one; with more, applications would feel a pass.
	passDepth = 8
	// zeroUnit is the smallest run of zeroes that is cut out of data.
	zeroUnit = 4 * block.KiB
)

// pump reads blocks of one disk and turns them into frames.
type pump struct {
	dev  block.Device
	set  *capture.Set
	size block.Size
	work *lender[readWorker] // shared with other disks
	rate readRate
	read atomic.Int64 // bytes of disk that were read to be sent
}

// readWorker is what a reader works with.
type readWorker struct {
	buf   []byte
	batch *block.Batch
	reads []block.Read // of a batch, in buf
	enc   *codec.Encoder
}

func newPump(dev block.Device, set *capture.Set, work *lender[readWorker]) *pump {
	return &pump{dev: dev, set: set, size: dev.Geometry().Size, work: work}
}

// pass sends what the set holds and the open delta lacks, until stop says that the delta is large enough.
func (p *pump) pass(ctx context.Context, d *delta, stop func() bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	runs := make(chan []block.Range)
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			for some := range runs {
				err := p.work.borrow(ctx, func(w *readWorker) error { return p.send(w, d, some) })
				if err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	p.dispatch(ctx, runs, stop)
	close(runs)
	wg.Wait()
	return context.Cause(ctx)
}

func (p *pump) dispatch(ctx context.Context, runs chan<- []block.Range, stop func() bool) {
	for next := block.Index(0); !stop(); {
		some := p.gather(&next)
		if len(some) == 0 {
			return
		}
		select {
		case runs <- some:
		case <-ctx.Done():
			return
		}
	}
}

// gather takes the next runs out of the set, as many as are read at once, and moves next behind them.
func (p *pump) gather(next *block.Index) (some []block.Range) {
	bs := p.set.BlockSize()
	limit := max(1, block.Count(runBytes/block.Size(bs)))
	for size := block.Size(0); len(some) < passDepth && size < readBytes; {
		run, ok := p.set.Next(*next, limit)
		if !ok {
			break
		}
		p.set.Sent(run)
		*next = run.End()
		some = append(some, run.Range(bs, p.size))
		size += some[len(some)-1].Len
	}
	return some
}

// send reads some runs and puts their frames. Zeroes grow over neighbouring reads, so that an empty disk costs next to nothing.
func (p *pump) send(w *readWorker, d *delta, some []block.Range) error {
	var zero block.Range
	flush := func() error {
		if zero.Empty() {
			return nil
		}
		r := zero
		zero = block.Range{}
		return w.put(d, r, nil)
	}
	visit := func(part block.Range, data []byte) error {
		if data == nil && part.Off == zero.End() && !zero.Empty() {
			zero.Len += part.Len
			return nil
		}
		if err := flush(); err != nil {
			return err
		}
		if data == nil {
			zero = part
			return nil
		}
		return w.put(d, part, data)
	}
	for len(some) > 0 {
		some = w.plan(some)
		took, err := timed(func() error { return w.batch.Read(p.dev, w.reads) })
		if err != nil {
			return fmt.Errorf("read disk: %w", err)
		}
		p.rate.add(w.reads, took)
		for _, r := range w.reads {
			p.read.Add(int64(len(r.Buf)))
			if err := split(r.Off, r.Buf, visit); err != nil {
				return err
			}
		}
	}
	return flush()
}

// plan makes reads of the first of the runs, as many as fit the buffer. It returns those that are left, the first one cut where the
// buffer ended.
func (w *readWorker) plan(some []block.Range) (left []block.Range) {
	w.reads = w.reads[:0]
	for room := w.buf; len(some) > 0 && len(room) > 0; {
		r := &some[0]
		part := min(r.Len, block.Size(len(room)))
		w.reads = append(w.reads, block.Read{Off: r.Off, Buf: room[:part]})
		room = room[min(directLen(part), block.Size(len(room))):]
		*r = block.Range{Off: r.Off + block.Offset(part), Len: r.Len - part}
		if r.Empty() {
			some = some[1:]
		}
	}
	return some
}

// directLen is the memory that n bytes take, so that what comes behind them is aligned again.
func directLen(n block.Size) block.Size {
	return (n + block.DirectAlign - 1) &^ (block.DirectAlign - 1)
}

// put encodes a part that split cut out and puts it into the delta.
func (w *readWorker) put(d *delta, r block.Range, data []byte) error {
	if data == nil {
		return d.put(codec.Zero(r), nil)
	}
	f := w.enc.Data(r.Off, data)
	return d.put(f.Header, f.Payload)
}

// readFull reads all of buf; a device that ends early is an error.
func readFull(dev block.Device, buf []byte, off block.Offset) error {
	if n, err := dev.ReadAt(buf, int64(off)); n < len(buf) {
		return fmt.Errorf("read disk: %d of %d bytes at offset %d: %w", n, len(buf), int64(off), err)
	}
	return nil
}

// split cuts buf, which lies at off, into runs of zeroes (data nil) and data of at most a frame's size.
func split(off block.Offset, buf []byte, visit func(r block.Range, data []byte) error) error {
	for len(buf) > 0 {
		n, zero := runOf(buf)
		r := block.Range{Off: off, Len: block.Size(n)}
		data := buf[:n]
		if zero {
			data = nil
		}
		if err := visit(r, data); err != nil {
			return err
		}
		buf, off = buf[n:], off+block.Offset(n)
	}
	return nil
}

// runOf is the length of what buf begins with, all zero units or all others, and which of the two.
func runOf(buf []byte) (n int, zero bool) {
	zero = codec.IsZero(buf[:min(len(buf), int(zeroUnit))])
	for n < len(buf) {
		unit := min(len(buf)-n, int(zeroUnit))
		if n > 0 && codec.IsZero(buf[n:n+unit]) != zero {
			break
		}
		if !zero && n+unit > int(block.MaxFrameData) {
			break
		}
		n += unit
	}
	return n, zero
}
