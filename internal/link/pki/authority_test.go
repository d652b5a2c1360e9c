package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/wire"
)

// request is what a host asks with, by a key of its own.
func request(t *testing.T) []byte {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := Request(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// enroll redeems a token.
func (a *Authority) enroll(t *testing.T, token Token, host string) (*x509.Certificate, error) {
	t.Helper()
	return a.Enroll(&wire.Enroll{Token: token.ID, Secret: token.Secret, Host: host, Request: request(t)}, time.Hour, "192.0.2.1:5")
}

func (a *Authority) invited(t *testing.T, host string, ttl time.Duration) Token {
	t.Helper()
	token, _, err := a.Invite(host, ttl, "ann", "vault:443")
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestATokenIsGoodOnceForOneHost(t *testing.T) {
	a := newAuthority(t)
	other := newAuthority(t).invited(t, "web1", time.Hour)
	guessed := a.invited(t, "web1", time.Hour)
	guessed.Secret[0] ^= 1
	unknown := guessed
	unknown.ID[0] ^= 1
	brief := a.invited(t, "web1", time.Millisecond)
	time.Sleep(2 * time.Millisecond) // it has ended then
	for name, row := range map[string]struct {
		token Token
		host  string
		says  string
	}{
		"of another CA":     {other, "web1", "not known here"},
		"a guessed secret":  {guessed, "web1", "not known here"},
		"an unknown one":    {unknown, "web1", "not known here"},
		"another host's":    {a.invited(t, "web1", time.Hour), "web2", "the token is for web1, and this host goes by web2: enroll with --host web1"},
		"past its time":     {brief, "web1", "ended at"},
		"of an odd name":    {a.invited(t, "web1", time.Hour), "../web1", "a host's name has"},
		"of another letter": {a.invited(t, "web1", time.Hour), "WEB1", "this host goes by WEB1"},
	} {
		_, err := a.enroll(t, row.token, row.host)
		if !errors.Is(err, wire.ErrToken) || !strings.Contains(err.Error(), row.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	token := a.invited(t, "web1", time.Hour)
	cert, err := a.enroll(t, token, "web1")
	if err != nil {
		t.Fatal(err)
	}
	if roles := RolesOf(cert); cert.DNSNames[0] != "web1" || len(roles) != 1 || roles[0] != wire.RoleSource || cert.CheckSignatureFrom(a.cert) != nil {
		t.Errorf("granted to %v for %v", cert.DNSNames, roles)
	}
	for _, again := range []*Authority{a, reopen(t, a)} { // also by another process, and after a restart
		if _, err := again.enroll(t, token, "web1"); !errors.Is(err, wire.ErrToken) || !strings.Contains(err.Error(), "used already") || !strings.Contains(err.Error(), "enroll-token --host web1") {
			t.Errorf("a second time: %v", err)
		}
	}
}

func reopen(t *testing.T, a *Authority) *Authority {
	t.Helper()
	again, err := OpenAuthority(a.dir)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

// TestATokenIsSpentBeforeAnythingIsSigned: when the CA can't sign, or can't write down what it signs, the token is spent all
// the same, and nothing was given away.
func TestATokenIsSpentBeforeAnythingIsSigned(t *testing.T) {
	a := newAuthority(t)
	token := a.invited(t, "web1", time.Hour)
	ledger := filepath.Join(a.dir, LedgerFile)
	if err := errors.Join(os.Rename(ledger, ledger+".away"), os.Mkdir(ledger, 0o700)); err != nil {
		t.Fatal(err)
	}
	if cert, err := a.enroll(t, token, "web1"); err == nil || errors.Is(err, wire.ErrToken) {
		t.Fatalf("%v, %v", cert, err)
	}
	if err := errors.Join(os.Remove(ledger), os.Rename(ledger+".away", ledger)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.enroll(t, token, "web1"); !errors.Is(err, wire.ErrToken) {
		t.Errorf("after that: %v", err)
	}
}

// TestATokenIsGoodOnceAtOnce has many use one token at the same time, through two openings of the CA.
func TestATokenIsGoodOnceAtOnce(t *testing.T) {
	a := newAuthority(t)
	token := a.invited(t, "web1", time.Hour)
	var wg sync.WaitGroup
	var got atomic.Int32
	for _, by := range []*Authority{a, reopen(t, a)} {
		for range 10 {
			wg.Go(func() {
				if _, err := by.enroll(t, token, "web1"); err == nil {
					got.Add(1)
				} else if !errors.Is(err, wire.ErrToken) {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	if got.Load() != 1 {
		t.Errorf("%d certificates for one token", got.Load())
	}
}

func TestTheSecretIsNotKept(t *testing.T) {
	a := newAuthority(t)
	token := a.invited(t, "web1", time.Hour)
	if strings.Contains(token.String(), token.Text()) {
		t.Error("the token prints its secret")
	}
	err := filepath.WalkDir(a.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if strings.Contains(string(raw), string(token.Secret[:])) || strings.Contains(string(raw), token.Text()) {
			t.Errorf("%s holds the secret", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTokensAsText(t *testing.T) {
	token := newAuthority(t).invited(t, "web1", time.Hour)
	text := token.Text()
	if got, err := ParseToken(" " + text + "\n"); err != nil || got != token {
		t.Errorf("%+v, %v", got, err)
	}
	bad := []string{"", "understudy1-", "understudy2-" + text[len(tokenPrefix):], text + "A", strings.Repeat("A", 5000), tokenPrefix + strings.Repeat("A", 5000)}
	for i := range text {
		bad = append(bad, text[:i], text[:i]+"!"+text[i+1:])
		if text[i] != 'A' {
			bad = append(bad, text[:i]+"A"+text[i+1:])
		}
	}
	for _, s := range bad {
		if got, err := ParseToken(s); err == nil {
			t.Fatalf("%q was taken for %v", s, got)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(Token{Receiver: "vault:443"}.Text())
	f.Fuzz(func(t *testing.T, s string) {
		if token, err := ParseToken(s); err == nil && token.Text() != strings.TrimSpace(s) {
			t.Errorf("%q reads as %q", s, token.Text())
		}
	})
}

func TestRequestsOfNoUse(t *testing.T) {
	a := newAuthority(t)
	cert := a.give(t, "web1").cert
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := Request(p384)
	if err != nil {
		t.Fatal(err)
	}
	broken := request(t)
	broken[len(broken)-1] ^= 1
	for name, der := range map[string][]byte{"no request": {1, 2, 3}, "not signed by its key": broken, "another kind of key": other} {
		if _, err := a.Renew(cert, der, time.Hour, ""); !errors.Is(err, wire.ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRevokeByName takes back what was issued, enrolled and renewed, and nothing that comes later or is another's.
func TestRevokeByName(t *testing.T) {
	a := newAuthority(t)
	other := a.give(t, "web2").cert
	first, err := a.enroll(t, a.invited(t, "web1", time.Hour), "web1")
	if err != nil {
		t.Fatal(err)
	}
	second, err := a.Renew(first, request(t), time.Hour, "")
	if err != nil {
		t.Fatal(err)
	}
	third := a.give(t, "web1").cert
	done, err := reopen(t, a).Revoke(&wire.Revoke{Name: "web1"}, "ann", "")
	if err != nil || len(done.Serials) != 3 {
		t.Fatalf("%+v, %v", done, err)
	}
	after := a.give(t, "web1").cert
	cas := []*x509.Certificate{newAuthority(t).cert, a.cert}
	list, err := ReadRevocations(cas, filepath.Join(t.TempDir(), "none"), a.crlFile())
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		cert *x509.Certificate
		want bool
	}{"enrolled": {first, true}, "renewed": {second, true}, "issued": {third, true}, "issued after": {after, false}, "another host's": {other, false}} {
		if list.Has(a.cert, row.cert) != row.want || list.Has(cas[0], row.cert) {
			t.Errorf("%s: revoked %v", name, !row.want)
		}
	}
	if _, err := a.Renew(second, request(t), time.Hour, ""); !errors.Is(err, wire.ErrCertificate) {
		t.Errorf("a revoked certificate was renewed: %v", err)
	}
	if _, err := newAuthority(t).Renew(other, request(t), time.Hour, ""); !errors.Is(err, wire.ErrCertificate) || !strings.Contains(err.Error(), "of another CA") {
		t.Errorf("a certificate of another CA was renewed: %v", err)
	}
	if _, err := a.Revoke(&wire.Revoke{Name: "nobody"}, "ann", ""); !errors.Is(err, wire.ErrCertificate) {
		t.Errorf("of nobody: %v", err)
	}
	if _, err := a.Revoke(&wire.Revoke{Serial: Serial(other)}, "ann", ""); err != nil {
		t.Fatal(err)
	}
	list, err = ReadRevocations(cas, a.crlFile())
	if err != nil || len(list) != 4 || !list.Has(a.cert, other) {
		t.Errorf("a second revocation: %d revoked, %v", len(list), err)
	}
}

// TestARenewalDoesNotSlipThroughARevocation renews while the name is revoked, again and again: whatever was given is revoked,
// or was given after.
func TestARenewalDoesNotSlipThroughARevocation(t *testing.T) {
	a := newAuthority(t)
	for range 20 {
		old := a.give(t, "web1").cert
		var renewed *x509.Certificate
		var refused error
		var wg sync.WaitGroup
		wg.Go(func() { renewed, refused = reopen(t, a).Renew(old, request(t), time.Hour, "") })
		wg.Go(func() {
			if _, err := a.Revoke(&wire.Revoke{Name: "web1"}, "ann", ""); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		list, err := a.revocations()
		if err != nil {
			t.Fatal(err)
		}
		if !list.Has(a.cert, old) || refused == nil && !list.Has(a.cert, renewed) {
			t.Fatalf("a certificate is good after its name was revoked (renewed: %v)", refused == nil)
		}
	}
}

func TestListsOfOthersCountForNothing(t *testing.T) {
	a, foreign := newAuthority(t), newAuthority(t)
	cert := a.give(t, "web1").cert
	if _, err := foreign.Revoke(&wire.Revoke{Serial: Serial(cert)}, "mallory", ""); err != nil {
		t.Fatal(err)
	}
	list, err := ReadRevocations([]*x509.Certificate{a.cert}, foreign.crlFile())
	if err != nil || len(list) != 0 {
		t.Errorf("%d revoked by a CA that is not trusted, %v", len(list), err)
	}
	damaged := filepath.Join(t.TempDir(), CRLFile)
	if err := os.WriteFile(damaged, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadRevocations([]*x509.Certificate{a.cert}, damaged); err == nil {
		t.Error("a damaged list counts as none")
	}
}

// TestLedgerAfterACrash: a line that was cut short is one line, and those after it are read.
func TestLedgerAfterACrash(t *testing.T) {
	a := newAuthority(t)
	a.give(t, "web1")
	path := filepath.Join(a.dir, LedgerFile)
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"version":1,"event":"issu`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	a.give(t, "web1")
	entries, unreadable, err := ReadLedger(a.dir)
	if err != nil || len(entries) != 2 || unreadable != 1 {
		t.Errorf("%d entries, %d unreadable, %v", len(entries), unreadable, err)
	}
	if done, err := a.Revoke(&wire.Revoke{Name: "web1"}, "ann", ""); err != nil || len(done.Serials) != 2 || done.Unreadable != 1 {
		t.Errorf("%+v, %v", done, err)
	}
}

func TestDue(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, life := range []time.Duration{30 * time.Second, 90 * 24 * time.Hour} {
		cert := &x509.Certificate{NotBefore: start.Add(-backdate), NotAfter: start.Add(life)}
		if got := Due(cert).Sub(start); got != life*2/3 {
			t.Errorf("of %v: due after %v", life, got)
		}
	}
}

// TestOldTokensAreRemoved: those that ended long ago go, with their marks.
func TestOldTokensAreRemoved(t *testing.T) {
	a := newAuthority(t)
	old, fresh := a.invited(t, "web1", time.Hour), a.invited(t, "web1", time.Hour)
	if _, err := a.enroll(t, old, "web1"); err != nil {
		t.Fatal(err)
	}
	path := a.tokenFile(old.Name(), "json")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	in, err := a.invitation(old.Name())
	if err != nil {
		t.Fatal(err)
	}
	past := strings.Replace(string(raw), in.Expires.Format(time.RFC3339Nano), in.Expires.Add(-keepInvitations-2*time.Hour).Format(time.RFC3339Nano), 1)
	if err := os.WriteFile(path, []byte(past), 0o600); err != nil {
		t.Fatal(err)
	}
	a.invited(t, "web2", time.Hour)
	left, err := filepath.Glob(filepath.Join(a.dir, tokensFolder, "*"))
	if err != nil || len(left) != 2 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := a.enroll(t, fresh, "web1"); err != nil {
		t.Error(err)
	}
}
