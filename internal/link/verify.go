package link

import (
	"crypto/x509"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/internal/wire"
)

// identity is who a certificate says a host or a person is.
type identity struct {
	name   string
	roles  []wire.Role
	serial string
}

func (id identity) may(role wire.Role) bool { return slices.Contains(id.roles, role) }

// trust is whose certificates an end takes.
type trust struct {
	cas     []*x509.Certificate
	revoked pki.Revocations
}

// verify holds a certificate against the CAs and the clock: whose it is first, then when. The error is a *wire.Error, so
// that it can be sent as it is.
func (t trust) verify(certs []*x509.Certificate, now time.Time) (identity, error) {
	if len(certs) == 0 {
		return identity{}, wire.Errorf(wire.CodeCertificate, "no certificate was shown")
	}
	leaf := certs[0]
	name := nameOf(leaf)
	if err := t.stands(leaf); err != nil {
		return identity{}, err
	}
	switch {
	case now.After(leaf.NotAfter):
		return identity{}, wire.Errorf(wire.CodeCertificate,
			"the certificate of %s expired at %s (now %s): enroll it anew (understudy enroll-token --host %s), or issue one with: understudy pki issue",
			name, stamp(leaf.NotAfter), stamp(now), name)
	case now.Before(leaf.NotBefore):
		return identity{}, wire.Errorf(wire.CodeClock, "the certificate of %s is good from %s only, and here it is %s: one of the clocks is wrong, set both by NTP",
			name, stamp(leaf.NotBefore), stamp(now))
	}
	roots := x509.NewCertPool()
	roots.AddCert(pki.SignerOf(leaf, t.cas))
	options := x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	if _, err := leaf.Verify(options); err != nil { // the CA itself may have expired, say
		return identity{}, wire.Errorf(wire.CodeCertificate, "the certificate of %s is no good: %v", name, err)
	}
	id := identity{name: name, roles: pki.RolesOf(leaf), serial: pki.Serial(leaf)}
	if len(leaf.DNSNames) != 1 || len(name) > wire.MaxHost || len(id.roles) == 0 {
		return identity{}, wire.Errorf(wire.CodeCertificate, "the certificate of %s does not say one name and a role: issue it with: understudy pki issue", name)
	}
	if len(id.roles) > 1 && slices.ContainsFunc(id.roles, wire.Role.Person) {
		return identity{}, wire.Errorf(wire.CodeCertificate, "the certificate of %s is for %v: a person has one role, and is no host; issue one for each", name, id.roles)
	}
	return id, nil
}

// stands tells why a certificate that may have been good is so no more, whatever the clock says: it is what sessions that
// are under way are held against.
func (t trust) stands(leaf *x509.Certificate) error {
	ca := pki.SignerOf(leaf, t.cas)
	switch {
	case ca == nil:
		return wire.Errorf(wire.CodeCertificate,
			"the certificate of %s is of another CA: certificates of both ends have to come from the same understudy pki init, or each end has to trust both CAs", nameOf(leaf))
	case t.revoked.Has(ca, leaf):
		return wire.Errorf(wire.CodeCertificate, "the certificate of %s (serial %s) was revoked: if that was a mistake, enroll it anew (understudy enroll-token --host %s)",
			nameOf(leaf), pki.Serial(leaf), nameOf(leaf))
	}
	return nil
}

func nameOf(leaf *x509.Certificate) string {
	if len(leaf.DNSNames) == 0 {
		return "an unnamed host"
	}
	return leaf.DNSNames[0]
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
