package link

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/internal/wire"
)

// retryRenewal bounds the pause after a renewal that failed; it is a tenth of what is left of the certificate's life.
const (
	retryRenewalMin = time.Second
	retryRenewalMax = time.Hour
)

// KeepRenewed renews the certificate in k's folder over s whenever two thirds of its life are past, until ctx or the session
// ends. The session goes on with the certificate that it was made with; the next one uses the new one.
func KeepRenewed(ctx context.Context, s *Session, k *Keeper, log *slog.Logger) {
	said := ""
	for {
		now := k.Current()
		wait := time.Until(now.Due())
		if said != "" {
			wait = min(max(time.Until(now.cert.Leaf.NotAfter)/10, retryRenewalMin), retryRenewalMax)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.Done():
			return
		case <-time.After(max(0, wait)):
		}
		err := Renew(ctx, s, k)
		switch {
		case err == nil:
			c := k.Current()
			log.Info("certificate renewed", "name", c.Name, "by", s.Peer().Host, "serial", pki.Serial(c.cert.Leaf), "until", stamp(c.cert.Leaf.NotAfter))
			said = ""
		case Broken(err) || ctx.Err() != nil:
			return
		case err.Error() != said:
			said = err.Error()
			log.Warn("certificate not renewed", "name", now.Name, "expires", stamp(now.cert.Leaf.NotAfter), "err", err)
		}
	}
}

// Renew has the peer of s sign a certificate for a new key, of the same name and roles as k's, and puts both into k's folder,
// with a line in its ledger. It takes nothing that the host would not have trusted before: a target that has no CA's key can't
// bring in another CA by this way.
func Renew(ctx context.Context, s *Session, k *Keeper) error {
	key, err := pki.NewKey()
	if err != nil {
		return err
	}
	request, err := pki.Request(key)
	if err != nil {
		return err
	}
	granted, err := askRenewal(ctx, s, request)
	if err != nil {
		return fmt.Errorf("renew certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(granted.Certificate)
	if err != nil {
		return fmt.Errorf("read the renewed certificate: %w", err)
	}
	now := k.Current()
	if pki.SignerOf(cert, now.trust.cas) == nil {
		return wire.Errorf(wire.CodeCertificate, "the certificate was renewed by a CA that this host does not trust: enroll it anew (understudy enroll-token --host %s), or understudy pki trust --add", now.Name)
	}
	if err := fits(cert, request, now.Name, now.trust); err != nil {
		return err
	}
	if err := pki.Store(k.dir, key, cert, nil); err != nil {
		return err
	}
	k.Reload()
	return pki.Record(k.dir, pki.Entry{
		Event: "renewed", Name: now.Name, Roles: now.Roles, Serial: pki.Serial(cert), Until: cert.NotAfter, By: s.Peer().Host, Addr: s.Peer().Addr,
	})
}

func askRenewal(ctx context.Context, s *Session, request []byte) (*wire.Granted, error) {
	ctx, cancel := context.WithTimeout(ctx, defaultHandshake)
	defer cancel()
	stream, err := s.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	stream.SetDeadline(time.Now().Add(defaultHandshake))
	if err := errors.Join(stream.Send(&wire.Renew{Request: request}), stream.Flush()); err != nil {
		return nil, err
	}
	got, err := stream.Receive()
	if err != nil {
		return nil, err
	}
	granted, ok := got.Message.(*wire.Granted)
	if !ok {
		return nil, wire.Errorf(wire.CodeProtocol, "the peer answered with another unit")
	}
	return granted, nil
}
