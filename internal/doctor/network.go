package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/wire"
)

// Way is the way to a receiver. Its checks go it, over both carriers, with a whole handshake.
type Way struct {
	Addr     string       // HOST:PORT
	Carrier  link.Carrier // the one that is configured: if that fails it is a failure, if the other does a warning
	Identity *Identity    // whose checks have run
	Role     wire.Role    // to come as

	answer atomic.Pointer[answered]
}

// answered is what the receiver said in a handshake.
type answered struct {
	link.Peer
	took time.Duration
}

// Serial is that of the receiver's certificate, "" if it has not answered.
func (w *Way) Serial() string {
	if a := w.answer.Load(); a != nil {
		return a.Serial
	}
	return ""
}

// handshake is how long an answer may take: three times what a bad line needs.
const handshake = 5 * time.Second

// Checks are those of the name, of both carriers, and of the clock.
func (w *Way) Checks() []Check {
	return []Check{
		{"name", w.checkName},
		{"udp", func(ctx context.Context) Finding { return w.Check(ctx, link.QUIC) }},
		{"tcp", func(ctx context.Context) Finding { return w.Check(ctx, link.TCP) }},
		{"clock", w.checkClock},
	}
}

func (w *Way) checkName(ctx context.Context) Finding {
	host, port, err := net.SplitHostPort(w.Addr)
	if err != nil || port == "" {
		return Bad("receiver = \"HOST:PORT\" in the configuration, or --receiver HOST:PORT", "%q is no HOST:PORT", w.Addr)
	}
	began := time.Now()
	addrs, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return Bad("getent hosts "+host+"; name the receiver by its address, or mend /etc/resolv.conf or /etc/hosts", "%v", err)
	}
	return Good("%s is %s (%v)", host, strings.Join(addrs, ", "), time.Since(began).Round(time.Millisecond))
}

// Check makes a session over one carrier, and ends it.
func (w *Way) Check(ctx context.Context, c link.Carrier) Finding {
	own := w.Identity.credentials()
	if own == nil {
		return NotMade("first the certificate", "without a certificate nobody can shake hands with %s", w.Addr)
	}
	bad := Doubtful
	if c == w.Carrier {
		bad = Bad
	}
	began := time.Now()
	s, err := link.Dial(ctx, c, w.Addr, link.Config{Credentials: own, Role: w.role(own), Handshake: handshake})
	if err != nil {
		return bad(w.wayOut(c, err), "%v", err)
	}
	defer s.Close(nil)
	took := time.Since(began)
	w.answer.Store(&answered{s.Peer(), took})
	return Good("%s (%s) shook hands over %s in %v", s.Peer().Host, s.Peer().Addr, c, took.Round(time.Millisecond))
}

// role is the one to come as: that of the certificate, for a person.
func (w *Way) role(own *link.Credentials) wire.Role {
	if w.Role != 0 {
		return w.Role
	}
	for _, r := range own.Roles {
		if r.Person() {
			return r
		}
	}
	return wire.RoleOperator
}

// wayOut of a handshake that failed.
func (w *Way) wayOut(c link.Carrier, err error) string {
	_, port, _ := net.SplitHostPort(w.Addr)
	protocol := map[link.Carrier]string{link.QUIC: "UDP", link.TCP: "TCP"}[c]
	var dns *net.DNSError
	switch {
	case errors.Is(err, wire.ErrClock):
		return "set the clocks of both ends: timedatectl set-ntp true"
	case errors.As(err, new(*wire.Error)):
		return "docs/OPERATING.md, Refusals"
	case errors.As(err, &dns):
		return "first the name"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "on the receiver: systemctl enable --now understudy-receiver; and compare its listen with the port here"
	case c == w.Carrier:
		other := map[link.Carrier]link.Carrier{link.QUIC: link.TCP, link.TCP: link.QUIC}[c]
		return fmt.Sprintf("open %s port %s in every firewall on the way, or set carrier = %q; on the receiver: understudy doctor", protocol, port, other)
	}
	return fmt.Sprintf("open %s port %s in every firewall on the way; it is not needed while carrier = %q works", protocol, port, w.Carrier)
}

const (
	// skewFail is by how much a new certificate is dated back: from there on a peer refuses it.
	skewFail = 10 * time.Minute
	// skewWarn is what a host without a synchronised clock easily has, and one with it never.
	skewWarn = time.Second
)

// checkClock holds this clock against the receiver's, as the handshake told it, and asks the kernel whether anything keeps it right.
func (w *Way) checkClock(ctx context.Context) Finding {
	if l := w.Identity.loaded.Load(); l != nil && errors.Is(l.err, wire.ErrClock) {
		return Bad(setClock, "%v", l.err)
	}
	a := w.answer.Load()
	if a == nil {
		f := Clock(ctx)
		f.Text += "; not held against the receiver's, which does not answer"
		return f
	}
	apart, doubt := max(a.Skew, -a.Skew), a.took/2
	which := "ahead of"
	if a.Skew > 0 { // the peer's is ahead
		which = "behind"
	}
	text := fmt.Sprintf("this clock is %v %s that of %s, give or take %v", apart.Round(time.Millisecond), which, a.Host, doubt.Round(time.Millisecond))
	switch {
	case apart >= skewFail:
		return Bad(setClock, "%s: new certificates are refused, and points have wrong times", text)
	case apart > skewWarn+doubt:
		return Doubtful(setClock, "%s: points have the source's times", text)
	}
	f := Clock(ctx)
	f.Text = text + "; " + f.Text
	return f
}
