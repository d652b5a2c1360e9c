package link

import (
	"crypto/tls"

	"github.com/understudy-dr/understudy/internal/link/pki"
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

// BufferSize is what the stream has set aside for receiving units.
func (st *Stream) BufferSize() int { return len(st.in.buf) }

const (
	MaxStreams = maxStreams
	LogLines   = logLines
)
