package linetest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/receiver"
)

// admin is a folder with an administrator's certificate.
func (s *site) admin() string {
	s.t.Helper()
	dir := s.path("admin")
	if _, err := os.Stat(dir); err != nil {
		s.ours("pki", "issue", "--dir", s.path("ca"), "--name", "root", "--role", "admin", "--out", dir)
	}
	return dir
}

// token has an administrator make one, by way of the receiver.
func (s *site) token(host string, more ...string) string {
	s.t.Helper()
	args := append([]string{"enroll-token", "--json", "--host", host, "--receiver", s.addr, "--pki", s.admin(), "--carrier", s.carrier}, more...)
	var report receiver.TokenReport
	if err := json.Unmarshal([]byte(s.ours(args...)), &report); err != nil {
		s.t.Fatal(err)
	}
	return report.Token
}

// enroll runs the agent's enroll for a folder.
func (s *site) enroll(token, host, folder string, more ...string) (stderr string, code int) {
	s.t.Helper()
	args := append([]string{"enroll", "--token", token, "--host", host, "--pki", s.path(folder), "--carrier", s.carrier}, more...)
	_, stderr, code = run(s.t, "understudy-agent", args...)
	return stderr, code
}

// ledgerHas tells whether a folder's ledger has such an event of a name.
func (s *site) ledgerHas(folder, event, name string) bool {
	s.t.Helper()
	entries, unreadable, err := pki.ReadLedger(s.path(folder))
	if err != nil || unreadable != 0 {
		s.t.Fatalf("ledger of %s: %d unreadable, %v", folder, unreadable, err)
	}
	for _, e := range entries {
		if e.Event == event && e.Name == name {
			return true
		}
	}
	return false
}

// TestEnrollProtectRevoke is the life of a host's certificate: a token, one use of it, a disk that is protected, and the end
// of the session within seconds of the revocation.
func TestEnrollProtectRevoke(t *testing.T) {
	for _, carrier := range []string{"tcp", "quic"} {
		t.Run(carrier, func(t *testing.T) {
			s := newSite(t, carrier)
			dev := s.loopDisk("disk", 16*mib)
			write(t, dev, 0, mib)
			r := s.startReceiver("--ca", s.path("ca"))
			token := s.token("web1")
			if stderr, code := s.enroll(token, "web1", "host"); code != 0 {
				t.Fatalf("enroll: exit %d: %s", code, stderr)
			}
			if info, err := os.Stat(filepath.Join(s.path("host"), "host.key")); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the key: %v, %v", info, err)
			}
			if !s.ledgerHas("host", "enrolled", "web1") || !s.ledgerHas("ca", "enrolled", "web1") || !strings.Contains(r.logged(), `msg="host enrolled" host=web1`) {
				t.Error("the enrolment does not stand in both ledgers and the log")
			}
			r.kill()
			r = s.startReceiver("--ca", s.path("ca"))
			if stderr, code := s.enroll(token, "web1", "again"); code != 5 || !strings.Contains(stderr, "used already") {
				t.Errorf("the token again, after a restart: exit %d: %s", code, stderr)
			}
			if _, err := os.Stat(filepath.Join(s.path("again"), "host.crt")); err == nil {
				t.Error("a certificate was given for a token that was used")
			}

			s.pki = "host"
			a := s.startAgent(dev)
			s.sameAs(dev)
			began := time.Now()
			s.ours("pki", "revoke", "--name", "web1", "--receiver", s.addr, "--pki", s.admin(), "--carrier", carrier)
			eventually(t, "the session is ended", func() bool { return strings.Contains(r.logged(), `msg="session ended" host=web1`) })
			took := time.Since(began)
			t.Logf("the session was ended %v after the revocation was asked for", took)
			if took > 10*time.Second {
				t.Errorf("a revoked host went on for %v", took)
			}
			<-a.done
			if !strings.Contains(a.logged(), "was revoked") {
				t.Error("the agent does not say why it ended")
			}
			points := s.points(dev)
			if stderr, code := s.enroll(s.token("web1"), "web1", "host", "--force"); code != 0 {
				t.Fatalf("enroll anew: exit %d: %s", code, stderr)
			}
			s.startAgent(dev)
			s.sameAs(dev)
			if len(points) == 0 || len(s.points(dev)) < len(points) {
				t.Errorf("points before and after: %d, %d", len(points), len(s.points(dev)))
			}
		})
	}
}

// TestEnrollSaysWhatIsWrong: in one line, with the way out, and with its exit code; and it leaves the folder as it was.
func TestEnrollSaysWhatIsWrong(t *testing.T) {
	s := newSite(t, "tcp")
	s.startReceiver("--ca", s.path("ca"))
	s.ours("pki", "init", "--dir", s.path("other-ca"), "--site", "other")
	s.ours("pki", "issue", "--dir", s.path("ca"), "--name", "vic", "--role", "viewer", "--out", s.path("vic"))
	offline := func(dir string, more ...string) string {
		args := append([]string{"enroll-token", "--host", "web1", "--dir", s.path(dir)}, more...)
		return strings.TrimSpace(s.ours(args...))
	}
	brief := offline("ca", "--ttl", "1ms", "--receiver", s.addr)
	good := s.token("web1")
	for name, row := range map[string]struct {
		token, host string
		more        []string
		code        int
		says        string
	}{
		"no token":            {"", "web1", nil, 2, "understudy enroll-token"},
		"half a token":        {good[:len(good)-9], "web1", nil, 2, "copy all of what"},
		"no receiver":         {offline("ca"), "web1", nil, 2, "--receiver HOST:PORT"},
		"nobody there":        {good, "web1", []string{"--receiver", freeAddr(t)}, 6, "nobody listens there"},
		"of another CA":       {offline("other-ca"), "web1", []string{"--receiver", s.addr}, 5, "not of the CA that the token names"},
		"another host's":      {good, "web2", nil, 5, "enroll with --host web1"},
		"past its time":       {brief, "web1", nil, 5, "understudy enroll-token --host web1"},
		"no place to store":   {good, "web1", []string{"--pki", "/proc/nowhere"}, 1, "make folder"},
		"already enrolled":    {good, "web1", []string{"--pki", s.path("source")}, 2, "--force"},
		"the wrong CA's host": {offline("other-ca", "--receiver", s.addr), "web1", []string{"--carrier", "quic"}, 5, "--ca"},
	} {
		stderr, code := s.enroll(row.token, row.host, "fresh", row.more...)
		if code != row.code || !strings.Contains(stderr, row.says) || strings.Count(strings.TrimSpace(stderr), "\n") != 0 {
			t.Errorf("%s: exit %d: %s", name, code, stderr)
		}
	}
	if stderr, code := s.enroll(good, "web1", "fresh"); code != 0 {
		t.Errorf("the token was spent by what failed: exit %d: %s", code, stderr)
	}
	for name, args := range map[string][]string{
		"a viewer makes a token": {"enroll-token", "--host", "web3", "--pki", s.path("vic")},
		"an operator revokes":    {"pki", "revoke", "--name", "web1", "--pki", s.path("operator")},
		"a host makes a token":   {"enroll-token", "--host", "web3", "--pki", s.path("fresh")},
	} {
		if _, stderr, code := run(t, "understudy", append(args, "--receiver", s.addr)...); code != 5 {
			t.Errorf("%s: exit %d: %s", name, code, stderr)
		}
	}
	if _, stderr, code := run(t, "understudy", "status", "--receiver", s.addr, "--pki", s.path("vic")); code != 0 {
		t.Errorf("a viewer looks: exit %d: %s", code, stderr)
	}
}

// TestRenewalWithoutAPause lives through the life of a certificate, of the host and of the receiver: points go on on the same
// session, past the end of the certificate that it was made with; the next session uses the new one.
func TestRenewalWithoutAPause(t *testing.T) {
	const life = 12 * time.Second
	s := newSite(t, "tcp")
	dev := s.loopDisk("disk", 16*mib)
	write(t, dev, 0, mib)
	s.ours("pki", "issue", "--replace", "--dir", s.path("ca"), "--name", "vault", "--role", "target", "--ttl", life.String(), "--out", s.path("target"))
	args := []string{"--ca", s.path("ca"), "--certificate-ttl", life.String()}
	r := s.startReceiver(args...)
	if stderr, code := s.enroll(s.token("web1"), "web1", "host"); code != 0 {
		t.Fatalf("enroll: exit %d: %s", code, stderr)
	}
	enrolled := time.Now()
	before := s.serial("host")
	s.pki = "host"
	a := s.startAgent(dev)
	s.sameAs(dev)
	for _, row := range []struct {
		who string
		p   *process
	}{{"the host", a}, {"the receiver", r}} {
		eventually(t, row.who+" has its certificate renewed", func() bool { return strings.Contains(row.p.logged(), `msg="certificate renewed"`) })
	}
	for time.Since(enrolled) < life+time.Second { // past the end of the first certificates
		s.nextPoint(dev)
	}
	write(t, dev, 4*mib, mib)
	s.sameAs(dev)
	if n := strings.Count(a.logged(), "msg=linked"); n != 1 {
		t.Errorf("the agent linked %d times: renewal broke the session", n)
	}
	after := s.serial("host")
	if after == before || !s.ledgerHas("host", "renewed", "web1") || !s.ledgerHas("ca", "renewed", "web1") {
		t.Errorf("serial %s, then %s; or no line in both ledgers", before, after)
	}
	r.kill()
	r = s.startReceiver(args...)
	s.sameAs(dev)
	if !strings.Contains(r.logged(), "serial="+s.serial("host")) && !strings.Contains(r.logged(), "serial="+after) {
		t.Error("the next session was made with another certificate")
	}
}

// serial is the serial number in a host's folder.
func (s *site) serial(folder string) string {
	s.t.Helper()
	entries, _, err := pki.ReadLedger(s.path(folder))
	if err != nil || len(entries) == 0 {
		s.t.Fatalf("ledger of %s: %v", folder, err)
	}
	return entries[len(entries)-1].Serial
}

// TestDumpOfIdentities: each file that identities are made of is shown, and keys are not.
func TestDumpOfIdentities(t *testing.T) {
	s := newSite(t, "tcp")
	s.startReceiver("--ca", s.path("ca"))
	if stderr, code := s.enroll(s.token("web1"), "web1", "host"); code != 0 {
		t.Fatalf("enroll: exit %d: %s", code, stderr)
	}
	s.ours("pki", "revoke", "--name", "web1", "--dir", s.path("ca"))
	for pattern, says := range map[string]string{
		"host/host.crt":     `"is":"certificate","name":"web1","roles":["source"],"serial":"` + s.serial("host") + `"`,
		"host/ca.crt":       `"is":"CA","name":"test understudy CA"`,
		"host/ledger.jsonl": `"event":"enrolled"`,
		"ca/ledger.jsonl":   `"event":"revoked"`,
		"ca/ca.crl":         `"is":"revoked","by":"test understudy CA","number":"1"`,
		"ca/tokens/*.json":  "token, version 1",
		"host/host.key":     "PRIVATE KEY, not shown",
	} {
		files, err := filepath.Glob(s.path(pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("no %s: %v", pattern, err)
		}
		if out := s.ours("dump", files[0]); !strings.Contains(out, says) {
			t.Errorf("dump of %s says %.300q, want %q", pattern, out, says)
		}
		for line := range strings.Lines(s.ours("dump", "--json", files[0])) {
			if !json.Valid([]byte(line)) {
				t.Errorf("dump --json of %s prints %q", pattern, line)
			}
		}
	}
}

// TestReplaceALostCA goes the way of docs/OPERATING.md: the key of the CA is gone. Both CAs are trusted side by side while
// hosts enroll anew, and points come all the while; then the old one is dropped, and counts for nothing.
func TestReplaceALostCA(t *testing.T) {
	s := newSite(t, "tcp")
	dev := s.loopDisk("disk", 16*mib)
	write(t, dev, 0, mib)
	r := s.startReceiver()
	a := s.startAgent(dev)
	s.sameAs(dev)
	if err := os.Remove(filepath.Join(s.path("ca"), "ca.key")); err != nil {
		t.Fatal(err)
	}

	// 1. a new CA; the receiver trusts it as well, and runs with it
	s.ours("pki", "init", "--dir", s.path("ca2"), "--site", "test")
	if _, stderr, code := run(t, "understudy-receiver", "run", "--dir", s.rdir+"-x", "--listen", freeAddr(t), "--pki", s.path("target"), "--ca", s.path("ca2")); code != 5 || !strings.Contains(stderr, "pki trust") {
		t.Errorf("a receiver that does not trust the CA that it signs by: exit %d: %s", code, stderr)
	}
	s.ours("pki", "trust", "--pki", s.path("target"), "--add", s.path("ca2/ca.crt"))
	r.stop()
	s.startReceiver("--ca", s.path("ca2"))
	s.sameAs(dev) // the agent has noticed nothing

	// 2. each host enrolls anew, while its agent runs; its next session uses the new certificate
	token := strings.TrimSpace(s.ours("enroll-token", "--host", "web1", "--dir", s.path("ca2"), "--receiver", s.addr))
	if stderr, code := s.enroll(token, "web1", "source", "--force"); code != 0 {
		t.Fatalf("enroll anew: exit %d: %s", code, stderr)
	}
	eventually(t, "the agent takes the new certificate up", func() bool { return strings.Contains(a.logged(), "credentials reloaded") })
	s.ours("pki", "issue", "--dir", s.path("ca2"), "--name", "bob", "--role", "operator", "--out", s.path("bob"))
	s.ours("pki", "trust", "--pki", s.path("bob"), "--add", s.path("ca/ca.crt")) // until the receiver has its own

	// 3. the receiver's own certificate, without a restart
	s.ours("pki", "issue", "--replace", "--dir", s.path("ca2"), "--name", "vault", "--role", "target", "--out", s.path("target"))
	bob := []string{"status", "--receiver", s.addr, "--pki", s.path("bob")}
	old := []string{"status", "--receiver", s.addr, "--pki", s.path("operator")}

	// 4. the old CA is dropped everywhere: sessions under it end, and it opens nothing any more
	for _, folder := range []string{"target", "source", "bob"} {
		s.ours("pki", "trust", "--pki", s.path(folder), "--drop", s.path("ca/ca.crt"))
	}
	eventually(t, "the old CA opens nothing", func() bool { _, _, code := run(t, "understudy", old...); return code == 5 })
	if stdout, stderr, code := run(t, "understudy", bob...); code != 0 || !strings.Contains(stdout, "web1") {
		t.Errorf("the new CA's operator: exit %d: %s%s", code, stdout, stderr)
	}
	must(t, "rm", "-rf", s.path("operator"))
	must(t, "cp", "-r", s.path("bob"), s.path("operator"))
	write(t, dev, 4*mib, mib)
	s.sameAs(dev)
	select {
	case <-a.done:
		t.Error("the agent ended")
	default:
	}
}
