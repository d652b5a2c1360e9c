package link

import (
	"crypto/x509"
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

// verify holds a certificate against the CA and the clock: whose it is first, then when. The error is a *wire.Error, so
// that it can be sent as it is.
func verify(certs []*x509.Certificate, ca *x509.Certificate, now time.Time) (identity, error) {
	if len(certs) == 0 {
		return identity{}, wire.Errorf(wire.CodeCertificate, "no certificate was shown")
	}
	leaf := certs[0]
	name := "an unnamed host"
	if len(leaf.DNSNames) > 0 {
		name = leaf.DNSNames[0]
	}
	switch {
	case leaf.CheckSignatureFrom(ca) != nil:
		return identity{}, wire.Errorf(wire.CodeCertificate,
			"the certificate of %s is of another CA: certificates of both ends have to come from the same understudy pki init", name)
	case now.After(leaf.NotAfter):
		return identity{}, wire.Errorf(wire.CodeCertificate, "the certificate of %s expired at %s (now %s): issue it anew with: understudy pki issue",
			name, stamp(leaf.NotAfter), stamp(now))
	case now.Before(leaf.NotBefore):
		return identity{}, wire.Errorf(wire.CodeClock, "the certificate of %s is good from %s only, and here it is %s: one of the clocks is wrong, set both by NTP",
			name, stamp(leaf.NotBefore), stamp(now))
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	options := x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	if _, err := leaf.Verify(options); err != nil { // the CA itself may have expired, say
		return identity{}, wire.Errorf(wire.CodeCertificate, "the certificate of %s is no good: %v", name, err)
	}
	id := identity{name: name, roles: pki.RolesOf(leaf)}
	if len(leaf.DNSNames) == 0 || len(name) > wire.MaxHost || len(id.roles) == 0 {
		return identity{}, wire.Errorf(wire.CodeCertificate, "the certificate of %s has no name or no role: issue it with: understudy pki issue", name)
	}
	return id, nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
