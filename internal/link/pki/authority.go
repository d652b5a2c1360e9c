package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/url"
	"time"

	"github.com/understudy-dr/understudy/internal/wire"
)

// Authority is a CA with its key. What it signs stands in its ledger first, and it signs nothing for whom it has revoked.
// Several processes may use one CA's folder at once, a receiver and its operator's commands, say; so may goroutines.
type Authority struct {
	dir  string
	cert *x509.Certificate
	pem  []byte
	key  *ecdsa.PrivateKey
}

// OpenAuthority reads the CA in dir.
func OpenAuthority(dir string) (*Authority, error) {
	cert, certPEM, key, err := loadCA(dir)
	if err != nil {
		return nil, err
	}
	return &Authority{dir: dir, cert: cert, pem: certPEM, key: key}, nil
}

// Certificate is the CA's own.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// Dir is the CA's folder.
func (a *Authority) Dir() string { return a.dir }

// subject is what a certificate is to say.
type subject struct {
	name        string
	roles       []wire.Role
	from, until time.Time // until is cut to the end of the CA
	entry       Entry     // for the ledger: what happened, and who had it done
}

// sign makes a certificate and records it. The folder is locked by the caller: a revocation by name comes before, and is
// seen, or after, and sees the certificate.
func (a *Authority) sign(public crypto.PublicKey, s subject) (*x509.Certificate, error) {
	var uris []*url.URL
	for _, role := range s.roles {
		if _, err := wire.ParseRole(role.String()); err != nil {
			return nil, fmt.Errorf("no such role as %v", role)
		}
		uris = append(uris, &url.URL{Scheme: "understudy", Opaque: rolePrefix + role.String()})
	}
	if s.until.After(a.cert.NotAfter) {
		s.until = a.cert.NotAfter
	}
	if !s.until.After(s.from) {
		return nil, fmt.Errorf("it would be good until %s, from %s", stamp(s.until), stamp(s.from))
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: s.name}, DNSNames: []string{s.name}, URIs: uris,
		NotBefore: s.from, NotAfter: s.until, KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	e := s.entry
	e.Name, e.Roles, e.Serial, e.Until = s.name, s.roles, Serial(cert), cert.NotAfter
	return cert, Record(a.dir, e)
}

// Enroll spends a token and gives the host that has it a certificate, good for ttl. addr is where the host is. A refusal is a
// *wire.Error. It stands in no ledger: anybody could fill that.
func (a *Authority) Enroll(m *wire.Enroll, ttl time.Duration, addr string) (*x509.Certificate, error) {
	request, err := checkRequest(m.Request)
	if err != nil {
		return nil, err
	}
	if err := checkName(m.Host); err != nil {
		return nil, wire.Errorf(wire.CodeToken, "%w", err)
	}
	unlock, err := lockFolder(a.dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	token := Token{ID: m.Token}.Name()
	if err := a.redeem(m.Token, m.Secret, m.Host, addr); err != nil {
		return nil, err
	}
	now := time.Now()
	return a.sign(request.PublicKey, subject{
		name: m.Host, roles: []wire.Role{wire.RoleSource}, from: now.Add(-backdate), until: now.Add(ttl),
		entry: Entry{Event: "enrolled", Token: token, Addr: addr, By: m.Host},
	})
}

// Renew gives the holder of a certificate that is good another one of the same name and roles, good for ttl. It renews what it
// signed itself and nothing else: whoever has the key of a CA that is on its way out must not get from there into the new one.
func (a *Authority) Renew(old *x509.Certificate, der []byte, ttl time.Duration, addr string) (*x509.Certificate, error) {
	request, err := checkRequest(der)
	if err != nil {
		return nil, err
	}
	return a.renew(old, request.PublicKey, ttl, addr)
}

func (a *Authority) renew(old *x509.Certificate, public crypto.PublicKey, ttl time.Duration, addr string) (*x509.Certificate, error) {
	unlock, err := lockFolder(a.dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	revoked, err := a.revocations()
	if err != nil {
		return nil, err
	}
	name := old.DNSNames[0]
	if old.CheckSignatureFrom(a.cert) != nil {
		return nil, wire.Errorf(wire.CodeCertificate, "the certificate of %s is of another CA than the one that signs now, and is not renewed: %s%s", name, another, name)
	}
	if revoked.Has(a.cert, old) {
		return nil, wire.Errorf(wire.CodeCertificate, "the certificate of %s was revoked: %s%s", name, another, name)
	}
	now := time.Now()
	return a.sign(public, subject{
		name: name, roles: RolesOf(old), from: now.Add(-backdate), until: now.Add(ttl),
		entry: Entry{Event: "renewed", Addr: addr, By: name, Detail: "before: " + Serial(old)},
	})
}

// RenewOwn gives a host that has the CA at hand, a receiver, a key and a certificate in place of those in its folder dir.
func (a *Authority) RenewOwn(dir string, old *x509.Certificate, ttl time.Duration) (*x509.Certificate, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	cert, err := a.renew(old, key.Public(), ttl, "")
	if err != nil {
		return nil, err
	}
	return cert, Store(dir, key, cert, nil)
}

// Greeter makes a certificate with which a receiver shows itself to hosts that enroll: signed by this CA, which is the one
// that tokens name, whatever the receiver's own certificate is signed by. It is good for two days and is kept nowhere.
func (a *Authority) Greeter(name string) (tls.Certificate, error) {
	key, err := NewKey()
	if err != nil {
		return tls.Certificate{}, err
	}
	unlock, err := lockFolder(a.dir)
	if err != nil {
		return tls.Certificate{}, err
	}
	defer unlock()
	now := time.Now()
	cert, err := a.sign(key.Public(), subject{
		name: name, roles: []wire.Role{wire.RoleTarget}, from: now.Add(-backdate), until: now.Add(GreeterTTL),
		entry: Entry{Event: "issued", By: name, Detail: "to show to hosts that enroll"},
	})
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{cert.Raw, a.cert.Raw}, PrivateKey: key, Leaf: cert}, nil
}

// GreeterTTL is how long a Greeter's certificate is good.
const GreeterTTL = 48 * time.Hour

// NewKey makes a host's key.
func NewKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// Request asks for a certificate of key (PKCS #10, RFC 2986). It proves that its sender has the key; what the certificate
// says is up to the CA.
func Request(key *ecdsa.PrivateKey) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
}

// checkRequest holds that whoever asks has the key, and that it is of the kind that hosts have.
func checkRequest(der []byte) (*x509.CertificateRequest, error) {
	request, err := x509.ParseCertificateRequest(der)
	if err == nil {
		err = request.CheckSignature()
	}
	if err != nil {
		return nil, wire.Errorf(wire.CodeProtocol, "the certificate request is no good: %w", err)
	}
	if key, ok := request.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return nil, wire.Errorf(wire.CodeProtocol, "the certificate request is for a %T: ECDSA on P-256 is asked", request.PublicKey)
	}
	return request, nil
}

// Due is when a certificate should be renewed: when two thirds of its life are past.
func Due(cert *x509.Certificate) time.Time {
	return cert.NotAfter.Add(-max(0, cert.NotAfter.Sub(cert.NotBefore)-backdate) / 3)
}

// Serial is a certificate's serial number, in hexadecimal.
func Serial(cert *x509.Certificate) string { return fmt.Sprintf("%x", cert.SerialNumber) }
