package link

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/understudy-dr/understudy/internal/wire"
)

// Carrier is what a link runs on.
type Carrier string

// The carriers.
const (
	QUIC Carrier = "quic" // over UDP; survives a change of address
	TCP  Carrier = "tcp"  // TLS over TCP; about a quarter of QUIC's CPU per byte
)

// Set reads a carrier from a flag or a config file.
func (c *Carrier) Set(s string) error {
	switch Carrier(s) {
	case QUIC, TCP:
		*c = Carrier(s)
		return nil
	}
	return fmt.Errorf("%q is no carrier: quic or tcp", s)
}

func (c *Carrier) String() string { return string(*c) }

// Type names the value in help texts.
func (c *Carrier) Type() string { return "quic|tcp" }

// UnmarshalText makes the carrier a string in TOML.
func (c *Carrier) UnmarshalText(text []byte) error { return c.Set(string(text)) }

// alpn is the protocol's name in TLS (RFC 7301). Versions are agreed on in the hello, where both ends can say more.
const alpn = "understudy"

// alpnEnroll is what a host without a certificate comes for: see enroll.go. One port serves both.
const alpnEnroll = "understudy-enroll"

// conn is one connection of a carrier, encrypted, of a peer that is not known yet. First greeting is used, then start,
// then open and accept. All methods but greeting and start are safe for concurrent use.
type conn interface {
	// certificates are what the peer has proven to hold the key of; the first is its own.
	certificates() []*x509.Certificate
	remote() net.Addr
	// protocol is what the dialer came for: alpn or alpnEnroll.
	protocol() string
	// greeting is where Hello and Welcome travel, and nothing else. It is not closed by its user.
	greeting(ctx context.Context) (greeter, error)
	// start is called once the peer is known; streams may be opened from then on. What the peer sends and nobody reads counts
	// against its budget, on a carrier that has no bound for that itself.
	start(ctx context.Context, b *budget) error
	open(ctx context.Context) (rawStream, error)
	accept(ctx context.Context) (rawStream, error)
	// close tells the peer why, nil for no reason, waits for up to farewell until it knows, and frees everything. Calls
	// that are blocked on the connection or its streams return. It may be called more than once; the first counts.
	close(reason *wire.Error)
	// done is closed when the connection has ended, for whatever reason.
	done() <-chan struct{}
	// cause is why it has ended, a *wire.Error if the peer told; nil before done, and when it was closed here.
	cause() error
	// traffic counts the bytes received and sent.
	traffic() (in, out uint64)
}

// greeter is the first stream of a connection.
type greeter interface {
	io.ReadWriter
	SetDeadline(t time.Time) error
}

// rawStream is a stream of a carrier. Reading and writing may go on at the same time, each from one goroutine; the others
// may be called at any time.
type rawStream interface {
	io.ReadWriter
	SetDeadline(t time.Time) error
	// finish ends both directions: what was written arrives, what the peer still sends is dropped. writing tells that a
	// Write may be under way; then what was written need not arrive.
	finish(writing bool)
}
