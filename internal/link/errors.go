package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/understudy-dr/understudy/internal/wire"
)

// ErrClosed: the session or stream was closed at this end.
var ErrClosed = errors.New("link is closed here")

// ErrPeerGone: the peer ended the connection and gave no reason, as when its process ends.
var ErrPeerGone = errors.New("the peer closed the connection")

// brokenError is a failure of the stream or session itself, not of what was said on it.
type brokenError struct {
	op  string
	err error
}

func (e *brokenError) Error() string { return fmt.Sprintf("%s: %v", e.op, e.err) }
func (e *brokenError) Unwrap() error { return e.err }

// Broken tells whether err is a failure of the link itself: the connection ended, a deadline passed, the stream was
// closed. There is nobody to tell about it then, and the remedy is another session. A clean end of a stream is one too,
// and satisfies errors.Is(err, io.EOF).
func Broken(err error) bool { return errors.As(err, new(*brokenError)) }

// Permanent tells whether dialling again is of no use until somebody changes something: a certificate that is refused at
// either end, a role that is not allowed, no common version. Clocks that disagree, an address where nobody answers and
// everything else may heal by itself.
func Permanent(err error) bool {
	return errors.Is(err, wire.ErrCertificate) || errors.Is(err, wire.ErrForbidden) || errors.Is(err, wire.ErrVersion)
}

// dialError makes one line of what went wrong on the way to addr.
func dialError(carrier Carrier, addr string, err error) error {
	where := fmt.Sprintf("link to %s over %s", addr, carrier)
	var dns *net.DNSError
	switch {
	case errors.As(err, new(*wire.Error)) || errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", where, err)
	case errors.As(err, &dns):
		return fmt.Errorf("%s: no such host as %q: check the receiver's address: %w", where, dns.Name, err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s: nobody listens there: is the receiver running, and is this its port? %w", where, err)
	case timedOut(err):
		return fmt.Errorf("%s: no answer: is the receiver running, and does every firewall let the port through? %w", where, err)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%s: %w before it had greeted", where, ErrPeerGone)
	}
	return fmt.Errorf("%s: %w", where, err)
}

// timedOut tells whether err is a deadline that passed or a peer that stayed silent.
func timedOut(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) ||
		errors.As(err, &timeout) && timeout.Timeout()
}
