package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/quic-go/quic-go"

	"github.com/understudy-dr/understudy/internal/wire"
)

// The QUIC carrier: Hello and Welcome travel on the first stream, which is used for nothing else. The reason to close
// travels in QUIC's own close (RFC 9000, 10.2), its code and its text.

// quicConn is a conn.
type quicConn struct {
	c      *quic.Conn
	dialer bool
	idle   time.Duration
	once   sync.Once

	greeted bool // greeting was called
}

func quicConfig(cfg Config) *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           cfg.Handshake,
		MaxIdleTimeout:                 cfg.Idle,
		KeepAlivePeriod:                cfg.Idle / 3,
		InitialStreamReceiveWindow:     quicFirstWindow,
		MaxStreamReceiveWindow:         quicWindow,
		InitialConnectionReceiveWindow: quicConnFirst,
		MaxConnectionReceiveWindow:     quicConnWindow,
		MaxIncomingStreams:             maxStreams + 1, // and the first one
		MaxIncomingUniStreams:          -1,
	}
}

func dialQUIC(ctx context.Context, addr string, config *tls.Config, cfg Config) (conn, error) {
	c, err := quic.DialAddr(ctx, addr, config, quicConfig(cfg))
	if err != nil {
		return nil, quicError(err, cfg.Idle)
	}
	return &quicConn{c: c, dialer: true, idle: cfg.Idle}, nil
}

func (c *quicConn) certificates() []*x509.Certificate {
	return c.c.ConnectionState().TLS.PeerCertificates
}

func (c *quicConn) protocol() string                     { return c.c.ConnectionState().TLS.NegotiatedProtocol }
func (c *quicConn) remote() net.Addr                     { return c.c.RemoteAddr() }
func (c *quicConn) done() <-chan struct{}                { return c.c.Context().Done() }
func (c *quicConn) start(context.Context, *budget) error { return nil } // a connection has a window of its own

func (c *quicConn) traffic() (in, out uint64) {
	s := c.c.ConnectionStats()
	return s.BytesReceived, s.BytesSent
}

func (c *quicConn) greeting(ctx context.Context) (greeter, error) {
	var s *quic.Stream
	var err error
	c.greeted = true
	if c.dialer {
		s, err = c.c.OpenStreamSync(ctx)
	} else {
		s, err = c.c.AcceptStream(ctx)
	}
	if err != nil {
		return nil, quicError(err, c.idle)
	}
	return &quicStream{s, c}, nil
}

func (c *quicConn) open(ctx context.Context) (rawStream, error) {
	s, err := c.c.OpenStreamSync(ctx)
	if err != nil {
		return nil, quicError(err, c.idle)
	}
	return &quicStream{s, c}, nil
}

func (c *quicConn) accept(ctx context.Context) (rawStream, error) {
	s, err := c.c.AcceptStream(ctx)
	if err != nil {
		return nil, quicError(err, c.idle)
	}
	return &quicStream{s, c}, nil
}

func (c *quicConn) close(reason *wire.Error) {
	c.once.Do(func() {
		if reason == nil {
			c.c.CloseWithError(0, "")
			return
		}
		if c.dialer && !c.greeted {
			c.tellEarly(reason)
		}
		text := reason.Text
		for len(text) > maxReason {
			_, n := utf8.DecodeLastRuneInString(text)
			text = text[:len(text)-n]
		}
		c.c.CloseWithError(quic.ApplicationErrorCode(reason.Code), text)
	})
}

// tellEarly says no in place of the hello. A close alone may overtake the end of the handshake, and then the listener
// never hears of this connection. It hangs up when it has read the reason.
func (c *quicConn) tellEarly(reason *wire.Error) {
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	g, err := c.greeting(ctx)
	if err != nil || writeMessage(g, reason) != nil {
		return
	}
	select {
	case <-c.done():
	case <-ctx.Done():
	}
}

func (c *quicConn) cause() error {
	select {
	case <-c.done():
	default:
		return nil
	}
	err := quicError(context.Cause(c.c.Context()), c.idle)
	var broken *brokenError
	if errors.As(err, &broken) {
		err = broken.err
	}
	if errors.Is(err, ErrClosed) {
		return nil
	}
	return err
}

// quicStream is a rawStream.
type quicStream struct {
	*quic.Stream
	c *quicConn
}

func (s *quicStream) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	return n, quicError(err, s.c.idle)
}

func (s *quicStream) Write(b []byte) (int, error) {
	n, err := s.Stream.Write(b)
	return n, quicError(err, s.c.idle)
}

// finish must not call Close beside a Write (quic-go's rule), which would be cut off anyhow.
func (s *quicStream) finish(writing bool) {
	s.CancelRead(0)
	if writing {
		s.CancelWrite(0)
		return
	}
	s.Stream.Close()
}

// quicError turns what ends a connection or a stream into our own words. Ends of streams, deadlines and contexts stay.
func quicError(err error, idle time.Duration) error {
	var app *quic.ApplicationError
	var transport *quic.TransportError
	var reset *quic.StreamError
	switch {
	case err == nil || err == io.EOF:
		return err
	case errors.As(err, &app):
		switch {
		case !app.Remote:
			return &brokenError{"quic", ErrClosed}
		case app.ErrorCode == 0:
			return &brokenError{"quic", ErrPeerGone}
		}
		return &brokenError{"quic", &wire.Error{Code: wire.Code(app.ErrorCode), Text: strings.ToValidUTF8(app.ErrorMessage, "?")}}
	case errors.As(err, new(*quic.IdleTimeoutError)):
		return &brokenError{"quic", fmt.Errorf("no sign of life from the peer for %v: it or the network is down", idle)}
	case errors.As(err, new(*quic.StatelessResetError)):
		return &brokenError{"quic", ErrPeerGone}
	case errors.As(err, &reset):
		if reset.Remote {
			return &brokenError{"quic", errReset}
		}
		return &brokenError{"quic", ErrClosed}
	case errors.As(err, &transport) && transport.Remote && transport.ErrorCode.IsCryptoError():
		return fmt.Errorf("the peer broke the TLS handshake off; is it an understudy of this site? %w", err)
	}
	return err
}

// errReset: the peer gave the stream up.
var errReset = errors.New("the peer closed the stream")
