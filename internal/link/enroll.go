package link

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/internal/wire"
)

// How a host that has a token and nothing else gets its certificate, over either carrier, on the port of the sessions:
//
//	host                                       listener
//	makes a key                                shows a certificate of the CA whose digest is in the token, and that CA's
//	is it that CA? is it a target? is it now?  (no certificate is asked of the host)
//	──────── Enroll: token, name, request ───▶ is the token good, and for that name? it is spent now
//	is it for that key and name? ◀──────────── Granted: certificate, CAs to trust
//
// The secret of the token goes to nobody but an end that has proven to be of that CA.

// Enroller takes in hosts that have a token. It is safe for concurrent use.
type Enroller interface {
	// Greeter is what the listener shows to such a host: a certificate of the CA that tokens name, followed by that CA's own.
	Greeter() (tls.Certificate, error)
	// Enroll spends the token and gives the host its certificate. A refusal is a *wire.Error. addr is where the host is.
	Enroll(m *wire.Enroll, addr string) (*wire.Granted, error)
}

// serverConfig is the TLS configuration of a listener: that of sessions or, for hosts that come to enroll, another.
func (l *Listener) serverConfig() *tls.Config {
	cfg := l.cfg.Current().tlsConfig()
	cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if !slices.Contains(hello.SupportedProtos, alpnEnroll) {
			return l.cfg.Current().tlsConfig(), nil
		}
		enroll := l.cfg.Current().tlsConfig()
		enroll.NextProtos, enroll.ClientAuth = []string{alpnEnroll}, tls.NoClientCert
		if l.cfg.Enroll == nil {
			return enroll, nil // the host sees that this is not the CA of its token, and says so
		}
		greeter, err := l.cfg.Enroll.Greeter()
		if err != nil {
			l.log.Warn(prefixOf(hello.Conn.RemoteAddr()).String(), "can't show a certificate to hosts that enroll", "err", err)
			return nil, err
		}
		enroll.Certificates = []tls.Certificate{greeter}
		return enroll, nil
	}
	return cfg
}

// enroll serves a host that came to enroll, and ends the connection.
func (l *Listener) enroll(ctx context.Context, c conn) error {
	g, err := c.greeting(ctx)
	if err != nil {
		c.close(nil)
		return err
	}
	stop := context.AfterFunc(ctx, func() { g.SetDeadline(time.Now()) })
	defer stop()
	got, err := readGreeting(g)
	if err != nil {
		return refuse(c, err)
	}
	m, ok := got.(*wire.Enroll)
	if e, is := got.(*wire.Error); is {
		c.close(nil)
		return fmt.Errorf("it refused this end: %w", e)
	}
	if !ok {
		return refuse(c, wire.Errorf(wire.CodeProtocol, "an enrolment can't begin with %v", got.Type()))
	}
	if l.cfg.Enroll == nil {
		return refuse(c, wire.Errorf(wire.CodeNoSigner, "this receiver takes no enrolments"))
	}
	granted, err := l.cfg.Enroll.Enroll(m, c.remote().String())
	if err != nil {
		return refuse(c, fmt.Errorf("enrolment as %s refused: %w", m.Host, err))
	}
	if err := writeMessage(g, granted); err != nil {
		c.close(nil)
		return err
	}
	g.Read(make([]byte, 1)) // the host hangs up when it has the answer: a close from here could overtake it
	c.close(nil)
	return nil
}

// Enrolled is what a host has after Enroll: all that Store of package pki takes.
type Enrolled struct {
	Certificate *x509.Certificate
	CAs         []*x509.Certificate
}

// Enroll asks the receiver at addr for a certificate, by a token. m says for which host, and has the request (pki.Request);
// the token is put into it. An error is one line that says why and what to do.
func Enroll(ctx context.Context, carrier Carrier, addr string, token pki.Token, m *wire.Enroll) (*Enrolled, error) {
	m.Token, m.Secret = token.ID, token.Secret
	ctx, cancel := context.WithTimeout(ctx, defaultHandshake)
	defer cancel()
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{alpnEnroll}, ServerName: alpn, SessionTicketsDisabled: true,
		InsecureSkipVerify: true, // the listener is known by the token's digest, below, and by nothing else
	}
	c, err := dialConn(ctx, carrier, addr, config, Config{Idle: defaultIdle, Handshake: defaultHandshake})
	if err != nil {
		return nil, dialError(carrier, addr, err)
	}
	if err := checkGreeter(c.certificates(), token); err != nil {
		return nil, dialError(carrier, addr, refuse(c, err))
	}
	got, err := exchange(ctx, c, m, wire.MaxGranted)
	c.close(nil)
	if err != nil {
		if e := told(err); e != nil {
			return nil, e
		}
		return nil, dialError(carrier, addr, err)
	}
	switch answer := got.(type) {
	case *wire.Error:
		return nil, answer
	case *wire.Granted:
		return checkGranted(answer, m, token)
	}
	return nil, wire.Errorf(wire.CodeProtocol, "the receiver answered the enrolment with %v", got.Type())
}

// checkGreeter holds that the listener is of the CA that the token names. A certificate that is only sent along proves
// nothing by itself; the one whose digest the token has signed the listener's own, and the listener has the key of that.
func checkGreeter(certs []*x509.Certificate, token pki.Token) error {
	at := slices.IndexFunc(certs, func(c *x509.Certificate) bool { return sha256.Sum256(c.Raw) == token.CA })
	if at < 0 {
		return wire.Errorf(wire.CodeCertificate, "this receiver is not of the CA that the token names: is it the right one, and does it run with that CA (--ca)?")
	}
	id, err := trust{cas: certs[at : at+1]}.verify(certs, time.Now())
	if err != nil {
		return err
	}
	if !id.may(wire.RoleTarget) {
		return wire.Errorf(wire.CodeForbidden, "%s may not be a target: its certificate is for %v", id.name, id.roles)
	}
	return nil
}

// checkGranted holds that what came is what was asked for, and good here and now.
func checkGranted(g *wire.Granted, m *wire.Enroll, token pki.Token) (*Enrolled, error) {
	cert, err := x509.ParseCertificate(g.Certificate)
	if err != nil {
		return nil, fmt.Errorf("read the certificate that was granted: %w", err)
	}
	var cas []*x509.Certificate
	for _, der := range g.CAs {
		ca, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("read the CAs that came with it: %w", err)
		}
		cas = append(cas, ca)
	}
	at := slices.IndexFunc(cas, func(c *x509.Certificate) bool { return sha256.Sum256(c.Raw) == token.CA })
	if at < 0 {
		return nil, wire.Errorf(wire.CodeProtocol, "the CA that the token names is not among those to trust")
	}
	if err := fits(cert, m.Request, m.Host, trust{cas: cas[at : at+1]}); err != nil {
		return nil, err
	}
	return &Enrolled{Certificate: cert, CAs: cas}, nil
}

// fits holds a certificate that was granted against what was asked for.
func fits(cert *x509.Certificate, request []byte, name string, t trust) error {
	asked, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return err
	}
	id, err := t.verify([]*x509.Certificate{cert}, time.Now())
	if err != nil {
		return err
	}
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || !key.Equal(asked.PublicKey) {
		return wire.Errorf(wire.CodeProtocol, "the certificate that was granted is of another key")
	}
	if id.name != name || !id.may(wire.RoleSource) && !id.may(wire.RoleTarget) {
		return wire.Errorf(wire.CodeProtocol, "a certificate of %s for %v was granted to %s", id.name, id.roles, name)
	}
	return nil
}
