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

// Credentials are who a host is: the CA that it trusts, its certificate and key. They don't change once loaded.
type Credentials struct {
	Name  string      // the host's, from its certificate
	Roles []wire.Role // what it may be, from its certificate
	ca    *x509.Certificate
	cert  tls.Certificate
}

// LoadCredentials reads ca.crt, host.crt and host.key from dir, as pki.Issue writes them. Whatever a peer would refuse is
// refused here already, in one line with the way out.
func LoadCredentials(dir string) (*Credentials, error) {
	c, err := readCredentials(dir)
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	id, err := verify([]*x509.Certificate{c.cert.Leaf}, c.ca, time.Now())
	if err != nil {
		return nil, fmt.Errorf("credentials: %s: %w", filepath.Join(dir, pki.HostCertFile), err)
	}
	c.Name, c.Roles = id.name, id.roles
	return c, nil
}

// readCredentials reads the files and holds that they belong together.
func readCredentials(dir string) (*Credentials, error) {
	paths := map[string]string{}
	data := map[string][]byte{}
	for _, file := range []string{pki.CACertFile, pki.HostCertFile, pki.HostKeyFile} {
		paths[file] = filepath.Join(dir, file)
		raw, err := os.ReadFile(paths[file])
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s is missing: issue this host's certificate with: understudy pki issue", paths[file])
		}
		if err != nil {
			return nil, err
		}
		data[file] = raw
	}
	if err := checkSecret(paths[pki.HostKeyFile]); err != nil {
		return nil, err
	}
	ca, err := parseCertificate(paths[pki.CACertFile], data[pki.CACertFile])
	if err != nil {
		return nil, err
	}
	leaf, err := parseCertificate(paths[pki.HostCertFile], data[pki.HostCertFile])
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(data[pki.HostCertFile], data[pki.HostKeyFile])
	if err != nil {
		return nil, fmt.Errorf("%s does not belong to %s: %w; issue both anew with: understudy pki issue",
			paths[pki.HostKeyFile], paths[pki.HostCertFile], err)
	}
	cert.Leaf = leaf
	return &Credentials{ca: ca, cert: cert}, nil
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
