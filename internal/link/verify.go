package link

import (
	"crypto/x509"
	"errors"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/internal/wire"
)

// identity is who a certificate says a host is.
type identity struct {
	name  string
	roles []wire.Role
}

func (id identity) may(role wire.Role) bool { return slices.Contains(id.roles, role) }

// verify holds a certificate against the CA and the clock. The error is a *wire.Error, so that it can be sent as it is.
func verify(certs []*x509.Certificate, roots *x509.CertPool, now time.Time) (identity, error) {
	if len(certs) == 0 {
		return identity{}, wire.Errorf(wire.CodeCertificate, "no certificate was shown")
	}
	leaf := certs[0]
	name := "an unnamed host"
	if len(leaf.DNSNames) > 0 {
		name = leaf.DNSNames[0]
	}
	options := x509.VerifyOptions{
		Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		CurrentTime: leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2), // whose it is comes first, then when
	}
	_, err := leaf.Verify(options)
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown):
		return identity{}, wire.Errorf(wire.CodeCertificate,
			"the certificate of %s is of another CA: certificates of both ends have to come from the same understudy pki init", name)
	case err != nil:
		return identity{}, wire.Errorf(wire.CodeCertificate, "the certificate of %s is no good: %v", name, err)
	case now.After(leaf.NotAfter):
		return identity{}, wire.Errorf(wire.CodeCertificate, "the certificate of %s expired at %s (now %s): issue it anew with: understudy pki issue",
			name, stamp(leaf.NotAfter), stamp(now))
	case now.Before(leaf.NotBefore):
		return identity{}, wire.Errorf(wire.CodeClock, "the certificate of %s is good from %s only, and here it is %s: one of the clocks is wrong, set both by NTP",
			name, stamp(leaf.NotBefore), stamp(now))
	}
	options.CurrentTime = now
	if _, err := leaf.Verify(options); err != nil { // the CA itself
		return identity{}, wire.Errorf(wire.CodeCertificate, "the CA that signed the certificate of %s is not valid at %s: %v", name, stamp(now), err)
	}
	id := identity{name: name, roles: pki.RolesOf(leaf)}
	if len(leaf.DNSNames) == 0 || len(name) > wire.MaxHost || len(id.roles) == 0 {
		return identity{}, wire.Errorf(wire.CodeCertificate, "the certificate of %s has no name or no role: issue it with: understudy pki issue", name)
	}
	return id, nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
