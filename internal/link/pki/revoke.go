package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/internal/durable"
	"github.com/understudy-dr/understudy/internal/wire"
)

// CRLFile is the list of what a CA has taken back: X.509 lists (RFC 5280, 5) in PEM, each signed by its CA, so that it
// can be handed on by any way. It lies in the CA's folder and, where that is not at hand, in the host's.
const CRLFile = "ca.crl"

const pemCRL = "X509 CRL"

// Revocations are what is known to be revoked. The zero value is nothing.
type Revocations map[revoked]time.Time

// revoked is one certificate. The names of CAs may be the same; their certificates are not.
type revoked struct {
	ca     [sha256.Size]byte
	serial string
}

// Has tells whether ca has taken the certificate back.
func (r Revocations) Has(ca, cert *x509.Certificate) bool {
	_, is := r[revoked{sha256.Sum256(ca.Raw), cert.SerialNumber.String()}]
	return is
}

// ReadRevocations reads the lists in files, of which each may be missing, and holds that each was signed by one of cas. A
// list of a CA that is not trusted counts for nothing.
func ReadRevocations(cas []*x509.Certificate, files ...string) (Revocations, error) {
	all := Revocations{}
	for _, path := range files {
		raw, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		lists, err := parseCRLs(raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w; put it back from the CA's folder", path, err)
		}
		for _, list := range lists {
			ca := signerOf(list, cas)
			if ca == nil {
				continue
			}
			for _, e := range list.RevokedCertificateEntries {
				all[revoked{sha256.Sum256(ca.Raw), e.SerialNumber.String()}] = e.RevocationTime
			}
		}
	}
	return all, nil
}

func signerOf(list *x509.RevocationList, cas []*x509.Certificate) *x509.Certificate {
	for _, ca := range cas {
		if list.CheckSignatureFrom(ca) == nil {
			return ca
		}
	}
	return nil
}

func parseCRLs(raw []byte) ([]*x509.RevocationList, error) {
	var lists []*x509.RevocationList
	for {
		block, rest := pem.Decode(raw)
		if block == nil {
			break
		}
		if block.Type != pemCRL {
			return nil, fmt.Errorf("it holds a %s", block.Type)
		}
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, err
		}
		lists, raw = append(lists, list), rest
	}
	if len(lists) == 0 {
		return nil, errors.New("it holds no revocation list in PEM")
	}
	return lists, nil
}

func (a *Authority) crlFile() string { return filepath.Join(a.dir, CRLFile) }

func (a *Authority) revocations() (Revocations, error) {
	return ReadRevocations([]*x509.Certificate{a.cert}, a.crlFile())
}

// Revocation says what Revoke did.
type Revocation struct {
	Serials    []string `json:"serials"`    // that are revoked now and were not before, and would still be good
	Unreadable int      `json:"unreadable"` // lines of the ledger that nobody can read: certificates in them can be revoked by serial only
}

// Revoke takes back every certificate that was issued for a name so far, or the one of a serial number; a name can be issued
// for anew. by is who wants it, addr where from.
func (a *Authority) Revoke(what *wire.Revoke, by, addr string) (Revocation, error) {
	var done Revocation
	fail := func(err error) (Revocation, error) {
		return done, fmt.Errorf("revoke %s%s: %w", what.Name, what.Serial, err)
	}
	if err := what.Check(); err != nil {
		return fail(err)
	}
	unlock, err := lockFolder(a.dir)
	if err != nil {
		return fail(err)
	}
	defer unlock()
	entries, unreadable, err := ReadLedger(a.dir)
	if err != nil {
		return fail(err)
	}
	done.Unreadable = unreadable
	known, list, err := a.oldList()
	if err != nil {
		return fail(err)
	}
	now := time.Now()
	for _, serial := range chosen(entries, what, now) {
		number, ok := new(big.Int).SetString(serial, 16)
		if !ok {
			return fail(wire.Errorf(wire.CodeProtocol, "%q is no serial number in hexadecimal", serial))
		}
		if _, already := known[revoked{sha256.Sum256(a.cert.Raw), number.String()}]; already {
			continue
		}
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: number, RevocationTime: now})
		done.Serials = append(done.Serials, serial)
	}
	if len(done.Serials) == 0 {
		return fail(wire.Errorf(wire.CodeCertificate, "there is no certificate of %s%s that is still good: the CA's %s lists what it issued", what.Name, what.Serial, LedgerFile))
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
	if err != nil {
		return fail(err)
	}
	if err := durable.Replace(a.crlFile(), pemOf(pemCRL, der), 0o644); err != nil {
		return fail(err)
	}
	for _, serial := range done.Serials {
		if err := Record(a.dir, Entry{Event: "revoked", Name: what.Name, Serial: serial, By: by, Addr: addr}); err != nil {
			return done, err
		}
	}
	return done, nil
}

// chosen are the serials to revoke. One that is asked for by itself need not be in the ledger.
func chosen(entries []Entry, what *wire.Revoke, now time.Time) []string {
	if what.Serial != "" {
		return []string{what.Serial}
	}
	var serials []string
	for _, e := range entries {
		given := e.Event == "issued" || e.Event == "enrolled" || e.Event == "renewed"
		if given && e.Name == what.Name && e.Until.After(now) && !slices.Contains(serials, e.Serial) {
			serials = append(serials, e.Serial)
		}
	}
	return serials
}

// oldList is what is revoked already, and the list to go on with.
func (a *Authority) oldList() (Revocations, *x509.RevocationList, error) {
	next := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: a.cert.NotAfter}
	known, err := a.revocations()
	if err != nil {
		return nil, nil, err
	}
	raw, err := os.ReadFile(a.crlFile())
	if errors.Is(err, fs.ErrNotExist) {
		return known, next, nil
	}
	if err != nil {
		return nil, nil, err
	}
	lists, err := parseCRLs(raw)
	if err != nil {
		return nil, nil, err
	}
	for _, list := range lists {
		if list.CheckSignatureFrom(a.cert) != nil {
			return nil, nil, fmt.Errorf("%s holds a list of another CA", a.crlFile())
		}
		next.Number = new(big.Int).Add(list.Number, big.NewInt(1))
		next.RevokedCertificateEntries = append(next.RevokedCertificateEntries, list.RevokedCertificateEntries...)
	}
	return known, next, nil
}
