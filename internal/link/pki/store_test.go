package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/wire"
)

// signed is a key with a certificate of it.
type signed struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *Authority {
	t.Helper()
	dir := t.TempDir()
	if err := Init(dir, "home", false); err != nil {
		t.Fatal(err)
	}
	a, err := OpenAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *Authority) give(t *testing.T, name string) signed {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	cert, err := a.sign(key.Public(), subject{
		name: name, roles: []wire.Role{wire.RoleSource}, from: now.Add(-backdate), until: now.Add(time.Hour), entry: Entry{Event: "issued"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return signed{key, cert}
}

// counts reads the folder as a daemon does, and tells which of the certificates it finds, with the right CA beside it.
func counts(t *testing.T, dir string, among map[string]signed, ca map[string]*Authority) string {
	t.Helper()
	files, _, err := Pair(dir)
	if err != nil {
		t.Fatalf("the folder can't be read: %v", err)
	}
	if _, err := tls.X509KeyPair(files[HostCertFile], files[HostKeyFile]); err != nil {
		t.Fatalf("key and certificate don't belong together: %v", err)
	}
	for name, s := range among {
		if !bytes.Equal(files[HostCertFile], pemOf(pemCertificate, s.cert.Raw)) {
			continue
		}
		if !trusts(files[CACertFile], ca[name].pem) {
			t.Fatalf("the CA of the %s certificate is not trusted", name)
		}
		return name
	}
	t.Fatal("an unknown certificate")
	return ""
}

// TestStoreSurvivesACrashAfterEachStep stops a Store after each of its steps: what is in the folder then is the old
// certificate or the new one, whole, and another Store goes on from there. The CA changes with the certificate.
func TestStoreSurvivesACrashAfterEachStep(t *testing.T) {
	before, after := newAuthority(t), newAuthority(t)
	among := map[string]signed{"old": before.give(t, "web1"), "new": after.give(t, "web1"), "third": after.give(t, "web1")}
	cas := map[string]*Authority{"old": before, "new": after, "third": after}
	put := func(dir, name string) {
		t.Helper()
		if err := Store(dir, among[name].key, among[name].cert, []*x509.Certificate{cas[name].cert}); err != nil {
			t.Fatal(err)
		}
	}
	var seen []string
	for n := 0; ; n++ {
		dir := filepath.Join(t.TempDir(), "pki")
		put(dir, "old")
		steps, err := storing(dir, among["new"].key, among["new"].cert, []*x509.Certificate{after.cert})
		if err != nil {
			t.Fatal(err)
		}
		if n > len(steps) {
			break
		}
		for _, step := range steps[:n] {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		seen = append(seen, counts(t, dir, among, cas))
		put(dir, "third")
		if got := counts(t, dir, among, cas); got != "third" {
			t.Errorf("after %d steps and a whole Store the %s certificate counts", n, got)
		}
		leftovers(t, dir)
	}
	switches := 0
	for i := 1; i < len(seen); i++ {
		if seen[i] != seen[i-1] {
			switches++
		}
	}
	if switches != 1 || seen[0] != "old" || seen[len(seen)-1] != "new" {
		t.Errorf("after each step: %v", seen)
	}
}

// TestStoreSurvivesACrashOfTheNext: a Store that was interrupted is followed by one that is interrupted too. At no time is the
// folder without a whole certificate.
func TestStoreSurvivesACrashOfTheNext(t *testing.T) {
	before, after := newAuthority(t), newAuthority(t)
	among := map[string]signed{"old": before.give(t, "web1"), "new": after.give(t, "web1"), "third": after.give(t, "web1")}
	cas := map[string]*Authority{"old": before, "new": after, "third": after}
	steps := func(dir, name string) []func() error {
		t.Helper()
		all, err := storing(dir, among[name].key, among[name].cert, []*x509.Certificate{cas[name].cert})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	took := len(steps(t.TempDir(), "new"))
	for n := range took + 1 {
		dir := filepath.Join(t.TempDir(), "pki")
		if err := Store(dir, among["old"].key, among["old"].cert, []*x509.Certificate{before.cert}); err != nil {
			t.Fatal(err)
		}
		for _, step := range steps(dir, "new")[:n] {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		last := counts(t, dir, among, cas)
		for m, step := range steps(dir, "third") { // one after the other: each is where the second may end
			if err := step(); err != nil {
				t.Fatal(err)
			}
			if got := counts(t, dir, among, cas); got != last && got != "third" {
				t.Fatalf("after %d steps of one and %d of the next the %s certificate counts, before it was the %s", n, m+1, got, last)
			}
		}
	}
}

// leftovers holds that a whole Store leaves nothing of itself.
func leftovers(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		switch e.Name() {
		case CACertFile, HostCertFile, HostKeyFile:
		default:
			t.Errorf("%s is left", e.Name())
		}
	}
}

// TestFirstStoreSurvivesACrash: where there was nothing, there is nothing or all.
func TestFirstStoreSurvivesACrash(t *testing.T) {
	a := newAuthority(t)
	s := a.give(t, "web1")
	whole := false
	for n := 0; ; n++ {
		dir := t.TempDir()
		steps, err := storing(dir, s.key, s.cert, []*x509.Certificate{a.cert})
		if err != nil {
			t.Fatal(err)
		}
		if n > len(steps) {
			break
		}
		for _, step := range steps[:n] {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		_, _, err = Pair(dir)
		if err == nil {
			whole = true
			counts(t, dir, map[string]signed{"new": s}, map[string]*Authority{"new": a})
		} else if whole || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after %d steps: %v", n, err)
		}
	}
	if !whole {
		t.Error("it never was whole")
	}
}

// TestStoreKeepsTheKeyPrivate: the key is never there for others to read, and a certificate that is renewed keeps the CAs.
func TestStoreKeepsTheKeyPrivate(t *testing.T) {
	a := newAuthority(t)
	dir := filepath.Join(t.TempDir(), "pki")
	first, second := a.give(t, "web1"), a.give(t, "web1")
	if err := Store(dir, first.key, first.cert, []*x509.Certificate{a.cert}); err != nil {
		t.Fatal(err)
	}
	if err := Store(dir, second.key, second.cert, nil); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, HostKeyFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if got := counts(t, dir, map[string]signed{"second": second}, map[string]*Authority{"second": a}); got != "second" {
		t.Error(got)
	}
}

func TestTrustIsAddedAndDropped(t *testing.T) {
	before, after, third := newAuthority(t), newAuthority(t), newAuthority(t)
	dir := filepath.Join(t.TempDir(), "web1")
	if err := Issue(before.dir, "web1", wire.RoleSource, time.Hour, dir); err != nil {
		t.Fatal(err)
	}
	file := func(a *Authority) string { return filepath.Join(a.dir, CACertFile) }
	if _, err := Distrust(dir, file(after)); err == nil {
		t.Error("dropped a CA that was not trusted")
	}
	if _, err := Distrust(dir, file(before)); err == nil {
		t.Error("dropped the CA of the host's own certificate")
	}
	for range 2 { // twice is once
		if cas, err := Trust(dir, file(after)); err != nil || len(cas) != 2 {
			t.Fatalf("%d CAs, %v", len(cas), err)
		}
	}
	if err := Reissue(third.dir, "web1", wire.RoleSource, time.Hour, dir); err == nil {
		t.Error("issued by a CA that the host does not trust")
	}
	if err := Reissue(after.dir, "web1", wire.RoleSource, time.Hour, dir); err != nil {
		t.Fatal(err)
	}
	if cas, err := Distrust(dir, file(before)); err != nil || len(cas) != 1 || !cas[0].Equal(after.cert) {
		t.Errorf("%v, %v", cas, err)
	}
	files, _, err := Pair(dir)
	if err != nil || !trusts(files[CACertFile], after.pem) || trusts(files[CACertFile], before.pem) {
		t.Errorf("the folder trusts something else: %v", err)
	}
}
