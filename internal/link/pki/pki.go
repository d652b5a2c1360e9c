// Package pki makes a site's own certificate authority and the certificates of its hosts: ECDSA P-256, PEM files, nothing
// running. A host is known by the name in its certificate (a DNS SAN) and may do what the role in it allows (a URI SAN,
// "understudy:role:source"); neither says anything about network addresses, which change.
//
//	CA's folder                                  host's folder
//	ca.crt ca.key   the CA                       ca.crt               the CAs that it trusts (trust.go)
//	ca.crl          what it revoked (revoke.go)  ca.crl               what it knows to be revoked; may be missing
//	ledger.jsonl    what it did (ledger.go)      ledger.jsonl         how it came by its certificates
//	tokens/         who may enroll               host.crt host.key    who it is (store.go)
//	                (invitations.go)
//
// ca.key never leaves the CA's folder. A host that enrolls makes host.key itself, and it never leaves the host.
package pki

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/internal/durable"
	"github.com/understudy-dr/understudy/internal/wire"
)

// The files.
const (
	CACertFile   = "ca.crt"
	CAKeyFile    = "ca.key"
	HostCertFile = "host.crt"
	HostKeyFile  = "host.key"
)

const (
	// DefaultTTL is how long a host's certificate is good unless asked otherwise.
	DefaultTTL = 397 * 24 * time.Hour
	// caTTL is how long a CA is good.
	caTTL = 10 * 365 * 24 * time.Hour
	// backdate makes a fresh certificate good on hosts whose clock is a little behind.
	backdate = 10 * time.Minute

	pemCertificate = "CERTIFICATE"
	pemKey         = "PRIVATE KEY"

	rolePrefix = "role:" // of the opaque part of understudy:role:NAME
)

// Init makes a CA for a site in dir, which it creates. A CA that is there already is replaced only by force: every
// certificate of the old one is refused from then on.
func Init(dir, site string, force bool) error {
	if site == "" {
		return errors.New("init pki: the site needs a name")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("init pki: %w", err)
	}
	paths := []string{filepath.Join(dir, CAKeyFile), filepath.Join(dir, CACertFile)}
	for _, path := range paths {
		if err := vacate(path, force); err != nil {
			return fmt.Errorf("init pki: %w; --force replaces the CA, and no certificate of the old one is good any more", err)
		}
	}
	key, err := NewKey()
	if err != nil {
		return fmt.Errorf("init pki: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: site + " understudy CA", Organization: []string{site}},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(caTTL),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fmt.Errorf("init pki: %w", err)
	}
	if err := writeKey(paths[0], key); err != nil {
		return err
	}
	return durable.Create(paths[1], pemOf(pemCertificate, der), 0o644)
}

// Issue makes a key and a certificate for a host in the directory out, which it creates: signed by the CA in dir, good for
// ttl (0: DefaultTTL), but no longer than the CA. Files that are there already are left alone, and it is an error.
func Issue(dir, name string, role wire.Role, ttl time.Duration, out string) error {
	if ttl == 0 {
		ttl = DefaultTTL
	}
	now := time.Now()
	return IssueBetween(dir, name, role, now.Add(-backdate), now.Add(ttl), out)
}

// IssueBetween is Issue with both ends of the validity.
func IssueBetween(dir, name string, role wire.Role, from, until time.Time, out string) error {
	fail := func(err error) error { return fmt.Errorf("issue certificate for %s: %w", name, err) }
	if err := checkName(name); err != nil {
		return fail(err)
	}
	if _, err := wire.ParseRole(role.String()); err != nil {
		return fail(fmt.Errorf("no such role as %v", role))
	}
	a, err := OpenAuthority(dir)
	if err != nil {
		return fail(err)
	}
	if !until.After(from) {
		return fail(fmt.Errorf("it would be good until %s, from %s", stamp(until), stamp(from)))
	}
	if err := prepare(out, a.pem); err != nil {
		return fail(err)
	}
	unlock, err := lockFolder(dir)
	if err != nil {
		return fail(err)
	}
	defer unlock()
	key, err := NewKey()
	if err != nil {
		return fail(err)
	}
	cert, err := a.sign(key.Public(), subject{
		name: name, roles: []wire.Role{role}, from: from, until: until, entry: Entry{Event: "issued", Detail: "into " + out},
	})
	if err != nil {
		return fail(err)
	}
	if err := writeKey(filepath.Join(out, HostKeyFile), key); err != nil {
		return err
	}
	return durable.Create(filepath.Join(out, HostCertFile), pemOf(pemCertificate, cert.Raw), 0o644)
}

// Reissue makes a key and a certificate in place of those in a host's folder, which must trust the CA in dir. A daemon that
// runs with the folder takes them up by itself.
func Reissue(dir, name string, role wire.Role, ttl time.Duration, out string) error {
	fail := func(err error) error { return fmt.Errorf("issue certificate for %s anew: %w", name, err) }
	if ttl == 0 {
		ttl = DefaultTTL
	}
	a, err := OpenAuthority(dir)
	if err != nil {
		return fail(err)
	}
	if err := checkName(name); err != nil {
		return fail(err)
	}
	there, err := os.ReadFile(filepath.Join(out, CACertFile))
	if err != nil {
		return fail(err)
	}
	if !trusts(there, a.pem) {
		return fail(fmt.Errorf("%s does not trust that CA: first understudy pki trust --pki %s --add %s", out, out, filepath.Join(dir, CACertFile)))
	}
	key, err := NewKey()
	if err != nil {
		return fail(err)
	}
	unlock, err := lockFolder(dir)
	if err != nil {
		return fail(err)
	}
	now := time.Now()
	cert, err := a.sign(key.Public(), subject{
		name: name, roles: []wire.Role{role}, from: now.Add(-backdate), until: now.Add(ttl), entry: Entry{Event: "issued", Detail: "anew into " + out},
	})
	unlock()
	if err != nil {
		return fail(err)
	}
	return Store(out, key, cert, nil)
}

// RolesOf are the roles that a certificate gives its host.
func RolesOf(cert *x509.Certificate) []wire.Role {
	var roles []wire.Role
	for _, uri := range cert.URIs {
		name, ok := strings.CutPrefix(uri.Opaque, rolePrefix)
		if role, err := wire.ParseRole(name); ok && err == nil && uri.Scheme == "understudy" {
			roles = append(roles, role)
		}
	}
	return roles
}

// prepare makes the host's directory, with a copy of the CA's certificate and room for the host's.
func prepare(out string, caPEM []byte) error {
	if err := os.MkdirAll(out, 0o700); err != nil {
		return err
	}
	for _, file := range []string{HostKeyFile, HostCertFile} {
		if err := vacate(filepath.Join(out, file), false); err != nil {
			return fmt.Errorf("%w; move it away first, or choose another directory", err)
		}
	}
	path := filepath.Join(out, CACertFile)
	switch there, err := os.ReadFile(path); {
	case errors.Is(err, fs.ErrNotExist):
		return durable.Create(path, caPEM, 0o644)
	case err != nil:
		return err
	case !trusts(there, caPEM):
		return fmt.Errorf("%s is of another CA; move it away first, or choose another directory", path)
	}
	return nil
}

// trusts tells whether a host's CAs, in PEM, include the CA.
func trusts(there, caPEM []byte) bool {
	cas, err := ParseCAs(there)
	ca, err2 := parseOne(caPEM)
	return err == nil && err2 == nil && slices.ContainsFunc(cas, ca.Equal)
}

// loadCA reads the CA's certificate and key and holds that they belong together.
func loadCA(dir string) (*x509.Certificate, []byte, *ecdsa.PrivateKey, error) {
	certPEM, err := os.ReadFile(filepath.Join(dir, CACertFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil, fmt.Errorf("no CA in %s: make one with: understudy pki init --dir %s", dir, dir)
	}
	if err != nil {
		return nil, nil, nil, err
	}
	keyPath := filepath.Join(dir, CAKeyFile)
	keyPEM, err := os.ReadFile(keyPath)
	if err != nil {
		return nil, nil, nil, err
	}
	certBlock, _ := pem.Decode(certPEM)
	keyBlock, _ := pem.Decode(keyPEM)
	if certBlock == nil || keyBlock == nil {
		return nil, nil, nil, fmt.Errorf("%s or %s in %s is no PEM file", CACertFile, CAKeyFile, dir)
	}
	ca, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%s in %s: %w", CACertFile, dir, err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%s: %w", keyPath, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(ca.PublicKey) {
		return nil, nil, nil, fmt.Errorf("%s does not belong to %s in %s", CAKeyFile, CACertFile, dir)
	}
	return ca, certPEM, key, nil
}

// checkName holds a host's name against what a DNS SAN can carry.
func checkName(name string) error {
	bad := strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' || r == '_')
	})
	if name == "" || len(name) > wire.MaxHost || bad {
		return fmt.Errorf("a host's name has 1 to %d letters, digits, dots, dashes and underscores", wire.MaxHost)
	}
	return nil
}

// vacate says no when something is at path, or removes it by force.
func vacate(path string, force bool) error {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !force {
		return fmt.Errorf("%s is there already: %w", path, fs.ErrExist)
	}
	return os.Remove(path)
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return durable.Create(path, pemOf(pemKey, der), 0o600)
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// serial is 127 random bits (RFC 5280, 4.1.2.2: positive, up to 20 bytes).
func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // never fails: it ends the program rather than return weak numbers
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b[:])
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
