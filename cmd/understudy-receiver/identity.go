package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/receiver"
)

// identity is who the receiver is, whom it trusts, and what it signs by.
type identity struct {
	keeper *link.Keeper
	signer *receiver.Signer // nil: the CA is elsewhere
	log    *slog.Logger
}

// identify loads the receiver's folder and, if it has one, the CA.
func identify(c config, log *slog.Logger) (identity, error) {
	who := identity{log: log}
	var crls []string
	if c.CA != "" {
		crls = []string{filepath.Join(c.CA, pki.CRLFile)}
	}
	var err error
	if who.keeper, err = link.NewKeeper(c.PKI, log, crls...); err != nil || c.CA == "" {
		return who, err
	}
	authority, err := pki.OpenAuthority(c.CA)
	if err != nil {
		return who, err
	}
	if !slices.ContainsFunc(who.keeper.Current().CAs(), authority.Certificate().Equal) {
		return who, fmt.Errorf("this receiver would sign by a CA that it does not trust itself: understudy pki trust --pki %s --add %s",
			c.PKI, filepath.Join(c.CA, pki.CACertFile))
	}
	who.signer = receiver.NewSigner(authority, c.CertificateTTL, who.keeper.Current, log)
	return who, nil
}

// enroller is the signer, or no interface at all.
func (who identity) enroller() link.Enroller {
	if who.signer == nil {
		return nil
	}
	return who.signer
}

// checkOwn is how often the receiver's own certificate is looked at; a short-lived one more often.
const checkOwn = time.Hour

// renewOwn renews the receiver's own certificate whenever it is due, until ctx ends; where the CA is elsewhere it warns.
func (who identity) renewOwn(ctx context.Context) {
	said := ""
	for {
		now := who.keeper.Current()
		wait := min(max(time.Until(now.Due()), time.Until(now.Certificate().NotAfter)/10, time.Second), checkOwn)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if err := who.renewIfDue(); err != nil && err.Error() != said {
			said = err.Error()
			who.log.Warn("this receiver's certificate is due", "err", err)
		}
	}
}

func (who identity) renewIfDue() error {
	now := who.keeper.Current()
	if time.Now().Before(now.Due()) {
		return nil
	}
	if who.signer == nil {
		return fmt.Errorf("it expires at %s, and the CA is not here: understudy pki issue --replace --name %s --role target --out %s where the CA is; it is taken up without a restart",
			now.Certificate().NotAfter.UTC().Format(time.RFC3339), now.Name, who.keeper.Dir())
	}
	if _, err := who.signer.RenewOwn(who.keeper.Dir()); err != nil {
		return err
	}
	who.keeper.Reload()
	return nil
}
