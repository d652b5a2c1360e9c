package link

import (
	"errors"
	"time"

	"github.com/understudy-dr/understudy/internal/metrics"
	"github.com/understudy-dr/understudy/internal/wire"
)

// Register shows this end's certificate in r.
func (k *Keeper) Register(r *metrics.Registry) error {
	return r.Register(metrics.Group[*Keeper]{
		Items: func() []metrics.Item[*Keeper] { return metrics.One(k) },
		Rows: []metrics.Row[*Keeper]{
			metrics.Gauge("understudy_certificate_expiry_timestamp_seconds", "When this end's own certificate expires, seconds since 1970.",
				func(k *Keeper, out *metrics.Samples) { out.PutTime(k.Current().Certificate().NotAfter) }),
			metrics.Gauge("understudy_certificate_due_timestamp_seconds", "When it is due to be renewed: two thirds of its life.",
				func(k *Keeper, out *metrics.Samples) { out.PutTime(k.Current().Due()) }),
			metrics.Gauge("understudy_ca_expiry_timestamp_seconds", "When the first of the CAs expires that this end trusts, seconds since 1970.",
				func(k *Keeper, out *metrics.Samples) { out.PutTime(firstExpiry(k.Current())) }),
			metrics.Counter("understudy_certificate_renewals_total", "How often this end's own certificate was replaced while the daemon ran.",
				metrics.Value(func(k *Keeper) int64 { return k.renewed.Load() })),
		},
	})
}

func firstExpiry(c *Credentials) (first time.Time) {
	for _, ca := range c.CAs() {
		if first.IsZero() || ca.NotAfter.Before(first) {
			first = ca.NotAfter
		}
	}
	return first
}

// Register shows in r what a listener takes in and turns away.
func (l *Listener) Register(r *metrics.Registry) error {
	return r.Register(metrics.Group[*Listener]{
		Items: func() []metrics.Item[*Listener] { return metrics.One(l) },
		Rows: []metrics.Row[*Listener]{
			metrics.Counter("understudy_receiver_turned_away_total", "Peers that got no session, by carrier and reason: rate (too many handshakes from one address), half-open (too many connections that don't come to their hello), certificate, clock, token, refused (for another reason that was told them), handshake (it failed, or was none of ours).",
				func(l *Listener, out *metrics.Samples) {
					for k, n := range l.away.Counts() {
						out.Put(float64(n), k[0], k[1])
					}
				}, "carrier", "reason"),
			metrics.Gauge("understudy_receiver_half_open", "Connections that are not greeted yet, by carrier.",
				func(l *Listener, out *metrics.Samples) {
					for carrier, g := range l.gates {
						out.Put(float64(g.halfOpen()), string(carrier))
					}
				}, "carrier"),
			metrics.Counter("understudy_receiver_link_received_bytes_total", "Bytes received over all sessions, with TLS, without headers of TCP, UDP and IP.",
				metrics.Value(func(l *Listener) uint64 { return l.stats().In })),
			metrics.Counter("understudy_receiver_link_sent_bytes_total", "Bytes sent over all sessions, counted in the same way.",
				metrics.Value(func(l *Listener) uint64 { return l.stats().Out })),
		},
	})
}

// stats are the bytes of all sessions, those that have ended too.
func (l *Listener) stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.moved
	for c := range l.conns {
		in, out := c.traffic()
		s.In, s.Out = s.In+in, s.Out+out
	}
	return s
}

// halfOpen is how many connections hold a place now.
func (g *gate) halfOpen() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

// Why a peer is turned away, in a word.
const (
	awayRate        = "rate"
	awayHalfOpen    = "half-open"
	awayCertificate = "certificate"
	awayClock       = "clock"
	awayToken       = "token"
	awayRefused     = "refused"
	awayHandshake   = "handshake"
)

func (l *Listener) beginCounts() {
	for carrier := range l.gates {
		for _, why := range []string{awayRate, awayHalfOpen, awayCertificate, awayClock, awayToken, awayRefused, awayHandshake} {
			l.away.Begin([2]string{string(carrier), why})
		}
	}
}

func awayReason(err error) string {
	switch {
	case errors.Is(err, errTooFast):
		return awayRate
	case errors.Is(err, errTooMany):
		return awayHalfOpen
	case errors.Is(err, wire.ErrCertificate):
		return awayCertificate
	case errors.Is(err, wire.ErrClock):
		return awayClock
	case errors.Is(err, wire.ErrToken):
		return awayToken
	case errors.As(err, new(*wire.Error)):
		return awayRefused
	}
	return awayHandshake
}
