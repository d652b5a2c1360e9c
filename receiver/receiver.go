package receiver

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/wire"
)

// Listener is where sessions come from: a link.Listener.
type Listener interface {
	Accept(ctx context.Context) (*link.Session, error)
}

// Receiver holds the copies of disks. Make it with New; Run does the work.
type Receiver struct {
	cfg   Config
	codec block.Codec
	log   *slog.Logger
	store *store

	hashing chan struct{} // a token for each scan that reads now

	folders sync.WaitGroup
	foldMu  sync.Mutex
	folding map[*replica]bool
}

// New opens the directory and recovers every journal in it. It starts nothing. Close what it returns.
func New(cfg Config, codec block.Codec, log *slog.Logger) (*Receiver, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s, err := openStore(cfg.Dir, codec)
	if err != nil {
		return nil, err
	}
	return &Receiver{cfg: cfg, codec: codec, log: log, store: s, folding: map[*replica]bool{}, hashing: make(chan struct{}, max(2, runtime.NumCPU()))}, nil
}

// Close lets go of the directory. Run must have returned.
func (r *Receiver) Close() error { return r.store.close() }

// Run serves the sessions of l until ctx ends, and returns when all of it has stopped.
func (r *Receiver) Run(ctx context.Context, l Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer r.folders.Wait()
	defer wg.Wait()
	defer cancel()
	for _, rep := range r.store.all() {
		r.startFolder(ctx, rep)
	}
	for {
		s, err := l.Accept(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		wg.Go(func() { r.serve(ctx, s) })
	}
}

// serve answers the streams of one session.
func (r *Receiver) serve(ctx context.Context, s *link.Session) {
	log := r.log.With("peer", s.Peer().Host, "role", s.Peer().Role.String())
	log.Info("session opened", "carrier", string(s.Carrier()), "addr", s.Peer().Addr)
	stop := context.AfterFunc(ctx, func() { s.Close(wire.Errorf(wire.CodeShutdown, "the receiver is stopping")) })
	defer stop()
	var wg sync.WaitGroup
	for {
		stream, err := s.AcceptStream(ctx)
		if err != nil {
			break
		}
		wg.Go(func() {
			defer stream.Close()
			if err := r.answer(ctx, s.Peer(), stream); err != nil {
				r.refuse(log, stream, err)
			}
		})
	}
	s.Close(nil)
	wg.Wait()
	log.Info("session closed", "reason", s.Err())
}

// refuse tells the peer why its request failed. A stream that broke by itself has nobody to tell.
func (r *Receiver) refuse(log *slog.Logger, stream *link.Stream, err error) {
	e := (*wire.Error)(nil)
	if !errors.As(err, &e) {
		if link.Broken(err) {
			return
		}
		e = wire.Errorf(wire.CodeInternal, "%v", err)
	}
	log.Warn("refused", "code", e.Code.String(), "err", e.Text)
	stream.SetDeadline(time.Now().Add(5 * time.Second))
	if stream.Send(e) == nil && stream.Flush() == nil {
		stream.CloseWrite()
	}
}

// answer reads a stream's first message and does what it asks, if the peer's role may.
func (r *Receiver) answer(ctx context.Context, peer link.Peer, stream *link.Stream) error {
	got, err := stream.Receive()
	if err != nil {
		return err
	}
	may := func(roles ...wire.Role) error {
		for _, role := range roles {
			if peer.Role == role {
				return nil
			}
		}
		return wire.Errorf(wire.CodeForbidden, "%s is a %s and may not send %T", peer.Host, peer.Role, got.Message)
	}
	switch m := got.Message.(type) {
	case *wire.Open:
		if err := may(wire.RoleSource); err != nil {
			return err
		}
		return r.replicate(ctx, peer, stream, m)
	case *wire.ScanRequest:
		if err := may(wire.RoleSource); err != nil {
			return err
		}
		return r.scan(ctx, peer.Host, stream, m)
	case *wire.Query:
		if err := may(wire.RoleOperator, wire.RoleSource); err != nil {
			return err
		}
		return r.query(stream, m)
	case *wire.Command:
		if err := may(wire.RoleOperator); err != nil {
			return err
		}
		return r.command(ctx, stream, m)
	case *wire.Read:
		if err := may(wire.RoleOperator); err != nil {
			return err
		}
		return r.restore(ctx, stream, m)
	}
	return wire.Errorf(wire.CodeProtocol, "a stream can't begin with %T", got.Message)
}

// Alive tells whether the receiver works: that what all its sessions share can be had. Where one of them never lets go of that, it
// does not return. It waits for no disk: a slow one is no reason to start the receiver anew.
func (r *Receiver) Alive() bool {
	r.store.mu.Lock()
	disks := make([]*replica, 0, len(r.store.disks))
	for _, rep := range r.store.disks {
		disks = append(disks, rep)
	}
	r.store.mu.Unlock()
	for _, rep := range disks {
		_ = rep.source() // that the lock can be had is all
	}
	r.foldMu.Lock()
	defer r.foldMu.Unlock()
	return true
}
