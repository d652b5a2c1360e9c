package main

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/internal/wire"
)

// certificateDump is what dump says of a certificate.
type certificateDump struct {
	Is     string      `json:"is"`
	Name   string      `json:"name"`
	Roles  []wire.Role `json:"roles,omitempty"`
	Serial string      `json:"serial"`
	From   time.Time   `json:"from"`
	Until  time.Time   `json:"until"`
}

// revokedDump is what dump says of an entry in a list of revoked certificates.
type revokedDump struct {
	Is     string    `json:"is"`
	By     string    `json:"by"`
	Number string    `json:"number"` // of the list
	Serial string    `json:"serial"`
	Time   time.Time `json:"time"`
}

// dumpPKI prints a ledger, certificates or lists of revoked ones: a line each. A key is not shown. known is false when the
// file is something else.
func dumpPKI(w io.Writer, path string, asJSON bool) (known bool, err error) {
	var all []any
	if filepath.Base(path) == pki.LedgerFile {
		entries, unreadable, err := pki.ReadLedger(filepath.Dir(path))
		if err != nil {
			return true, err
		}
		for _, e := range entries {
			all = append(all, e)
		}
		if unreadable > 0 {
			all = append(all, map[string]int{"unreadable_lines": unreadable})
		}
		return true, dumpLines(w, all, "ledger, version 1: ", asJSON)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return false, fmt.Errorf("dump: %w", err)
	}
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		docs, err := dumpBlock(block)
		if err != nil {
			return true, fmt.Errorf("dump %s: %w", path, err)
		}
		all = append(all, docs...)
	}
	return len(all) > 0, dumpLines(w, all, "", asJSON)
}

func dumpBlock(block *pem.Block) (docs []any, err error) {
	switch block.Type {
	case "CERTIFICATE":
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		d := certificateDump{Is: "certificate", Name: c.Subject.CommonName, Roles: pki.RolesOf(c), Serial: pki.Serial(c), From: c.NotBefore, Until: c.NotAfter}
		if c.IsCA {
			d.Is = "CA"
		}
		return []any{d}, nil
	case "X509 CRL":
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, err
		}
		for _, e := range list.RevokedCertificateEntries {
			docs = append(docs, revokedDump{
				Is: "revoked", By: list.Issuer.CommonName, Number: list.Number.String(), Serial: fmt.Sprintf("%x", e.SerialNumber), Time: e.RevocationTime,
			})
		}
		return docs, nil
	}
	return []any{map[string]string{"is": block.Type + ", not shown"}}, nil
}

// dumpLines prints documents, a line each.
func dumpLines(w io.Writer, docs []any, prefix string, asJSON bool) error {
	if asJSON {
		prefix = ""
	}
	for _, d := range docs {
		raw, err := json.Marshal(d)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "%s%s\n", prefix, raw); err != nil {
			return err
		}
	}
	return nil
}
