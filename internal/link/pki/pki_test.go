package pki_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/internal/wire"
)

func read(t *testing.T, parts ...string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func certificate(t *testing.T, parts ...string) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(read(t, parts...))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func initCA(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	if err := pki.Init(dir, "home", false); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestIssue(t *testing.T) {
	dir := initCA(t)
	for _, role := range wire.Roles() {
		out := filepath.Join(dir, role.String())
		if err := pki.Issue(dir, "web1.home", role, 0, out); err != nil {
			t.Fatal(err)
		}
		ca, cert := certificate(t, dir, "ca.crt"), certificate(t, out, "host.crt")
		if err := cert.CheckSignatureFrom(ca); err != nil {
			t.Error(err)
		}
		if got := pki.RolesOf(cert); !slices.Equal(got, []wire.Role{role}) {
			t.Errorf("roles %v, issued for %v", got, role)
		}
		if !slices.Equal(cert.DNSNames, []string{"web1.home"}) || cert.IsCA {
			t.Errorf("names %v, CA %v", cert.DNSNames, cert.IsCA)
		}
		if left := time.Until(cert.NotAfter); left > pki.DefaultTTL || left < pki.DefaultTTL-time.Hour {
			t.Errorf("good for %v", left)
		}
		if !bytes.Equal(read(t, out, "ca.crt"), read(t, dir, "ca.crt")) {
			t.Error("the host has another CA")
		}
		for _, key := range []string{filepath.Join(out, "host.key"), filepath.Join(dir, "ca.key")} {
			if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v, %v", key, info.Mode(), err)
			}
		}
		if _, err := os.Stat(filepath.Join(out, "ca.key")); !errors.Is(err, fs.ErrNotExist) {
			t.Error("the CA's key was given away")
		}
	}
}

func TestNothingIsOverwritten(t *testing.T) {
	dir := initCA(t)
	before := read(t, dir, "ca.key")
	if err := pki.Init(dir, "home", false); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), "--force") {
		t.Errorf("a second init: %v", err)
	}
	out := filepath.Join(dir, "web1")
	if err := pki.Issue(dir, "web1", wire.RoleSource, time.Hour, out); err != nil {
		t.Fatal(err)
	}
	key := read(t, out, "host.key")
	if err := pki.Issue(dir, "web1", wire.RoleSource, time.Hour, out); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second issue: %v", err)
	}
	if !bytes.Equal(before, read(t, dir, "ca.key")) || !bytes.Equal(key, read(t, out, "host.key")) {
		t.Error("a key was overwritten")
	}
	if err := pki.Init(dir, "home", true); err != nil || bytes.Equal(before, read(t, dir, "ca.key")) {
		t.Errorf("by force: %v", err)
	}
	for _, file := range []string{"host.key", "host.crt"} {
		if err := os.Remove(filepath.Join(out, file)); err != nil {
			t.Fatal(err)
		}
	}
	if err := pki.Issue(dir, "web1", wire.RoleSource, time.Hour, out); err == nil || !strings.Contains(err.Error(), "is of another CA") {
		t.Errorf("issued by the new CA beside the certificate of the old one: %v", err)
	}
}

func TestIssueRefuses(t *testing.T) {
	dir := initCA(t)
	long := strings.Repeat("x", wire.MaxHost+1)
	for name, row := range map[string]struct {
		dir, host string
		role      wire.Role
		ttl       time.Duration
		says      string
	}{
		"no CA":         {t.TempDir(), "web1", wire.RoleSource, 0, "understudy pki init"},
		"no name":       {dir, "", wire.RoleSource, 0, "a host's name"},
		"odd name":      {dir, "web 1", wire.RoleSource, 0, "a host's name"},
		"path for name": {dir, "../web1", wire.RoleSource, 0, "a host's name"},
		"long name":     {dir, long, wire.RoleSource, 0, "a host's name"},
		"no role":       {dir, "web1", 0, 0, "no such role"},
		"no time":       {dir, "web1", wire.RoleSource, -time.Hour, "it would be good until"},
	} {
		out := filepath.Join(t.TempDir(), "out")
		err := pki.Issue(row.dir, row.host, row.role, row.ttl, out)
		if err == nil || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(out, "host.key")); err == nil {
			t.Errorf("%s: a key was made", name)
		}
	}
	if err := pki.Init(t.TempDir(), "", false); err == nil {
		t.Error("a CA of no site")
	}
}

func TestACertificateDoesNotOutliveItsCA(t *testing.T) {
	dir := initCA(t)
	out := filepath.Join(dir, "web1")
	if err := pki.Issue(dir, "web1", wire.RoleSource, 100*365*24*time.Hour, out); err != nil {
		t.Fatal(err)
	}
	if ca, cert := certificate(t, dir, "ca.crt"), certificate(t, out, "host.crt"); cert.NotAfter.After(ca.NotAfter) {
		t.Errorf("good until %v, the CA until %v", cert.NotAfter, ca.NotAfter)
	}
}

func TestAKeyOfAnotherCA(t *testing.T) {
	dir, other := initCA(t), initCA(t)
	if err := os.WriteFile(filepath.Join(dir, "ca.key"), read(t, other, "ca.key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := pki.Issue(dir, "web1", wire.RoleSource, 0, filepath.Join(dir, "web1")); err == nil || !strings.Contains(err.Error(), "does not belong") {
		t.Errorf("%v", err)
	}
}
