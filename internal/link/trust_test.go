package link_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/internal/wire"
)

// shown issues a certificate for a time of its own and loads it as its owner's wrong clock would let it.
func (s *site) shown(t *testing.T, name string, role wire.Role, from, until time.Duration) *link.Credentials {
	t.Helper()
	out := filepath.Join(s.dir, fmt.Sprintf("%s-%v-%v", name, from, until))
	now := time.Now()
	if err := pki.IssueBetween(s.dir, name, role, now.Add(from), now.Add(until), out); err != nil {
		t.Fatal(err)
	}
	c, err := link.LoadUnchecked(out)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// refusal is one thing that can be wrong with either end.
type refusal struct {
	source, target link.Config
	is             error
	permanent      bool
	dialer, log    string // what the dialer is told, and what the listener logs
}

func refusals(t *testing.T) map[string]refusal {
	home, other := newSite(t), newSite(t)
	goodSource, goodTarget := home.host(t, "web1", wire.RoleSource), home.host(t, "dr1", wire.RoleTarget)
	return map[string]refusal{
		"source of another CA": {
			source: link.Config{Credentials: mixed(t, home, other, "web9", wire.RoleSource)}, target: link.Config{Credentials: goodTarget},
			is: wire.ErrCertificate, permanent: true,
			dialer: "dr1 refused: the certificate of web9 is of another CA", log: "the certificate of web9 is of another CA",
		},
		"target of another CA": {
			source: link.Config{Credentials: goodSource}, target: link.Config{Credentials: mixed(t, home, other, "dr9", wire.RoleTarget)},
			is: wire.ErrCertificate, permanent: true,
			dialer: "the certificate of dr9 is of another CA", log: "it refused this end: the certificate of dr9 is of another CA",
		},
		"source expired": {
			source: link.Config{Credentials: home.shown(t, "web2", wire.RoleSource, -2*time.Hour, -time.Hour)}, target: link.Config{Credentials: goodTarget},
			is: wire.ErrCertificate, permanent: true,
			dialer: "dr1 refused: the certificate of web2 expired at ", log: "the certificate of web2 expired at ",
		},
		"target expired": {
			source: link.Config{Credentials: goodSource}, target: link.Config{Credentials: home.shown(t, "dr2", wire.RoleTarget, -2*time.Hour, -time.Hour)},
			is: wire.ErrCertificate, permanent: true,
			dialer: "the certificate of dr2 expired at ", log: "it refused this end: the certificate of dr2 expired at ",
		},
		"source not yet valid": {
			source: link.Config{Credentials: home.shown(t, "web3", wire.RoleSource, time.Hour, 2*time.Hour)}, target: link.Config{Credentials: goodTarget},
			is: wire.ErrClock, dialer: "one of the clocks is wrong", log: "the certificate of web3 is good from ",
		},
		"target not yet valid": {
			source: link.Config{Credentials: goodSource}, target: link.Config{Credentials: home.shown(t, "dr3", wire.RoleTarget, time.Hour, 2*time.Hour)},
			is: wire.ErrClock, dialer: "one of the clocks is wrong", log: "it refused this end: the certificate of dr3 is good from ",
		},
		"a source at the other end": {
			source: link.Config{Credentials: goodSource}, target: link.Config{Credentials: home.host(t, "web4", wire.RoleSource), Role: wire.RoleSource},
			is: wire.ErrForbidden, permanent: true,
			dialer: "web4 may not be a target: its certificate is for [source]", log: "web4 may not be a target",
		},
		"too old a source": {
			source: link.Config{Credentials: goodSource, MinVersion: 1, MaxVersion: 1, Program: "agent 1.0"},
			target: link.Config{Credentials: goodTarget, MinVersion: 2, MaxVersion: 3},
			is:     wire.ErrVersion, permanent: true,
			dialer: "web1 (agent 1.0) is too old: it speaks up to version 1", log: "web1 (agent 1.0) is too old",
		},
		"too old a target": {
			source: link.Config{Credentials: goodSource, MinVersion: 3, MaxVersion: 4},
			target: link.Config{Credentials: goodTarget, MinVersion: 1, MaxVersion: 2},
			is:     wire.ErrVersion, permanent: true,
			dialer: "it speaks up to version 2 of the protocol, 3 at least is asked", log: "this end is too old",
		},
	}
}

// TestWhoeverIsNotTrustedIsTurnedAway: no session comes out of it at either end, and both are told why.
func TestWhoeverIsNotTrustedIsTurnedAway(t *testing.T) {
	for name, row := range refusals(t) {
		t.Run(name, func(t *testing.T) {
			eachCarrier(t, func(t *testing.T, carrier link.Carrier) {
				var log logs
				row.target.Log = log.logger()
				l := listen(t, row.target)
				s, err := link.Dial(t.Context(), carrier, l.Addr(carrier).String(), row.source)
				if err == nil {
					s.Close(nil)
					t.Fatal("a session was made")
				}
				if !errors.Is(err, row.is) || link.Permanent(err) != row.permanent || strings.Contains(err.Error(), "\n") {
					t.Errorf("%v: is %v: %v, permanent: %v", err, row.is, errors.Is(err, row.is), link.Permanent(err))
				}
				if !strings.Contains(err.Error(), row.dialer) {
					t.Errorf("the dialer says %q, want %q in it", err, row.dialer)
				}
				log.waitFor(t, row.log)
				noSession(t, l)
			})
		})
	}
}

// mixed is a host with a certificate of another CA that trusts this one: its peer is the one to find out.
func mixed(t *testing.T, trusted, of *site, name string, role wire.Role) *link.Credentials {
	t.Helper()
	of.host(t, name, role)
	dir := filepath.Join(of.dir, name)
	copyFile(t, filepath.Join(trusted.dir, pki.CACertFile), filepath.Join(dir, pki.CACertFile))
	c, err := link.LoadUnchecked(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestARoleThatTheCertificateDoesNotGive(t *testing.T) {
	home := newSite(t)
	target, operator := home.host(t, "dr1", wire.RoleTarget), home.host(t, "desk", wire.RoleOperator)
	l := listen(t, link.Config{Credentials: target})
	_, err := link.Dial(t.Context(), link.TCP, l.Addr(link.TCP).String(), link.Config{Credentials: operator, Role: wire.RoleSource})
	if !errors.Is(err, wire.ErrForbidden) || !strings.Contains(err.Error(), "pki issue") {
		t.Errorf("the end itself: %v", err)
	}
	// An end that doesn't hold itself to its certificate is told by the other.
	eachCarrier(t, func(t *testing.T, carrier link.Carrier) {
		var log logs
		l := listen(t, link.Config{Credentials: target, Log: log.logger()})
		lying := *operator
		lying.Roles = []wire.Role{wire.RoleSource}
		_, err := link.Dial(t.Context(), carrier, l.Addr(carrier).String(), link.Config{Credentials: &lying, Role: wire.RoleSource})
		if !errors.Is(err, wire.ErrForbidden) || !strings.Contains(err.Error(), "desk may not be a source") {
			t.Errorf("the listener: %v", err)
		}
		log.waitFor(t, "desk may not be a source")
		noSession(t, l)
	})
}

func TestListenerLogIsLimited(t *testing.T) {
	home, other := newSite(t), newSite(t)
	var log logs
	l := listen(t, link.Config{Credentials: home.host(t, "dr1", wire.RoleTarget), Log: log.logger()})
	cfg := link.Config{Credentials: mixed(t, home, other, "web1", wire.RoleSource)}
	for range link.LogLines + 10 {
		if _, err := link.Dial(t.Context(), link.TCP, l.Addr(link.TCP).String(), cfg); err == nil {
			t.Fatal("a session was made")
		}
	}
	log.waitFor(t, "another CA")
	if n := strings.Count(log.String(), "another CA"); n > link.LogLines {
		t.Errorf("%d lines", n)
	}
}
