package link_test

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/internal/metrics"
	"github.com/understudy-dr/understudy/internal/wire"
)

// shows looks at the page until it has a line: a count tells nobody when it changes.
func shows(t *testing.T, r *metrics.Registry, line string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		page, err := r.Page()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(page), "\n"+line+"\n") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no line %q:\n%s", line, page)
		}
	}
}

// stays holds for a while that a counter is what the session moved: at least before it was closed, at most now, since bytes of the
// closing itself may come when the listener has let go of it. Nothing tells when that is, so it is looked at again and again.
func stays(t *testing.T, r *metrics.Registry, name string, before uint64, now func() uint64) {
	t.Helper()
	for range 50 {
		page, err := r.Page()
		if err != nil {
			t.Fatal(err)
		}
		_, text, _ := strings.Cut(string(page), "\n"+name+" ")
		text, _, _ = strings.Cut(text, "\n")
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			t.Fatal(err)
		}
		if most := now(); n < float64(before) || n > float64(most) {
			t.Fatalf("%s is %v, where the session moved %d to %d bytes", name, n, before, most)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestMetricsOfAKeeper: they follow the certificate that is in force.
func TestMetricsOfAKeeper(t *testing.T) {
	home := newSite(t)
	home.host(t, "web1", wire.RoleSource)
	home.host(t, "spare", wire.RoleSource)
	dir := filepath.Join(home.dir, "web1")
	k, err := link.NewKeeper(dir, new(logs).logger())
	if err != nil {
		t.Fatal(err)
	}
	var r metrics.Registry
	if err := k.Register(&r); err != nil {
		t.Fatal(err)
	}
	seconds := func(name string, at time.Time) string { return fmt.Sprintf("%s %v", name, float64(at.Unix())) }
	expiry := func() string {
		return seconds("understudy_certificate_expiry_timestamp_seconds", k.Current().Certificate().NotAfter)
	}
	shows(t, &r, "understudy_certificate_renewals_total 0")
	shows(t, &r, expiry())
	shows(t, &r, seconds("understudy_ca_expiry_timestamp_seconds", k.Current().CAs()[0].NotAfter))
	copyFile(t, filepath.Join(home.dir, "spare", pki.HostKeyFile), filepath.Join(dir, pki.HostKeyFile))
	copyFile(t, filepath.Join(home.dir, "spare", pki.HostCertFile), filepath.Join(dir, pki.HostCertFile))
	k.Reload()
	shows(t, &r, "understudy_certificate_renewals_total 1")
	shows(t, &r, expiry())
}

// TestMetricsOfAListener: whoever got no session is counted by why, and bytes stay counted when a session has ended.
func TestMetricsOfAListener(t *testing.T) {
	home, elsewhere := newSite(t), newSite(t)
	source, stranger := home.host(t, "web1", wire.RoleSource), elsewhere.host(t, "web1", wire.RoleSource)
	l := listen(t, link.Config{Credentials: home.host(t, "dr1", wire.RoleTarget)})
	var r metrics.Registry
	if err := l.Register(&r); err != nil {
		t.Fatal(err)
	}
	away := func(carrier link.Carrier, reason string, n int) {
		t.Helper()
		shows(t, &r, fmt.Sprintf("understudy_receiver_turned_away_total{carrier=%q,reason=%q} %d", carrier, reason, n))
	}
	for _, carrier := range []link.Carrier{link.TCP, link.QUIC} {
		for _, reason := range []string{"rate", "half-open", "certificate", "clock", "token", "refused", "handshake"} {
			away(carrier, reason, 0)
		}
	}
	c, err := net.Dial("tcp", l.Addr(link.TCP).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET / HTTP/1.0\r\n\r\n")
	away(link.TCP, "handshake", 1)
	for _, carrier := range []link.Carrier{link.TCP, link.QUIC} {
		if s, err := link.Dial(t.Context(), carrier, l.Addr(carrier).String(), link.Config{Credentials: stranger}); err == nil {
			s.Close(nil)
			t.Error("a session with a host of another site")
		}
		away(carrier, "certificate", 1)
	}

	s, err := link.Dial(t.Context(), link.TCP, l.Addr(link.TCP).String(), link.Config{Credentials: source})
	if err != nil {
		t.Fatal(err)
	}
	here, err := l.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before := here.Stats()
	here.Close(nil)
	s.Close(nil)
	<-here.Done()
	if before.In == 0 || before.Out == 0 {
		t.Fatalf("a session of no bytes: %+v", before)
	}
	stays(t, &r, "understudy_receiver_link_received_bytes_total", before.In, func() uint64 { return here.Stats().In })
	stays(t, &r, "understudy_receiver_link_sent_bytes_total", before.Out, func() uint64 { return here.Stats().Out })
	shows(t, &r, `understudy_receiver_half_open{carrier="tcp"} 0`)
}
