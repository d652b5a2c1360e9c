package receiver

import (
	"context"
	"errors"
	"hash"
	"io"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/codec"
	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/wire"
)

// restore streams a disk as of a recovery point: frames of its content in the order of the disk, holes and zeroes as ranges.
// The digest at the end is over the frames as sent.
func (r *Receiver) restore(ctx context.Context, may reach, stream *link.Stream, req *wire.Read) error {
	rep, err := r.store.find(req.Disk, may)
	if err != nil {
		return err
	}
	point, err := selectPoint(rep.journal.Points(), req.Point)
	if err != nil {
		return err
	}
	view, err := rep.journal.View(point.Seq)
	if err != nil {
		return storageError(err)
	}
	defer rep.poke() // what the view kept from retention may go
	defer view.Close()
	size := view.Geometry().Size
	r.log.Info("restore", "disk", rep.name(), "point", point.Seq.String(), "to", "peer")
	if err := stream.Send(&wire.ReadStart{Disk: rep.journal.Meta().Disk, Seal: point.Seal, Size: size}); err != nil {
		return err
	}
	enc, err := codec.NewEncoder(codec.LevelNone)
	if err != nil {
		return err
	}
	out := &restoration{ctx: ctx, view: view, stream: stream, enc: enc, buf: make([]byte, block.MaxFrameData), digest: r.codec.NewDigest()}
	err = view.Extents(block.Range{Len: size}, func(e block.Extent) bool {
		out.err = out.extent(e)
		return out.err == nil
	})
	if err = errors.Join(err, out.err); err != nil {
		return storageError(err)
	}
	end := &wire.ReadEnd{Frames: out.frames}
	out.digest.Sum(end.Digest[:0])
	if err := stream.Send(end); err != nil {
		return err
	}
	if err := stream.Flush(); err != nil {
		return err
	}
	rep.counts.restores.Add(1)
	return nil
}

// restoration is one restore under way.
type restoration struct {
	ctx    context.Context
	view   block.Device
	stream *link.Stream
	enc    *codec.Encoder
	buf    []byte
	digest hash.Hash
	frames uint64
	err    error
}

func (o *restoration) extent(e block.Extent) error {
	if e.Hole {
		return o.put(codec.Zero(e.Range), nil)
	}
	for r := e.Range; !r.Empty(); {
		if err := o.ctx.Err(); err != nil {
			return err
		}
		n := min(r.Len, block.MaxFrameData)
		buf := o.buf[:n]
		if _, err := o.view.ReadAt(buf, int64(r.Off)); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		err := o.putData(r.Off, buf)
		if err != nil {
			return err
		}
		r = block.Range{Off: r.Off + block.Offset(n), Len: r.Len - n}
	}
	return nil
}

func (o *restoration) putData(off block.Offset, data []byte) error {
	if codec.IsZero(data) {
		return o.put(codec.Zero(block.Range{Off: off, Len: block.Size(len(data))}), nil)
	}
	f := o.enc.Data(off, data)
	return o.put(f.Header, f.Payload)
}

func (o *restoration) put(h block.FrameHeader, payload []byte) error {
	h.Number = uint32(o.frames)
	o.frames++
	o.digest.Write(h.Append(nil))
	o.digest.Write(payload)
	o.stream.SetDeadline(time.Now().Add(2 * time.Minute))
	return o.stream.SendFrame(h, payload)
}
