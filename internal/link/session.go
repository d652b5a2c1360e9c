package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/internal/wire"
)

// Session is one authenticated connection of two ends, with any number of streams, which either end may open. It is safe
// for concurrent use. Close it.
type Session struct {
	c       conn
	carrier Carrier
	peer    Peer
	version uint16
	open    *atomic.Int32 // streams that the peer opened and that aren't closed here; over all its sessions at a listener
}

// Dial connects to a listener at addr (HOST:PORT) and greets it. When it fails, the error is one line that says why and
// what to do; Permanent tells whether to dial again.
func Dial(ctx context.Context, carrier Carrier, addr string, cfg Config) (*Session, error) {
	cfg, err := cfg.withDefaults(wire.RoleSource)
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, cfg.Handshake)
	defer cancel()
	s, err := dial(limited, carrier, addr, cfg)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, dialError(carrier, addr, err)
	}
	return s, nil
}

func dial(ctx context.Context, carrier Carrier, addr string, cfg Config) (*Session, error) {
	c, err := dialConn(ctx, carrier, addr, cfg.Credentials.tlsConfig(), cfg)
	if err != nil {
		return nil, err
	}
	peer, version, err := greet(ctx, c, cfg)
	if err != nil {
		return nil, err
	}
	if err := c.start(ctx, newBudget(cfg.memory)); err != nil {
		c.close(nil)
		return nil, err
	}
	s := &Session{c: c, carrier: carrier, peer: peer, version: version, open: new(atomic.Int32)}
	go s.watch(cfg)
	return s, nil
}

func dialConn(ctx context.Context, carrier Carrier, addr string, config *tls.Config, cfg Config) (conn, error) {
	switch carrier {
	case TCP:
		return dialTCP(ctx, addr, config, cfg)
	case QUIC:
		return dialQUIC(ctx, addr, config, cfg)
	}
	return nil, fmt.Errorf("no such carrier as %q", string(carrier))
}

// watch ends the session when the peer's certificate does not stand any more.
func (s *Session) watch(cfg Config) {
	tick := time.NewTicker(standEvery)
	defer tick.Stop()
	for last := cfg.Credentials; ; {
		select {
		case <-s.c.done():
			return
		case <-tick.C:
		}
		now := cfg.Current()
		if now == last {
			continue
		}
		last = now
		if err := now.trust.stands(s.peer.Certificate); err != nil {
			cfg.Log.Warn("session ended", "host", s.peer.Host, "err", err)
			s.Close(err)
			return
		}
	}
}

// Peer is who is at the other end.
func (s *Session) Peer() Peer { return s.peer }

// Carrier is what the session runs on.
func (s *Session) Carrier() Carrier { return s.carrier }

// Version is the version of the protocol that both ends speak.
func (s *Session) Version() uint16 { return s.version }

// OpenStream opens a stream. The peer sees it with the first thing that is sent and flushed.
func (s *Session) OpenStream(ctx context.Context) (*Stream, error) {
	raw, err := s.c.open(ctx)
	if err != nil {
		return nil, s.broken("open stream", err)
	}
	return newStream(s, raw, func() {}), nil
}

// AcceptStream waits for a stream that the peer opens. It fails when the session has ended or ctx has.
func (s *Session) AcceptStream(ctx context.Context) (*Stream, error) {
	for {
		raw, err := s.c.accept(ctx)
		if err != nil {
			return nil, s.broken("accept stream", err)
		}
		if s.open.Add(1) <= maxStreams {
			return newStream(s, raw, func() { s.open.Add(-1) }), nil
		}
		s.open.Add(-1)
		raw.finish(false)
	}
}

// Close ends the session and everything on it. The peer is told err as the reason, nil for none; an err that is no
// *wire.Error is told as an internal one. What was flushed and not answered may not have arrived. Close waits until all
// that belongs to the session has stopped, a second or so at the most. The first call counts.
func (s *Session) Close(err error) { s.c.close(asWire(err)) }

// Done is closed when the session has ended, by either end or by itself.
func (s *Session) Done() <-chan struct{} { return s.c.done() }

// Err is why the session has ended: the peer's reason if it gave one. It is nil before, and after a Close at this end.
func (s *Session) Err() error {
	select {
	case <-s.c.done():
		return s.c.cause()
	default:
		return nil
	}
}

// Stats are the bytes a session has moved, as the network sees them: with TLS, without headers of TCP, UDP or IP.
type Stats struct{ In, Out uint64 }

// Stats counts up to now.
func (s *Session) Stats() Stats {
	in, out := s.c.traffic()
	return Stats{In: in, Out: out}
}

// broken makes err one that Broken knows, and prefers the reason for which the whole session has ended.
func (s *Session) broken(op string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return &brokenError{op, err}
	}
	select {
	case <-s.c.done():
		if err = s.c.cause(); err == nil {
			err = ErrClosed
		}
	default:
	}
	return &brokenError{op, err}
}
