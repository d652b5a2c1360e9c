package receiver

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/internal/metrics"
	"github.com/understudy-dr/understudy/internal/wire"
)

// Signer signs certificates for a receiver that has the site's CA at hand: of hosts that enroll, and of those that renew. It
// is a link.Enroller.
type Signer struct {
	authority *pki.Authority
	ttl       time.Duration
	current   func() *link.Credentials
	log       *slog.Logger
	done      metrics.Tally[string] // what was done about certificates

	mu      sync.Mutex
	greeter tls.Certificate
}

// NewSigner makes one of a CA. ttl is how long certificates are good (0: 90 days); current gives the receiver's own
// credentials, whose CAs hosts are told to trust besides the one that signs.
func NewSigner(authority *pki.Authority, ttl time.Duration, current func() *link.Credentials, log *slog.Logger) *Signer {
	if ttl == 0 {
		ttl = DefaultCertificateTTL
	}
	s := &Signer{authority: authority, ttl: ttl, current: current, log: log}
	s.done.Begin(signerEnrolled, signerRenewed, signerInvited, signerRevoked, signerFailed)
	return s
}

// What a signer counts.
const (
	signerEnrolled = "enrolled"
	signerRenewed  = "renewed"
	signerInvited  = "invited" // tokens made
	signerRevoked  = "revoked"
	signerFailed   = "failed" // for a reason of its own; what the peer did wrong is a refusal
)

// DefaultCertificateTTL is how long the certificate of a host that enrolled is good: it is renewed after 60 days, and may be
// away for 30.
const DefaultCertificateTTL = 90 * 24 * time.Hour

// Greeter is the certificate that hosts are shown that come with a token. It is made anew every day.
func (s *Signer) Greeter() (tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.greeter.Leaf == nil || time.Until(s.greeter.Leaf.NotAfter) < pki.GreeterTTL/2 {
		greeter, err := s.authority.Greeter(s.current().Name)
		if err != nil {
			return tls.Certificate{}, err
		}
		s.greeter = greeter
	}
	return s.greeter, nil
}

// Enroll spends a token for a certificate.
func (s *Signer) Enroll(m *wire.Enroll, addr string) (*wire.Granted, error) {
	cert, err := s.authority.Enroll(m, s.ttl, addr)
	token := pki.Token{ID: m.Token}.Name()
	if err != nil {
		return nil, s.hide("enroll", err)
	}
	s.done.Add(signerEnrolled, 1)
	s.log.Info("host enrolled", "host", m.Host, "addr", addr, "token", token, "serial", pki.Serial(cert), "until", cert.NotAfter.UTC().Format(time.RFC3339))
	granted := &wire.Granted{Certificate: cert.Raw, CAs: [][]byte{s.authority.Certificate().Raw}}
	for _, ca := range s.current().CAs() {
		if !slices.ContainsFunc(granted.CAs, func(der []byte) bool { return string(der) == string(ca.Raw) }) {
			granted.CAs = append(granted.CAs, ca.Raw)
		}
	}
	return granted, nil
}

// hide keeps what is wrong with this receiver's files out of the answer to whoever asked; the log has it.
func (s *Signer) hide(what string, err error) error {
	if errors.As(err, new(*wire.Error)) {
		return err
	}
	s.done.Add(signerFailed, 1)
	s.log.Error("can't "+what, "err", err)
	return wire.Errorf(wire.CodeInternal, "this receiver can't do it now: its log says why")
}

// RenewOwn renews the receiver's own certificate, in its folder dir, if it is due.
func (s *Signer) RenewOwn(dir string) (renewed bool, err error) {
	now := s.current()
	if time.Now().Before(now.Due()) {
		return false, nil
	}
	cert, err := s.authority.RenewOwn(dir, now.Certificate(), s.ttl)
	if err != nil {
		return false, fmt.Errorf("renew this receiver's own certificate, which expires at %s: %w", now.Certificate().NotAfter.UTC().Format(time.RFC3339), err)
	}
	s.done.Add(signerRenewed, 1)
	s.log.Info("certificate renewed", "name", now.Name, "by", "itself", "serial", pki.Serial(cert), "until", cert.NotAfter.UTC().Format(time.RFC3339))
	return true, nil
}

// signing is the signer, or a refusal that says what there is to do.
func (r *Receiver) signing() (*Signer, error) {
	if r.signer == nil {
		return nil, wire.Errorf(wire.CodeNoSigner, "this receiver signs no certificates: ask one that runs with the site's CA (--ca), or use understudy pki where the CA is")
	}
	return r.signer, nil
}

// renew answers a host whose certificate is due.
func (r *Receiver) renew(peer link.Peer, stream *link.Stream, m *wire.Renew) error {
	s, err := r.signing()
	if err != nil {
		return err
	}
	var cert *x509.Certificate
	if cert, err = s.authority.Renew(peer.Certificate, m.Request, s.ttl, peer.Addr); err != nil {
		return s.hide("renew", err)
	}
	s.done.Add(signerRenewed, 1)
	s.log.Info("certificate renewed", "host", peer.Host, "addr", peer.Addr, "before", peer.Serial, "serial", pki.Serial(cert), "until", cert.NotAfter.UTC().Format(time.RFC3339))
	stream.SetDeadline(time.Now().Add(replyTime))
	if err := stream.Send(&wire.Granted{Certificate: cert.Raw}); err != nil {
		return err
	}
	return stream.Flush()
}

// TokenReport answers an Invite.
type TokenReport struct {
	Token   string    `json:"token"`
	Host    string    `json:"host"`
	Expires time.Time `json:"expires"`
}

func (r *Receiver) invite(peer link.Peer, stream *link.Stream, m *wire.Invite) error {
	s, err := r.signing()
	if err != nil {
		return err
	}
	token, expires, err := s.authority.Invite(m.Host, m.TTL, peer.Host, m.Receiver)
	if err != nil {
		return s.hide("make a token", err)
	}
	s.done.Add(signerInvited, 1)
	s.log.Info("token made", "for", m.Host, "by", peer.Host, "addr", peer.Addr, "token", token.Name(), "until", expires.Format(time.RFC3339))
	return reply(stream, TokenReport{Token: token.Text(), Host: m.Host, Expires: expires})
}

func (r *Receiver) revoke(peer link.Peer, stream *link.Stream, m *wire.Revoke) error {
	s, err := r.signing()
	if err != nil {
		return err
	}
	done, err := s.authority.Revoke(m, peer.Host, peer.Addr)
	if err != nil {
		return s.hide("revoke", err)
	}
	s.done.Add(signerRevoked, 1)
	s.log.Warn("certificates revoked", "of", m.Name, "by", peer.Host, "addr", peer.Addr, "serials", done.Serials)
	return reply(stream, done)
}
