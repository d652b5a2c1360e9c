package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/understudy-dr/understudy/internal/durable"
	"github.com/understudy-dr/understudy/internal/wire"
)

// ParseCAs reads the certificates of the CAs that are trusted: one, and while it is being replaced the old and the new one.
func ParseCAs(raw []byte) ([]*x509.Certificate, error) {
	var cas []*x509.Certificate
	for {
		block, rest := pem.Decode(raw)
		if block == nil {
			break
		}
		if block.Type != pemCertificate {
			return nil, fmt.Errorf("it holds a %s", block.Type)
		}
		ca, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if !ca.IsCA {
			return nil, fmt.Errorf("it holds a certificate that is none of a CA (%s)", ca.Subject)
		}
		cas, raw = append(cas, ca), rest
	}
	if len(cas) == 0 {
		return nil, errors.New("it holds no certificate in PEM")
	}
	if len(cas) > wire.MaxCAs {
		return nil, fmt.Errorf("it holds %d CAs, %d at most", len(cas), wire.MaxCAs)
	}
	return cas, nil
}

// SignerOf is the one of cas that signed the certificate, nil for none.
func SignerOf(cert *x509.Certificate, cas []*x509.Certificate) *x509.Certificate {
	for _, ca := range cas {
		if cert.CheckSignatureFrom(ca) == nil {
			return ca
		}
	}
	return nil
}

// Trust adds the CAs in a file to those that the host whose folder is dir trusts. It gives all that are trusted now.
func Trust(dir, file string) ([]*x509.Certificate, error) {
	return changeTrust(dir, file, func(cas, given []*x509.Certificate) ([]*x509.Certificate, error) {
		for _, ca := range given {
			if !slices.ContainsFunc(cas, ca.Equal) {
				cas = append(cas, ca)
			}
		}
		return cas, nil
	})
}

// Distrust takes the CAs in a file away from those that the host whose folder is dir trusts. That of the host's own
// certificate has to stay: no peer would know the host any more.
func Distrust(dir, file string) ([]*x509.Certificate, error) {
	return changeTrust(dir, file, func(cas, given []*x509.Certificate) ([]*x509.Certificate, error) {
		kept := slices.DeleteFunc(slices.Clone(cas), func(ca *x509.Certificate) bool { return slices.ContainsFunc(given, ca.Equal) })
		if len(kept) == len(cas) {
			return nil, fmt.Errorf("none of the CAs in %s is trusted", file)
		}
		raw, err := os.ReadFile(filepath.Join(dir, HostCertFile))
		if err != nil {
			return nil, err
		}
		own, err := parseOne(raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", HostCertFile, err)
		}
		if SignerOf(own, kept) == nil {
			return nil, errors.New("the host's own certificate is of that CA: give it one of the other first (enroll, or understudy pki issue)")
		}
		return kept, nil
	})
}

func changeTrust(dir, file string, change func(cas, given []*x509.Certificate) ([]*x509.Certificate, error)) ([]*x509.Certificate, error) {
	fail := func(err error) ([]*x509.Certificate, error) {
		return nil, fmt.Errorf("change trust in %s: %w", dir, err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return fail(err)
	}
	given, err := ParseCAs(raw)
	if err != nil {
		return fail(fmt.Errorf("%s: %w", file, err))
	}
	unlock, err := lockFolder(dir)
	if err != nil {
		return fail(err)
	}
	defer unlock()
	path := filepath.Join(dir, CACertFile)
	if raw, err = os.ReadFile(path); err != nil {
		return fail(err)
	}
	cas, err := ParseCAs(raw)
	if err != nil {
		return fail(fmt.Errorf("%s: %w", path, err))
	}
	if cas, err = change(cas, given); err != nil {
		return fail(err)
	}
	if len(cas) > wire.MaxCAs {
		return fail(fmt.Errorf("%d CAs, %d at most are trusted at once", len(cas), wire.MaxCAs))
	}
	if err := durable.Replace(path, bundle(cas), 0o644); err != nil {
		return fail(err)
	}
	return cas, nil
}

// bundle is the file of the CAs.
func bundle(cas []*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, ca := range cas {
		b.Write(pemOf(pemCertificate, ca.Raw))
	}
	return b.Bytes()
}

// parseOne reads a single certificate.
func parseOne(raw []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != pemCertificate {
		return nil, errors.New("it holds no certificate in PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}
