package link

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/internal/wire"
)

// Credentials are who a host is, and whom it trusts: its certificate and key, the CAs, and what those have taken back. They
// don't change once loaded; a Keeper loads them anew when their files change.
type Credentials struct {
	Name  string      // the host's, from its certificate
	Roles []wire.Role // what it may be, from its certificate
	trust trust
	cert  tls.Certificate
}

// LoadCredentials reads a host's folder (see the comment of package pki), and lists of revoked certificates from crls as
// well; a list may be missing. Whatever a peer would refuse is refused here already, in one line with the way out.
func LoadCredentials(dir string, crls ...string) (*Credentials, error) {
	c, err := readCredentials(dir, crls...)
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	id, err := c.trust.verify([]*x509.Certificate{c.cert.Leaf}, time.Now())
	if err != nil {
		return nil, fmt.Errorf("credentials: %s: %w", filepath.Join(dir, pki.HostCertFile), err)
	}
	c.Name, c.Roles = id.name, id.roles
	return c, nil
}

// readCredentials reads the files and holds that they belong together.
func readCredentials(dir string, crls ...string) (*Credentials, error) {
	files, names, err := pki.Pair(dir)
	path := func(file string) string { return filepath.Join(dir, file) }
	if errors.Is(err, fs.ErrNotExist) {
		for _, file := range []string{pki.CACertFile, pki.HostCertFile, pki.HostKeyFile} {
			if _, err := os.Stat(path(file)); errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("%s is missing: enroll this host with understudy-agent enroll, or issue its certificate with understudy pki issue", path(file))
			}
		}
	}
	if err != nil {
		return nil, err
	}
	if err := checkSecret(path(pki.HostKeyFile)); err != nil {
		return nil, err
	}
	cas, err := pki.ParseCAs(files[pki.CACertFile])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path(names[pki.CACertFile]), err)
	}
	leaf, err := parseCertificate(path(names[pki.HostCertFile]), files[pki.HostCertFile])
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(files[pki.HostCertFile], files[pki.HostKeyFile])
	if err != nil {
		return nil, fmt.Errorf("%s does not belong to %s: %w; enroll anew, or issue both with understudy pki issue",
			path(pki.HostKeyFile), path(pki.HostCertFile), err)
	}
	cert.Leaf = leaf
	revoked, err := pki.ReadRevocations(cas, append(crls, path(pki.CRLFile))...)
	if err != nil {
		return nil, err
	}
	return &Credentials{trust: trust{cas: cas, revoked: revoked}, cert: cert}, nil
}

// checkSecret holds that nobody but the owner can read the key.
func checkSecret(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s can be read by others (mode %04o): chmod 600 %s", path, mode, path)
	}
	return nil
}

func parseCertificate(path string, raw []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s holds no certificate in PEM", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cert, nil
}

// Certificate is the host's own.
func (c *Credentials) Certificate() *x509.Certificate { return c.cert.Leaf }

// CAs are those that the host trusts.
func (c *Credentials) CAs() []*x509.Certificate { return c.trust.cas }

// Due is when the certificate should be renewed.
func (c *Credentials) Due() time.Time { return pki.Due(c.cert.Leaf) }

// tlsConfig is the same for both ends. It leaves the peer's certificate to admit, which looks at it right after the
// handshake and before anything that the peer says; see the package comment for why. Without tickets there is no
// resumption, so every session is verified on its own.
func (c *Credentials) tlsConfig() *tls.Config {
	return &tls.Config{
		Certificates:           []tls.Certificate{c.cert},
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{alpn},
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, // names of the network are not looked at; the chain is, by admit
		ServerName:             alpn, // says nothing about the site to who listens on the way
		SessionTicketsDisabled: true,
	}
}
