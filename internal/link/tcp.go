package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/understudy-dr/understudy/internal/wire"
)

// The TCP carrier: Hello and Welcome travel on the bare TLS connection; then yamux takes it over. The first stream, opened
// by the dialer, is for one message only: the Error with which either end closes.

// tcpConn is a conn.
type tcpConn struct {
	tls     *tls.Conn
	batch   *batchConn
	dialer  bool
	idle    time.Duration
	mux     *yamux.Session // nil before start
	meter   *meter         // likewise
	control *yamux.Stream

	once  sync.Once
	ended chan struct{}
	mu    sync.Mutex
	why   error
	local bool // closed at this end first
}

func dialTCP(ctx context.Context, addr string, config *tls.Config, cfg Config) (conn, error) {
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return handshakeTCP(ctx, raw, cfg.Idle, func(c net.Conn) *tls.Conn { return tls.Client(c, config) }, true)
}

// handshakeTCP encrypts a connection. It closes raw when it fails.
func handshakeTCP(ctx context.Context, raw net.Conn, idle time.Duration, secure func(net.Conn) *tls.Conn, dialer bool) (conn, error) {
	tuneTCP(raw, idle)
	batch := newBatchConn(raw)
	c := &tcpConn{tls: secure(batch), batch: batch, dialer: dialer, idle: idle, ended: make(chan struct{})}
	if err := c.tls.HandshakeContext(ctx); err != nil {
		raw.Close()
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "remote error" {
			err = fmt.Errorf("the peer broke the TLS handshake off; is it an understudy of this site? %w", err)
		}
		return nil, err
	}
	return c, nil
}

func (c *tcpConn) certificates() []*x509.Certificate { return c.tls.ConnectionState().PeerCertificates }

func (c *tcpConn) protocol() string          { return c.tls.ConnectionState().NegotiatedProtocol }
func (c *tcpConn) remote() net.Addr          { return c.tls.RemoteAddr() }
func (c *tcpConn) done() <-chan struct{}     { return c.ended }
func (c *tcpConn) traffic() (in, out uint64) { return c.batch.in.Load(), c.batch.out.Load() }

func (c *tcpConn) greeting(context.Context) (greeter, error) { return c.tls, nil }

func (c *tcpConn) cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.why
}

// end notes why the connection ends, unless that is known already or it was this end.
func (c *tcpConn) end(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.why == nil && !c.local {
		c.why = why
	}
}

func (c *tcpConn) muxConfig() *yamux.Config {
	cfg := yamux.DefaultConfig()
	cfg.AcceptBacklog = acceptBacklog
	cfg.KeepAliveInterval = c.idle / 3
	cfg.ConnectionWriteTimeout = c.idle
	cfg.MaxStreamWindowSize = tcpWindow
	cfg.StreamCloseTimeout = lingerTimeout
	cfg.LogOutput = io.Discard // what it would say, cause says
	return cfg
}

// start hands the connection to yamux.
func (c *tcpConn) start(ctx context.Context, b *budget) error {
	if err := c.tls.SetDeadline(time.Time{}); err != nil {
		return err
	}
	var err error
	c.meter = newMeter(c.tls, b)
	if c.dialer {
		if c.mux, err = yamux.Client(&muxConn{Conn: c.meter, batch: c.batch}, c.muxConfig()); err == nil {
			c.control, err = c.mux.OpenStream()
		}
	} else {
		if c.mux, err = yamux.Server(&muxConn{Conn: c.meter, batch: c.batch}, c.muxConfig()); err == nil {
			c.control, err = c.mux.AcceptStreamWithContext(ctx)
		}
	}
	if c.mux == nil {
		return err
	}
	go c.watch()
	if err != nil {
		c.close(nil)
		return err
	}
	go c.readControl(c.control)
	return nil
}

// watch closes ended when yamux has ended.
func (c *tcpConn) watch() {
	<-c.mux.CloseChan()
	c.meter.end()
	var err error
	for err == nil { // what yamux died of, it tells here only
		_, err = c.mux.AcceptStream()
	}
	switch {
	case errors.Is(err, io.EOF):
		err = ErrPeerGone
	case errors.Is(err, yamux.ErrKeepAliveTimeout):
		err = fmt.Errorf("no sign of life from the peer for %v: it or the network is down", c.idle)
	}
	c.end(err)
	close(c.ended)
}

// readControl waits for the peer's reason to close, and closes.
func (c *tcpConn) readControl(control *yamux.Stream) {
	m, err := readGreeting(control)
	if err != nil {
		if !c.mux.IsClosed() {
			c.end(ErrPeerGone)
			c.mux.Close()
		}
		return
	}
	if reason, ok := m.(*wire.Error); ok {
		c.end(reason)
	} else {
		c.end(wire.Errorf(wire.CodeProtocol, "%v on the control stream", m.Type()))
	}
	c.mux.Close()
}

func (c *tcpConn) close(reason *wire.Error) {
	c.once.Do(func() {
		c.mu.Lock()
		c.local = true
		c.mu.Unlock()
		if c.mux == nil {
			c.closeEarly(reason)
			close(c.ended)
			return
		}
		if reason != nil && c.control != nil {
			c.tell(reason)
		}
		c.mux.Close()
		<-c.ended
	})
}

// closeEarly is close before yamux has taken over. The peer may be writing its hello: it is read, or the kernel would
// answer with a reset, and the reason would be lost.
func (c *tcpConn) closeEarly(reason *wire.Error) {
	if reason != nil {
		c.tls.SetDeadline(time.Now().Add(farewell))
		if writeMessage(c.tls, reason) == nil && c.tls.CloseWrite() == nil {
			io.CopyN(io.Discard, c.tls, 2*wire.MaxGreeting)
		}
	}
	c.tls.Close()
}

// tell sends the reason and waits until the peer has hung up. The write may be stuck behind others; then it is given up.
func (c *tcpConn) tell(reason *wire.Error) {
	go writeMessage(c.control, reason) // returns when yamux closes, at the latest
	select {
	case <-c.mux.CloseChan():
	case <-time.After(farewell):
	}
}

func (c *tcpConn) open(ctx context.Context) (rawStream, error) {
	type result struct {
		s   *yamux.Stream
		err error
	}
	opened := make(chan result, 1)
	go func() { // yamux knows no context; its own limit is the idle time
		s, err := c.mux.OpenStream()
		opened <- result{s, err}
	}()
	select {
	case r := <-opened:
		if r.err != nil {
			return nil, c.streamError(r.err)
		}
		return c.stream(r.s), nil
	case <-ctx.Done():
		go func() {
			if r := <-opened; r.err == nil {
				r.s.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

func (c *tcpConn) accept(ctx context.Context) (rawStream, error) {
	s, err := c.mux.AcceptStreamWithContext(ctx)
	if err != nil {
		return nil, c.streamError(err)
	}
	return c.stream(s), nil
}

func (c *tcpConn) stream(s *yamux.Stream) *tcpStream {
	c.meter.own(s.StreamID(), s.Shrink)
	return &tcpStream{s, c}
}

// streamError tells the end of the session from that of a stream. yamux makes the former look like a clean end of each
// stream, which it is not.
func (c *tcpConn) streamError(err error) error {
	if err == nil || !c.mux.IsClosed() {
		return err
	}
	<-c.ended
	why := c.cause()
	if why == nil {
		why = ErrClosed
	}
	return &brokenError{"stream", why}
}

// tcpStream is a rawStream.
type tcpStream struct {
	*yamux.Stream
	c *tcpConn
}

func (s *tcpStream) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	s.c.meter.read(s.Stream.StreamID(), n)
	return n, s.c.streamError(err)
}

func (s *tcpStream) Write(b []byte) (int, error) {
	n, err := s.Stream.Write(b)
	return n, s.c.streamError(err)
}

// finish makes blocked calls return, too: a Read goes on after yamux's Close.
func (s *tcpStream) finish(bool) {
	s.Stream.Close()
	s.SetDeadline(time.Now())
	s.c.meter.finish(s.Stream.StreamID())
}
