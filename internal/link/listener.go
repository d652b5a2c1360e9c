package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/understudy-dr/understudy/internal/metrics"
	"github.com/understudy-dr/understudy/internal/wire"
)

// Listener takes sessions on one port, UDP for QUIC and TCP for TLS. It greets peers by itself; whom it turns away, it
// says in the log of its Config.
type Listener struct {
	cfg    Config
	log    *LogLimit
	tcp    net.Listener
	udp    *quic.Transport
	quic   *quic.Listener
	gates  map[Carrier]*gate
	peers  peers
	ready  chan *Session
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	conns map[conn]Peer // greeted and not ended
	moved Stats         // by those that have ended

	away metrics.Tally[[2]string] // peers that got no session, by carrier and reason
}

// Listen listens at addr (HOST:PORT; port 0 takes a free one, the same for both carriers). Close what it returns.
func Listen(addr string, carriers []Carrier, cfg Config) (*Listener, error) {
	cfg, err := cfg.withDefaults(wire.RoleTarget)
	if err != nil {
		return nil, err
	}
	l := &Listener{
		cfg: cfg, log: &LogLimit{Log: cfg.Log}, ready: make(chan *Session), conns: map[conn]Peer{}, peers: peers{memory: cfg.memory},
		gates: map[Carrier]*gate{TCP: newGate(*cfg.gate), QUIC: newGate(*cfg.gate)},
	}
	l.beginCounts()
	l.ctx, l.cancel = context.WithCancel(context.Background())
	if err := l.bind(addr, carriers); err != nil {
		l.Close()
		if errors.Is(err, syscall.EADDRINUSE) {
			err = fmt.Errorf("%w: another program, or another receiver, has this port", err)
		}
		return nil, fmt.Errorf("listen at %s: %w", addr, err)
	}
	if l.tcp != nil {
		l.wg.Go(l.acceptTCP)
	}
	if l.quic != nil {
		l.wg.Go(l.acceptQUIC)
	}
	l.wg.Go(l.watch)
	return l, nil
}

// bind opens the sockets. With port 0 the port that TCP got may be taken on UDP: then another is tried.
func (l *Listener) bind(addr string, carriers []Carrier) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	for try := 0; ; try++ {
		if err = l.bindOnce(host, port, carriers); err == nil {
			return nil
		}
		l.unbind()
		if port != "0" || try == 10 || !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
	}
}

func (l *Listener) bindOnce(host, port string, carriers []Carrier) error {
	for _, carrier := range carriers {
		addr := net.JoinHostPort(host, port)
		switch carrier {
		case TCP:
			tcp, err := net.Listen("tcp", addr)
			if err != nil {
				return err
			}
			l.tcp = tcp
			_, port, _ = net.SplitHostPort(tcp.Addr().String())
		case QUIC:
			udp, err := net.ListenPacket("udp", addr)
			if err != nil {
				return err
			}
			l.udp = &quic.Transport{Conn: udp, VerifySourceAddress: l.gates[QUIC].suspicious, ConnContext: l.knockQUIC}
			config := quicConfig(l.cfg)
			config.HandshakeIdleTimeout /= 2 // quic-go gives the whole handshake twice as long
			if l.quic, err = l.udp.Listen(l.serverConfig(), config); err != nil {
				return err
			}
			_, port, _ = net.SplitHostPort(udp.LocalAddr().String())
		default:
			return fmt.Errorf("no such carrier as %q", string(carrier))
		}
	}
	if l.tcp == nil && l.quic == nil {
		return errors.New("no carrier to listen on")
	}
	return nil
}

func (l *Listener) unbind() {
	if l.tcp != nil {
		l.tcp.Close()
	}
	if l.quic != nil {
		l.quic.Close()
	}
	if l.udp != nil {
		l.udp.Close()
		l.udp.Conn.Close()
	}
	l.tcp, l.quic, l.udp = nil, nil, nil
}

// Addr is where a carrier listens, nil if it does not.
func (l *Listener) Addr(carrier Carrier) net.Addr {
	switch {
	case carrier == TCP && l.tcp != nil:
		return l.tcp.Addr()
	case carrier == QUIC && l.quic != nil:
		return l.quic.Addr()
	}
	return nil
}

// Accept waits for the next session. It fails when the listener is closed or ctx has ended.
func (l *Listener) Accept(ctx context.Context) (*Session, error) {
	select {
	case s := <-l.ready:
		return s, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.ctx.Done():
		return nil, ErrClosed
	}
}

// Close stops listening and ends every session that came from here, with wire.ErrShutdown as the reason for those that
// are still open. It returns when all of it has stopped.
func (l *Listener) Close() error {
	l.cancel()
	if l.tcp != nil {
		l.tcp.Close()
	}
	if l.quic != nil {
		l.quic.Close()
	}
	var closing sync.WaitGroup
	l.mu.Lock()
	for c := range l.conns {
		closing.Go(func() { c.close(wire.Errorf(wire.CodeShutdown, "the peer is stopping")) })
	}
	l.mu.Unlock()
	closing.Wait()
	l.wg.Wait()
	if l.udp != nil {
		l.udp.Close()
		l.udp.Conn.Close()
	}
	return nil
}

// acceptTCP takes connections until the listener is closed. Errors of a single one, such as a lack of file descriptors,
// pass.
func (l *Listener) acceptTCP() {
	for {
		raw, err := l.tcp.Accept()
		if l.ctx.Err() != nil {
			if err == nil {
				raw.Close()
			}
			return
		}
		if err != nil {
			l.log.Warn("", "accept failed", "carrier", string(TCP), "err", err)
			l.pause()
			continue
		}
		place, err := l.gates[TCP].admit(raw.RemoteAddr(), func() { raw.Close() })
		if err != nil {
			raw.Close()
			l.turnedAway(TCP, Peer{Addr: raw.RemoteAddr().String()}, err)
			continue
		}
		l.wg.Go(func() {
			defer place.release()
			ctx, cancel := context.WithTimeout(l.ctx, l.cfg.Handshake)
			defer cancel()
			c, err := handshakeTCP(ctx, raw, l.cfg.Idle, func(c net.Conn) *tls.Conn { return tls.Server(c, l.serverConfig()) }, false)
			if err != nil {
				l.turnedAway(TCP, Peer{Addr: raw.RemoteAddr().String()}, fmt.Errorf("TLS handshake: %w", err))
				return
			}
			l.greet(ctx, c, TCP)
		})
	}
}

// placeKey is where a QUIC connection carries its ticket of the gate.
type placeKey struct{}

// knockQUIC takes a QUIC connection through the gate before its handshake. A place is free again when the connection has
// ended or was greeted, whichever is first.
func (l *Listener) knockQUIC(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	place, err := l.gates[QUIC].admit(info.RemoteAddr, nil)
	if err != nil {
		l.turnedAway(QUIC, Peer{Addr: info.RemoteAddr.String()}, err)
		return nil, err
	}
	context.AfterFunc(ctx, place.release)
	return context.WithValue(ctx, placeKey{}, place), nil
}

// acceptQUIC takes connections that have completed their handshake until the listener is closed.
func (l *Listener) acceptQUIC() {
	for {
		q, err := l.quic.Accept(l.ctx)
		if err != nil {
			if l.ctx.Err() != nil || errors.Is(err, quic.ErrServerClosed) {
				return
			}
			l.log.Warn("", "accept failed", "carrier", string(QUIC), "err", err)
			l.pause()
			continue
		}
		c := &quicConn{c: q, idle: l.cfg.Idle}
		place := q.Context().Value(placeKey{}).(*ticket)
		place.cuttable(func() { c.close(nil) })
		l.wg.Go(func() {
			defer place.release()
			ctx, cancel := context.WithTimeout(l.ctx, l.cfg.Handshake)
			defer cancel()
			l.greet(ctx, c, QUIC)
		})
	}
}

// pause keeps a loop that fails at once from spinning.
func (l *Listener) pause() {
	select {
	case <-l.ctx.Done():
	case <-time.After(100 * time.Millisecond):
	}
}

// greet makes a session of a connection and hands it to Accept; or enrolls the host that came for that.
func (l *Listener) greet(ctx context.Context, c conn, carrier Carrier) {
	if c.protocol() == alpnEnroll {
		if err := l.enroll(ctx, c); err != nil {
			l.turnedAway(carrier, Peer{Addr: c.remote().String()}, err)
		}
		return
	}
	peer, version, err := receiveHello(ctx, c, l.cfg)
	if err != nil {
		l.turnedAway(carrier, peer, err)
		return
	}
	account := l.peers.enter(peer.Host, c)
	if !l.keep(c, peer) {
		l.peers.leave(peer.Host, c)
		c.close(wire.Errorf(wire.CodeShutdown, "the peer is stopping"))
		return
	}
	// What was revoked since the certificate was looked at, watch has not seen to for this one.
	if err := l.cfg.Current().trust.stands(peer.Certificate); err != nil {
		l.turnedAway(carrier, peer, refuse(c, err))
		return
	}
	if err := c.start(ctx, account.memory); err != nil {
		c.close(nil)
		l.turnedAway(carrier, peer, err)
		return
	}
	select {
	case l.ready <- &Session{c: c, carrier: carrier, peer: peer, version: version, open: &account.streams}:
	case <-l.ctx.Done():
		c.close(wire.Errorf(wire.CodeShutdown, "the peer is stopping"))
	case <-ctx.Done():
		c.close(wire.Errorf(wire.CodeInternal, "nobody took the session"))
	}
}

// keep remembers c until it has ended, so that Close can end it. It is false when Close is under way.
func (l *Listener) keep(c conn, peer Peer) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		return false
	}
	l.conns[c] = peer
	l.wg.Go(func() {
		<-c.done()
		l.mu.Lock()
		in, out := c.traffic() // with the lock: the sum that a scrape sees never falls. Bytes of the closing itself may come later
		delete(l.conns, c)
		l.moved.In, l.moved.Out = l.moved.In+in, l.moved.Out+out
		l.mu.Unlock()
		l.peers.leave(peer.Host, c)
	})
	return true
}

// watch ends the sessions of peers whose certificate does not stand any more: revoked, or of a CA that is not trusted now.
func (l *Listener) watch() {
	tick := time.NewTicker(standEvery)
	defer tick.Stop()
	for last := l.cfg.Credentials; ; {
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
		}
		now := l.cfg.Current()
		if now == last {
			continue
		}
		last = now
		l.mu.Lock()
		for c, peer := range l.conns {
			if err := now.trust.stands(peer.Certificate); err != nil {
				l.log.Warn(peer.Host, "session ended", "host", peer.Host, "role", peer.Role.String(), "addr", peer.Addr, "err", err)
				l.wg.Go(func() { c.close(asWire(err)) })
			}
		}
		l.mu.Unlock()
	}
}

// turnedAway logs why a peer got no session, unless it is this end that stops.
func (l *Listener) turnedAway(carrier Carrier, peer Peer, err error) {
	if l.ctx.Err() != nil {
		return
	}
	l.away.Add([2]string{string(carrier), awayReason(err)}, 1)
	args := []any{"addr", peer.Addr, "carrier", string(carrier), "err", err}
	if peer.Host != "" {
		args = append(args, "host", peer.Host, "serial", peer.Serial)
	}
	addr := peer.Addr
	if at, err := netip.ParseAddrPort(addr); err == nil {
		addr = at.Addr().String()
	}
	l.log.Warn(addr, "no session with this peer", args...)
}
