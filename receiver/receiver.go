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

	counts   counts
	refusals link.LogLimit
	signer   *Signer // nil: this receiver has no CA

	hashing  *turns        // of scans
	patience time.Duration // with a stream that says nothing

	folders sync.WaitGroup
	foldMu  sync.Mutex
	folding map[*replica]bool
}

// New opens the directory and recovers every journal in it. It starts nothing. Close what it returns.
//
// signer signs the certificates of hosts; nil where the CA is elsewhere.
func New(cfg Config, codec block.Codec, signer *Signer, log *slog.Logger) (*Receiver, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s, err := openStore(cfg.Dir, codec)
	if err != nil {
		return nil, err
	}
	r := &Receiver{
		cfg: cfg, codec: codec, log: log, store: s, folding: map[*replica]bool{}, signer: signer,
		refusals: link.LogLimit{Log: log}, hashing: newTurns(runtime.NumCPU()), patience: firstMessage,
	}
	r.counts.begin()
	return r, nil
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
	defer r.counts.enter(s.Peer().Role)()
	log.Info("session opened", "carrier", string(s.Carrier()), "addr", s.Peer().Addr, "serial", s.Peer().Serial)
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
			if what, err := r.answer(ctx, s.Peer(), stream); err != nil {
				r.refuse(s.Peer(), what, stream, err)
			}
		})
	}
	s.Close(nil)
	wg.Wait()
	log.Info("session closed", "reason", s.Err())
}

// refuse tells the peer why its request failed, and the log who wanted what. A stream that broke by itself has nobody to tell.
func (r *Receiver) refuse(peer link.Peer, what string, stream *link.Stream, err error) {
	e := (*wire.Error)(nil)
	if !errors.As(err, &e) {
		if link.Broken(err) {
			return
		}
		e = wire.Errorf(wire.CodeInternal, "%v", err)
	}
	r.counts.refusals.Add(refusal{peer.Role, e.Code}, 1)
	r.refusals.Warn(peer.Host, "refused", "peer", peer.Host, "role", peer.Role.String(), "addr", peer.Addr, "serial", peer.Serial,
		"what", what, "code", e.Code.String(), "err", e.Text)
	stream.SetDeadline(time.Now().Add(5 * time.Second))
	if stream.Send(e) == nil && stream.Flush() == nil {
		stream.CloseWrite()
	}
}

// answer reads a stream's first message and does what it asks, if the table in authorise.go lets the peer. It tells what was
// asked for, for the log of a refusal.
func (r *Receiver) answer(ctx context.Context, peer link.Peer, stream *link.Stream) (what string, err error) {
	stream.SetDeadline(time.Now().Add(r.patience))
	got, err := stream.Receive()
	if err != nil {
		return "", err
	}
	if got.Message == nil {
		return "a part of a delta", wire.Errorf(wire.CodeProtocol, "a stream can't begin with a part of a delta")
	}
	stream.SetDeadline(time.Time{})
	req := requestOf(got.Message)
	may, err := authorise(peer, req)
	if err != nil {
		return req.String(), err
	}
	return req.String(), r.grant(ctx, peer, may, stream, got.Message)
}

// grant does what a peer may ask for, of the disks that it may ask it of.
func (r *Receiver) grant(ctx context.Context, peer link.Peer, may reach, stream *link.Stream, m wire.Message) error {
	switch m := m.(type) {
	case *wire.Open:
		return r.replicate(ctx, may, stream, m)
	case *wire.ScanRequest:
		return r.scan(ctx, may, stream, m)
	case *wire.Query:
		return r.query(may, stream, m)
	case *wire.Command:
		return r.command(ctx, may, stream, m)
	case *wire.Read:
		return r.restore(ctx, may, stream, m)
	case *wire.Renew:
		return r.renew(peer, stream, m)
	case *wire.Invite:
		return r.invite(peer, stream, m)
	case *wire.Revoke:
		return r.revoke(peer, stream, m)
	}
	return wire.Errorf(wire.CodeProtocol, "a stream can't begin with %T", m)
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
