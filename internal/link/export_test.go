package link

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/internal/wire"
)

// LoadUnchecked is LoadCredentials of an end that does not see that its own certificate is no good: with a wrong clock, say.
func LoadUnchecked(dir string) (*Credentials, error) {
	c, err := readCredentials(dir)
	if err != nil {
		return nil, err
	}
	c.Name, c.Roles = c.cert.Leaf.DNSNames[0], pki.RolesOf(c.cert.Leaf)
	return c, nil
}

// TLSConfig is what an end without any rules would use: it shows the certificate, and trusts everybody.
func (c *Credentials) TLSConfig() *tls.Config { return c.tlsConfig() }

// WithoutCertificate is an end that shows none.
func (c *Credentials) WithoutCertificate() *tls.Config {
	cfg := c.tlsConfig()
	cfg.Certificates = nil
	return cfg
}

// WriteRaw sends bytes that no sender of ours would.
func (st *Stream) WriteRaw(b []byte) error {
	_, err := st.raw.Write(b)
	return err
}

// held is what is used now.
func (b *budget) held() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// BufferSize is what the stream has set aside for receiving units.
func (st *Stream) BufferSize() int { return len(st.in.buf) }

// WithMemory gives each peer n bytes.
func (c Config) WithMemory(n int) Config { c.memory = n; return c }

// Held is what a peer has sent and nobody has read, on the TCP carrier.
func (l *Listener) Held(peer string) int {
	l.peers.mu.Lock()
	defer l.peers.mu.Unlock()
	if a := l.peers.byID[peer]; a != nil {
		return a.memory.held()
	}
	return 0
}

// HalfOpen is how many connections from an IP address are on their way to a session.
func (l *Listener) HalfOpen(carrier Carrier, ip string) int {
	g := l.gates[carrier]
	g.mu.Lock()
	defer g.mu.Unlock()
	if k := g.sources[prefixOf(&net.TCPAddr{IP: net.ParseIP(ip), Port: 1})]; k != nil {
		return len(k.open)
	}
	return 0
}

const (
	MaxStreams         = maxStreams
	MaxSessions        = maxSessions
	MaxHalfOpenPerAddr = maxHalfOpenPerAddr
	LogLines           = logLines
	StandEvery         = standEvery
)

// ALPNEnroll is what hosts come for that have a token.
const ALPNEnroll = alpnEnroll

// VerifySelfMade verifies a certificate that its CA would not make by our code.
func VerifySelfMade(t *testing.T, names []string, roles []wire.Role) error {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	make := func(template *x509.Certificate) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, template, &x509.Certificate{}, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	ca := make(template)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: template.NotBefore, NotAfter: template.NotAfter, DNSNames: names}
	for _, role := range roles {
		leaf.URIs = append(leaf.URIs, &url.URL{Scheme: "understudy", Opaque: "role:" + role.String()})
	}
	_, err = trust{cas: []*x509.Certificate{ca}}.verify([]*x509.Certificate{make(leaf)}, now)
	return err
}
