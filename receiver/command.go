package receiver

import (
	"context"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/wire"
)

// command does what an operator asks, tells how far it is, and answers with a JSON document.
func (r *Receiver) command(ctx context.Context, may reach, stream *link.Stream, c *wire.Command) error {
	rep, err := r.store.find(c.Disk, may)
	if err != nil {
		return err
	}
	progress := func(done, total block.Size) error {
		stream.SetDeadline(time.Now().Add(replyTime))
		if err := stream.Send(&wire.Progress{Done: done, Total: total}); err != nil {
			return err
		}
		return stream.Flush()
	}
	doc, err := r.obey(ctx, rep, c, progress)
	if err != nil {
		return storageError(err)
	}
	r.counts.commands.Add(c.Kind.String(), 1) // one that obey knows
	return reply(stream, doc)
}

// obey is the table of the commands.
func (r *Receiver) obey(ctx context.Context, rep *replica, c *wire.Command, progress func(done, total block.Size) error) (any, error) {
	switch c.Kind {
	case wire.CommandPromote:
		return r.promote(rep)
	case wire.CommandAccept:
		return r.accept(rep)
	case wire.CommandPin, wire.CommandUnpin:
		return r.pin(rep, c.Point, c.Kind == wire.CommandPin)
	case wire.CommandAudit:
		return r.audit(ctx, rep, progress)
	}
	return nil, wire.Errorf(wire.CodeProtocol, "unknown command %v", c.Kind)
}
