package link

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/understudy-dr/understudy/internal/wire"
)

// Config is what both ends of a link need. Credentials must be set; the zero value of everything else is the default.
type Config struct {
	Credentials *Credentials
	// Current gives the credentials to use from now on: those of a Keeper. When what it gives changes, sessions whose peer's
	// certificate does not stand any more are ended. Default: Credentials for ever; they need not be set beside it.
	Current func() *Credentials
	// Enroll takes in hosts that have a token and no certificate yet; for a listener only. Default: nobody does.
	Enroll Enroller
	// Role is what this end is; its certificate must allow it. Default: target for Listen, source for Dial.
	Role wire.Role
	// PeerRole is what the peer of Dial must be. Default: target. A listener takes any role that the peer's certificate
	// allows, and its user decides by Peer.Role what that peer may do.
	PeerRole wire.Role
	// Program is this program's name and version, for the peer's logs.
	Program string
	// Log is where a Listener says whom it turned away, rate-limited. Default: nowhere.
	Log *slog.Logger
	// Idle is after how long without a sign of life a session ends. Default: 20 s.
	Idle time.Duration
	// Handshake bounds the time from a connection to the end of the hello. Default: 10 s.
	Handshake time.Duration
	// MinVersion and MaxVersion are the versions of the protocol to speak. Default: all that wire knows.
	MinVersion, MaxVersion uint16

	gate   *gateLimits // nil: defaultGate
	memory int         // of a peer, in bytes; 0: peerMemory
}

// withDefaults validates c and fills a copy.
func (c Config) withDefaults(role wire.Role) (Config, error) {
	if c.Current != nil {
		c.Credentials = c.Current()
	}
	if c.Credentials == nil {
		return c, errors.New("link: no credentials: load them with LoadCredentials")
	}
	if c.Current == nil {
		c.Current = func() *Credentials { return c.Credentials }
	}
	if c.Role == 0 {
		c.Role = role
	}
	if c.PeerRole == 0 {
		c.PeerRole = wire.RoleTarget
	}
	if c.Idle == 0 {
		c.Idle = defaultIdle
	}
	if c.Handshake == 0 {
		c.Handshake = defaultHandshake
	}
	if c.MinVersion == 0 {
		c.MinVersion = wire.MinVersion
	}
	if c.MaxVersion == 0 {
		c.MaxVersion = wire.MaxVersion
	}
	if c.memory == 0 {
		c.memory = peerMemory
	}
	if c.gate == nil {
		c.gate = &defaultGate
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Idle < 300*time.Millisecond {
		return c, fmt.Errorf("link: an idle time of %v is too short", c.Idle)
	}
	if id := (identity{name: c.Credentials.Name, roles: c.Credentials.Roles}); !id.may(c.Role) {
		return c, wire.Errorf(wire.CodeForbidden, "the certificate of %s is for %v, not for the role %v: issue one with: understudy pki issue --role %v",
			id.name, id.roles, c.Role, c.Role)
	}
	return c, nil
}

// Peer is the other end of a session.
type Peer struct {
	Host    string    // from its certificate
	Role    wire.Role // what it is here; its certificate allows it
	Program string    // name and version, as it says
	Addr    string    // where it is now
	Serial  string    // of its certificate, in hexadecimal
	// Certificate is what it has shown, and proven to have the key of.
	Certificate *x509.Certificate
	// Skew is by how much its clock is ahead of this end's, half a round trip uncertain.
	Skew time.Duration
}

// hello.go: how two ends greet each other. The same on both carriers, after the TLS handshake:
//
//	dialer                                     listener
//	admit: certificate, clock, role            admit: certificate, clock
//	─────────────────── Hello ───────────────▶ versions agree? does the certificate allow the role?
//	version known? ◀────────────────────────── Welcome
//
// Whoever finds something wrong sends an Error in place of its message and closes. Nothing that the peer says is looked at
// before admit.

// admit is the one place where a peer's certificate is verified.
func admit(c conn, cfg Config) (identity, error) {
	return cfg.Current().trust.verify(c.certificates(), time.Now())
}

// refuse tells the peer err and returns it.
func refuse(c conn, err error) error {
	c.close(asWire(err))
	return err
}

// told is the peer's reason for which the connection ended, nil if err is anything else.
func told(err error) *wire.Error {
	var broken *brokenError
	var e *wire.Error
	if errors.As(err, &broken) && errors.As(broken.err, &e) {
		return e
	}
	return nil
}

// asWire makes an error one that can be sent.
func asWire(err error) *wire.Error {
	if err == nil {
		return nil
	}
	var e *wire.Error
	if !errors.As(err, &e) {
		e = wire.Errorf(wire.CodeInternal, "%w", err)
	}
	return e
}

// greet is the dialer's side. It closes c when it fails.
func greet(ctx context.Context, c conn, cfg Config) (Peer, uint16, error) {
	peer := Peer{Role: cfg.PeerRole, Addr: c.remote().String()}
	id, err := admit(c, cfg)
	if err != nil {
		return peer, 0, refuse(c, err)
	}
	peer.Host, peer.Serial, peer.Certificate = id.name, id.serial, c.certificates()[0]
	if !id.may(cfg.PeerRole) {
		return peer, 0, refuse(c, wire.Errorf(wire.CodeForbidden, "%s may not be a %v: its certificate is for %v", id.name, cfg.PeerRole, id.roles))
	}
	hello := &wire.Hello{
		MinVersion: cfg.MinVersion, MaxVersion: cfg.MaxVersion, Role: cfg.Role,
		Host: cfg.Credentials.Name, Program: cfg.Program, Time: time.Now(),
	}
	got, err := exchange(ctx, c, hello, wire.MaxGreeting)
	if err != nil {
		c.close(nil)
		if e := told(err); e != nil {
			err = fmt.Errorf("%s refused: %w", id.name, e)
		}
		return peer, 0, err
	}
	switch m := got.(type) {
	case *wire.Welcome:
		if m.Version < cfg.MinVersion || m.Version > cfg.MaxVersion {
			return peer, 0, refuse(c, wire.Errorf(wire.CodeProtocol, "%s chose version %d out of %d to %d", id.name, m.Version, cfg.MinVersion, cfg.MaxVersion))
		}
		peer.Program, peer.Skew = m.Program, time.Until(m.Time)
		return peer, m.Version, nil
	case *wire.Error:
		c.close(nil)
		return peer, 0, fmt.Errorf("%s refused: %w", id.name, m)
	}
	return peer, 0, refuse(c, wire.Errorf(wire.CodeProtocol, "%s answered hello with %v", id.name, got.Type()))
}

// exchange sends the hello, or whatever takes its place, and receives the answer of up to most bytes.
func exchange(ctx context.Context, c conn, hello wire.Message, most int) (wire.Message, error) {
	g, err := c.greeting(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { g.SetDeadline(time.Now()) })
	defer stop()
	if err := writeMessage(g, hello); err != nil {
		return nil, err
	}
	return readMessage(g, most)
}

// receiveHello is the listener's side. It closes c when it fails.
func receiveHello(ctx context.Context, c conn, cfg Config) (Peer, uint16, error) {
	peer := Peer{Addr: c.remote().String()}
	id, err := admit(c, cfg)
	if err != nil {
		return peer, 0, refuse(c, err)
	}
	peer.Host, peer.Serial, peer.Certificate = id.name, id.serial, c.certificates()[0]
	g, err := c.greeting(ctx)
	if err != nil {
		c.close(nil)
		if e := told(err); e != nil {
			err = fmt.Errorf("it refused this end: %w", e)
		}
		return peer, 0, err
	}
	stop := context.AfterFunc(ctx, func() { g.SetDeadline(time.Now()) })
	defer stop()
	got, err := readGreeting(g)
	if err != nil {
		return peer, 0, refuse(c, err)
	}
	hello, ok := got.(*wire.Hello)
	if e, is := got.(*wire.Error); is {
		c.close(nil)
		return peer, 0, fmt.Errorf("it refused this end: %w", e)
	}
	if !ok {
		return peer, 0, refuse(c, wire.Errorf(wire.CodeProtocol, "a session can't begin with %v", got.Type()))
	}
	version, err := hello.Agree(cfg.MinVersion, cfg.MaxVersion)
	if err != nil {
		return peer, 0, refuse(c, err)
	}
	if !id.may(hello.Role) {
		return peer, 0, refuse(c, wire.Errorf(wire.CodeForbidden, "%s may not be a %v: its certificate is for %v", id.name, hello.Role, id.roles))
	}
	peer.Role, peer.Program, peer.Skew = hello.Role, hello.Program, time.Until(hello.Time)
	err = writeMessage(g, &wire.Welcome{Version: version, Host: cfg.Credentials.Name, Program: cfg.Program, Time: time.Now()})
	if err != nil {
		c.close(nil)
	}
	return peer, version, err
}

func writeMessage(w io.Writer, m wire.Message) error {
	raw, err := wire.Append(nil, m)
	if err != nil {
		return err
	}
	_, err = w.Write(raw)
	return err
}

// readGreeting reads one message, no byte more, and no more than the first message of a session may measure.
func readGreeting(r io.Reader) (wire.Message, error) { return readMessage(r, wire.MaxGreeting) }

// readMessage reads one message of up to most bytes, head included, and no byte more.
func readMessage(r io.Reader, most int) (wire.Message, error) {
	raw := make([]byte, wire.HeadSize, most)
	if _, err := io.ReadFull(r, raw); err != nil {
		return nil, err
	}
	t, n, err := wire.ParseHead(raw)
	if err != nil {
		return nil, err
	}
	if wire.HeadSize+n > cap(raw) {
		return nil, wire.Errorf(wire.CodeProtocol, "a greeting of %d bytes (%v)", n, t)
	}
	raw = raw[:wire.HeadSize+n]
	if _, err := io.ReadFull(r, raw[wire.HeadSize:]); err != nil {
		return nil, err
	}
	m, _, err := wire.Parse(raw)
	return m, err
}
