package link_test

import (
	"context"
	"crypto/tls"
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/internal/wire"
)

// authority opens the site's CA.
func (s *site) authority(t *testing.T) *pki.Authority {
	t.Helper()
	a, err := pki.OpenAuthority(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// door is an Enroller over a CA. A test may spoil what it shows and what it grants.
type door struct {
	a     *pki.Authority
	show  func(tls.Certificate) tls.Certificate
	spoil func(*wire.Granted)
	asked atomic.Int32
}

func (d *door) Greeter() (tls.Certificate, error) {
	c, err := d.a.Greeter("dr1")
	if d.show != nil {
		c = d.show(c)
	}
	return c, err
}

func (d *door) Enroll(m *wire.Enroll, addr string) (*wire.Granted, error) {
	d.asked.Add(1)
	cert, err := d.a.Enroll(m, time.Hour, addr)
	if err != nil {
		return nil, err
	}
	g := &wire.Granted{Certificate: cert.Raw, CAs: [][]byte{d.a.Certificate().Raw}}
	if d.spoil != nil {
		d.spoil(g)
	}
	return g, nil
}

// knocking is a host with a token.
type knocking struct {
	token pki.Token
	host  string
}

func (k knocking) enroll(t *testing.T, carrier link.Carrier, l *link.Listener) (*link.Enrolled, func(dir string) error, error) {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	request, err := pki.Request(key)
	if err != nil {
		t.Fatal(err)
	}
	got, err := link.Enroll(t.Context(), carrier, l.Addr(carrier).String(), k.token, &wire.Enroll{Host: k.host, Request: request})
	return got, func(dir string) error { return pki.Store(dir, key, got.Certificate, got.CAs) }, err
}

func (s *site) token(t *testing.T, host string) pki.Token {
	t.Helper()
	token, _, err := s.authority(t).Invite(host, time.Hour, "ann", "")
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// TestAHostEnrollsAndLinks: with what it got it makes a session, on the same port.
func TestAHostEnrollsAndLinks(t *testing.T) {
	eachCarrier(t, func(t *testing.T, carrier link.Carrier) {
		home := newSite(t)
		l := listen(t, link.Config{Credentials: home.host(t, "dr1", wire.RoleTarget), Enroll: &door{a: home.authority(t)}})
		_, store, err := knocking{home.token(t, "web1"), "web1"}.enroll(t, carrier, l)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "pki")
		if err := store(dir); err != nil {
			t.Fatal(err)
		}
		c, err := link.LoadCredentials(dir)
		if err != nil || c.Name != "web1" {
			t.Fatalf("%+v, %v", c, err)
		}
		s, err := link.Dial(t.Context(), carrier, l.Addr(carrier).String(), link.Config{Credentials: c})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(nil)
		if target, err := l.Accept(t.Context()); err != nil || target.Peer().Host != "web1" || target.Peer().Serial != pki.Serial(c.Certificate()) {
			t.Errorf("%v", err)
		}
	})
}

// TestTheSecretGoesToNobodyElse: a listener that is not of the token's CA is told nothing, whatever it sends along.
func TestTheSecretGoesToNobodyElse(t *testing.T) {
	home, other := newSite(t), newSite(t)
	token := home.token(t, "web1")
	pinned := home.authority(t).Certificate().Raw
	operator := home.host(t, "ann", wire.RoleOperator)
	for name, show := range map[string]func(tls.Certificate) tls.Certificate{
		"of another CA": nil,
		"sends the certificate of the CA along": func(c tls.Certificate) tls.Certificate {
			c.Certificate = append(c.Certificate, pinned)
			return c
		},
		"sends nothing but its own": func(c tls.Certificate) tls.Certificate { c.Certificate = c.Certificate[:1]; return c },
		"no target": func(tls.Certificate) tls.Certificate {
			c := operator.TLSConfig().Certificates[0]
			c.Certificate = [][]byte{c.Certificate[0], pinned}
			return c
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachCarrier(t, func(t *testing.T, carrier link.Carrier) {
				d := &door{a: other.authority(t), show: show}
				l := listen(t, link.Config{Credentials: other.host(t, "dr-"+strings.ReplaceAll(t.Name(), "/", "-"), wire.RoleTarget), Enroll: d})
				_, _, err := knocking{token, "web1"}.enroll(t, carrier, l)
				if !errors.Is(err, wire.ErrCertificate) && !errors.Is(err, wire.ErrForbidden) || strings.Contains(err.Error(), "\n") {
					t.Errorf("%v", err)
				}
				time.Sleep(20 * time.Millisecond) // for what must not come: no event tells of it
				if d.asked.Load() != 0 {
					t.Error("it was told the secret")
				}
			})
		})
	}
}

func TestAListenerThatTakesNoEnrolments(t *testing.T) {
	eachCarrier(t, func(t *testing.T, carrier link.Carrier) {
		home := newSite(t)
		l := listen(t, link.Config{Credentials: home.host(t, "dr1", wire.RoleTarget)})
		_, _, err := knocking{home.token(t, "web1"), "web1"}.enroll(t, carrier, l)
		if !errors.Is(err, wire.ErrCertificate) || !strings.Contains(err.Error(), "--ca") {
			t.Errorf("%v", err)
		}
	})
}

// TestAHostTakesNothingElse: what was not asked for, or is no good, is not stored.
func TestAHostTakesNothingElse(t *testing.T) {
	home, other := newSite(t), newSite(t)
	another := home.host(t, "web9", wire.RoleSource).Certificate().Raw
	sameName := home.host(t, "web1", wire.RoleSource).Certificate().Raw
	for name, spoil := range map[string]func(*wire.Granted){
		"of another host":    func(g *wire.Granted) { g.Certificate = another },
		"of another key":     func(g *wire.Granted) { g.Certificate = sameName },
		"rubbish":            func(g *wire.Granted) { g.Certificate = []byte{1, 2, 3} },
		"without the CA":     func(g *wire.Granted) { g.CAs = nil },
		"with another CA":    func(g *wire.Granted) { g.CAs = [][]byte{other.authority(t).Certificate().Raw} },
		"with rubbish for a": func(g *wire.Granted) { g.CAs = append(g.CAs, []byte{1}) },
	} {
		l := listen(t, link.Config{Credentials: home.host(t, "dr-"+strings.ReplaceAll(name, " ", "-"), wire.RoleTarget), Enroll: &door{a: home.authority(t), spoil: spoil}})
		if got, _, err := (knocking{home.token(t, "web1"), "web1"}).enroll(t, link.TCP, l); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestEnrolmentIsNoWayIn: whoever comes to enroll gets no session, and whoever has no certificate gets none either.
func TestEnrolmentIsNoWayIn(t *testing.T) {
	eachCarrier(t, func(t *testing.T, carrier link.Carrier) {
		home := newSite(t)
		d := &door{a: home.authority(t)}
		var log logs
		l := listen(t, link.Config{Credentials: home.host(t, "dr1", wire.RoleTarget), Enroll: d, Log: log.logger(), Handshake: 2 * time.Second})
		cfg := home.host(t, "web1", wire.RoleSource).WithoutCertificate()
		cfg.NextProtos = []string{link.ALPNEnroll}
		hello, _ := wire.Append(nil, &wire.Hello{MinVersion: 1, MaxVersion: 1, Role: wire.RoleSource, Host: "web1"})
		answer, err := knock(t, carrier, l.Addr(carrier).String(), cfg, hello)
		if m, _, parsed := wire.Parse(answer); parsed == nil && m.Type() != wire.TypeError {
			t.Errorf("it was answered with %v, %v", m.Type(), err)
		}
		log.waitFor(t, "an enrolment can't begin with hello")
		if d.asked.Load() != 0 {
			t.Error("the CA was asked")
		}
		noSession(t, l)
	})
}

// keeper is a Keeper of a host's folder that looks into it until the test ends.
func keeper(t *testing.T, dir string, log *logs) *link.Keeper {
	t.Helper()
	k, err := link.NewKeeper(dir, log.logger())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); k.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return k
}

// TestRevocationEndsSessions at either end, without a restart and within seconds: of the one that is revoked, and of no other.
func TestRevocationEndsSessions(t *testing.T) {
	for _, revoked := range []string{"web1", "dr1"} {
		t.Run(revoked, func(t *testing.T) {
			eachCarrier(t, func(t *testing.T, carrier link.Carrier) {
				home := newSite(t)
				home.host(t, "dr1", wire.RoleTarget)
				home.host(t, "web1", wire.RoleSource)
				var log, targetLog logs
				target := keeper(t, filepath.Join(home.dir, "dr1"), &targetLog)
				source := keeper(t, filepath.Join(home.dir, "web1"), &log)
				l := listen(t, link.Config{Current: target.Current, Log: targetLog.logger()})
				dial := func(cfg link.Config) (*link.Session, *link.Session) {
					a, err := link.Dial(t.Context(), carrier, l.Addr(carrier).String(), cfg)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { a.Close(nil) })
					b, err := l.Accept(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					return a, b
				}
				s, _ := dial(link.Config{Current: source.Current, Log: log.logger()})
				other, otherHere := dial(link.Config{Credentials: home.host(t, "web2", wire.RoleSource)})

				if _, err := home.authority(t).Revoke(&wire.Revoke{Name: revoked}, "ann", ""); err != nil {
					t.Fatal(err)
				}
				knows := map[string]string{"web1": "dr1", "dr1": "web1"}[revoked] // the other end is the one to end it
				copyFile(t, filepath.Join(home.dir, pki.CRLFile), filepath.Join(home.dir, knows, pki.CRLFile))
				begun := time.Now()
				<-s.Done()
				t.Logf("ended after %v", time.Since(begun))
				if err := s.Err(); revoked == "web1" && (!errors.Is(err, wire.ErrCertificate) || !link.Permanent(err) || !strings.Contains(err.Error(), "web1")) {
					t.Errorf("the revoked end is told %v", err)
				}
				_, err := link.Dial(t.Context(), carrier, l.Addr(carrier).String(), link.Config{Current: source.Current})
				if !errors.Is(err, wire.ErrCertificate) || !strings.Contains(err.Error(), "was revoked") {
					t.Errorf("another session: %v", err)
				}
				if revoked == "web1" && (other.Err() != nil || otherHere.Err() != nil) {
					t.Errorf("another host's session: %v, %v", other.Err(), otherHere.Err())
				}
			})
		})
	}
}

// TestRevocationDuringTheGreeting: a peer that has shown its certificate and takes its time with the hello is revoked in
// between, and gets no session.
func TestRevocationDuringTheGreeting(t *testing.T) {
	home := newSite(t)
	home.host(t, "dr1", wire.RoleTarget)
	source := home.host(t, "web1", wire.RoleSource)
	var log logs
	k, err := link.NewKeeper(filepath.Join(home.dir, "dr1"), log.logger())
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t, link.Config{Current: k.Current, Log: log.logger()})
	c, err := tls.Dial("tcp", l.Addr(link.TCP).String(), source.TLSConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	time.Sleep(100 * time.Millisecond) // the listener looks at the certificate and waits for the hello
	if _, err := home.authority(t).Revoke(&wire.Revoke{Name: "web1"}, "ann", ""); err != nil {
		t.Fatal(err)
	}
	copyFile(t, filepath.Join(home.dir, pki.CRLFile), filepath.Join(home.dir, "dr1", pki.CRLFile))
	k.Reload()
	time.Sleep(2 * link.StandEvery) // those under way have been looked at
	hello, err := wire.Append(nil, &wire.Hello{MinVersion: 1, MaxVersion: 1, Role: wire.RoleSource, Host: "web1", Time: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(hello); err != nil {
		t.Fatal(err)
	}
	log.waitFor(t, "was revoked")
	noSession(t, l)
}

// TestRevocationOfThisEndStillLetsItKnowOfOthers: a host whose own certificate was revoked takes the list up all the same.
func TestRevocationOfThisEndStillLetsItKnowOfOthers(t *testing.T) {
	home := newSite(t)
	home.host(t, "dr1", wire.RoleTarget)
	other := home.host(t, "web1", wire.RoleSource)
	var log logs
	k, err := link.NewKeeper(filepath.Join(home.dir, "dr1"), log.logger())
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t, link.Config{Current: k.Current})
	for _, name := range []string{"dr1", "web1"} {
		if _, err := home.authority(t).Revoke(&wire.Revoke{Name: name}, "ann", ""); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(t, filepath.Join(home.dir, pki.CRLFile), filepath.Join(home.dir, "dr1", pki.CRLFile))
	k.Reload()
	log.waitFor(t, "own certificate is no good")
	if _, err := link.Dial(t.Context(), link.TCP, l.Addr(link.TCP).String(), link.Config{Credentials: other}); !errors.Is(err, wire.ErrCertificate) {
		t.Errorf("a revoked source: %v", err)
	}
}

// TestAKeeperTakesNoHalfChanges: files that are no good leave what was, and what is put right counts.
func TestAKeeperTakesNoHalfChanges(t *testing.T) {
	home := newSite(t)
	home.host(t, "web1", wire.RoleSource)
	home.host(t, "spare", wire.RoleSource)
	dir := filepath.Join(home.dir, "web1")
	var log logs
	k, err := link.NewKeeper(dir, log.logger())
	if err != nil {
		t.Fatal(err)
	}
	before := k.Current()
	k.Reload()
	if k.Current() != before {
		t.Error("loaded anew without a change")
	}
	copyFile(t, filepath.Join(home.dir, "spare", pki.HostCertFile), filepath.Join(dir, pki.HostCertFile)) // and not its key
	k.Reload()
	k.Reload()
	if k.Current() != before || strings.Count(log.String(), "can't be read") != 1 {
		t.Errorf("half a change was taken, or said more than once:\n%s", log.String())
	}
	copyFile(t, filepath.Join(home.dir, "spare", pki.HostKeyFile), filepath.Join(dir, pki.HostKeyFile))
	k.Reload()
	if k.Current().Name != "spare" {
		t.Errorf("the whole change was not taken: %s", k.Current().Name)
	}
}

// TestDroppingACAEndsItsSessions: whoever has no certificate of a CA that is trusted loses its session.
func TestDroppingACAEndsItsSessions(t *testing.T) {
	before, after := newSite(t), newSite(t)
	before.host(t, "dr1", wire.RoleTarget)
	dir := filepath.Join(before.dir, "dr1")
	if _, err := pki.Trust(dir, filepath.Join(after.dir, pki.CACertFile)); err != nil {
		t.Fatal(err)
	}
	if err := pki.Reissue(after.dir, "dr1", wire.RoleTarget, time.Hour, dir); err != nil {
		t.Fatal(err)
	}
	var log logs
	l := listen(t, link.Config{Current: keeper(t, dir, &log).Current, Log: log.logger()})
	dial := func(home *site, name string) *link.Session {
		home.host(t, name, wire.RoleSource)
		folder := filepath.Join(home.dir, name)
		for _, ca := range []*site{before, after} {
			if _, err := pki.Trust(folder, filepath.Join(ca.dir, pki.CACertFile)); err != nil {
				t.Fatal(err)
			}
		}
		c, err := link.LoadCredentials(folder)
		if err != nil {
			t.Fatal(err)
		}
		s, err := link.Dial(t.Context(), link.TCP, l.Addr(link.TCP).String(), link.Config{Credentials: c})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close(nil) })
		if _, err := l.Accept(t.Context()); err != nil {
			t.Fatal(err)
		}
		return s
	}
	old, renewed := dial(before, "web1"), dial(after, "web2")
	if _, err := pki.Distrust(dir, filepath.Join(before.dir, pki.CACertFile)); err != nil {
		t.Fatal(err)
	}
	<-old.Done()
	if err := old.Err(); !errors.Is(err, wire.ErrCertificate) {
		t.Errorf("%v", err)
	}
	if renewed.Err() != nil {
		t.Errorf("the session of the new CA: %v", renewed.Err())
	}
}

// TestACertificateNamesOneHostOrOneRole: what says more than that is refused, whoever signed it.
func TestACertificateNamesOneHostOrOneRole(t *testing.T) {
	for name, row := range map[string]struct {
		names []string
		roles []wire.Role
		good  bool
	}{
		"a host":               {[]string{"web1"}, []wire.Role{wire.RoleSource}, true},
		"a host of both roles": {[]string{"web1"}, []wire.Role{wire.RoleSource, wire.RoleTarget}, true},
		"a person":             {[]string{"ann"}, []wire.Role{wire.RoleAdmin}, true},
		"two hosts":            {[]string{"web1", "web2"}, []wire.Role{wire.RoleSource}, false},
		"nobody":               {nil, []wire.Role{wire.RoleSource}, false},
		"no role":              {[]string{"web1"}, nil, false},
		"a host and a person":  {[]string{"web1"}, []wire.Role{wire.RoleSource, wire.RoleViewer}, false},
		"a person twice":       {[]string{"ann"}, []wire.Role{wire.RoleViewer, wire.RoleAdmin}, false},
	} {
		err := link.VerifySelfMade(t, row.names, row.roles)
		if (err == nil) != row.good {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && !errors.Is(err, wire.ErrCertificate) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
