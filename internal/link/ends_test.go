package link_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/internal/wire"
)

// TestMain holds that, when all sessions and listeners of the tests are closed, none of their goroutines is left.
func TestMain(m *testing.M) {
	code := m.Run()
	var left string
	for range 300 {
		if left = ours(); left == "" {
			os.Exit(code)
		}
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Fprintf(os.Stderr, "goroutines are left:\n%s\n", left)
	os.Exit(1)
}

// ours are the stacks of goroutines of the link and its carriers.
func ours() string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var found []string
	for _, stack := range strings.Split(string(buf), "\n\n") {
		if strings.Contains(stack, "yamux") || strings.Contains(stack, "quic-go") || strings.Contains(stack, "internal/link.") {
			found = append(found, stack)
		}
	}
	return strings.Join(found, "\n\n")
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	raw, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestNobodyThere(t *testing.T) {
	source := newSite(t).host(t, "web1", wire.RoleSource)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	for name, row := range map[string]struct {
		carrier    link.Carrier
		addr, says string
	}{
		"TCP, closed port": {link.TCP, addr, "nobody listens there"},
		"QUIC, no answer":  {link.QUIC, addr, "link to " + addr + " over quic"},
		"no port":          {link.TCP, "127.0.0.1", "missing port"},
		"no carrier":       {link.Carrier("tin"), addr, "no such carrier"},
	} {
		cfg := link.Config{Credentials: source, Handshake: 500 * time.Millisecond}
		_, err := link.Dial(t.Context(), row.carrier, row.addr, cfg)
		if err == nil || link.Permanent(err) || !strings.Contains(err.Error(), row.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := link.Dial(t.Context(), link.TCP, addr, link.Config{}); err == nil {
		t.Error("dialled without credentials")
	}
}

func TestADialThatIsCancelled(t *testing.T) {
	source := newSite(t).host(t, "web1", wire.RoleSource)
	tcp, err := net.Listen("tcp", "127.0.0.1:0") // the kernel takes the connection, nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	addrs := map[link.Carrier]string{link.TCP: tcp.Addr().String(), link.QUIC: udp.LocalAddr().String()}
	eachCarrier(t, func(t *testing.T, carrier link.Carrier) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		begun := time.Now()
		_, err := link.Dial(ctx, carrier, addrs[carrier], link.Config{Credentials: source})
		if !errors.Is(err, context.Canceled) || time.Since(begun) > 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
		begun = time.Now()
		_, err = link.Dial(t.Context(), carrier, addrs[carrier], link.Config{Credentials: source, Handshake: 200 * time.Millisecond})
		if err == nil || !strings.Contains(err.Error(), "no answer") || time.Since(begun) > 3*time.Second {
			t.Errorf("a silent listener: %v after %v", err, time.Since(begun))
		}
	})
}

// TestASessionOutlivesTheDial: the context of Dial bounds the greeting only.
func TestASessionOutlivesTheDial(t *testing.T) {
	eachCarrier(t, func(t *testing.T, carrier link.Carrier) {
		s := newSite(t)
		l := listen(t, link.Config{Credentials: s.host(t, "dr1", wire.RoleTarget), Handshake: 300 * time.Millisecond, Idle: 400 * time.Millisecond})
		ctx, cancel := context.WithCancel(t.Context())
		cfg := link.Config{Credentials: s.host(t, "web1", wire.RoleSource), Handshake: 300 * time.Millisecond, Idle: 400 * time.Millisecond}
		source, err := link.Dial(ctx, carrier, l.Addr(carrier).String(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer source.Close(nil)
		target, err := l.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		time.Sleep(1200 * time.Millisecond) // three times the idle time: keep-alives hold it
		streams(t, source, target)
		if source.Err() != nil || target.Err() != nil {
			t.Errorf("%v, %v", source.Err(), target.Err())
		}
	})
}

func TestTheListenerTakesItsSessionsAlong(t *testing.T) {
	eachCarrier(t, func(t *testing.T, carrier link.Carrier) {
		s := newSite(t)
		l := listen(t, link.Config{Credentials: s.host(t, "dr1", wire.RoleTarget)})
		cfg := link.Config{Credentials: s.host(t, "web1", wire.RoleSource)}
		source, err := link.Dial(t.Context(), carrier, l.Addr(carrier).String(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer source.Close(nil)
		if _, err := l.Accept(t.Context()); err != nil {
			t.Fatal(err)
		}
		waiting := make(chan error, 1)
		go func() {
			_, err := l.Accept(context.Background())
			waiting <- err
		}()
		l.Close()
		if err := <-waiting; !errors.Is(err, link.ErrClosed) {
			t.Errorf("Accept says %v", err)
		}
		select {
		case <-source.Done():
			if err := source.Err(); !errors.Is(err, wire.ErrShutdown) {
				t.Errorf("the session says %v", err)
			}
		case <-time.After(5 * time.Second):
			t.Error("the session goes on")
		}
	})
}

func TestAPortThatIsTaken(t *testing.T) {
	cfg := link.Config{Credentials: newSite(t).host(t, "dr1", wire.RoleTarget)}
	l := listen(t, cfg)
	if a, b := l.Addr(link.TCP).(*net.TCPAddr), l.Addr(link.QUIC).(*net.UDPAddr); a.Port != b.Port {
		t.Errorf("TCP at port %d, UDP at %d", a.Port, b.Port)
	}
	for _, carrier := range carriers {
		_, err := link.Listen(l.Addr(carrier).String(), []link.Carrier{carrier}, cfg)
		if err == nil || !strings.Contains(err.Error(), "has this port") {
			t.Errorf("%s: %v", carrier, err)
		}
	}
	if _, err := link.Listen("127.0.0.1:0", nil, cfg); err == nil {
		t.Error("listens on no carrier")
	}
}

// TestManyStreamsAtOnce has both ends open streams at the same time and talk on all of them.
func TestManyStreamsAtOnce(t *testing.T) {
	eachCarrier(t, func(t *testing.T, carrier link.Carrier) {
		source, target := pair(t, carrier, nil)
		var wg sync.WaitGroup
		for _, s := range []*link.Session{source, target} {
			wg.Go(func() { echo(t, s, 10) })
			for i := range 10 {
				wg.Go(func() { ask(t, s, uint32(i)) })
			}
		}
		wg.Wait()
	})
}

// echo answers n streams: it returns every frame.
func echo(t *testing.T, s *link.Session, n int) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for range n {
		st, err := s.AcceptStream(t.Context())
		if err != nil {
			t.Error(err)
			return
		}
		wg.Go(func() {
			defer st.Close()
			for {
				got, err := st.Receive()
				if err != nil {
					break
				}
				st.SendFrame(*got.Frame, got.Raw[block.FrameHeaderSize:])
			}
			st.CloseWrite()
		})
	}
}

func ask(t *testing.T, s *link.Session, id uint32) {
	const frames = 50
	st, err := s.OpenStream(t.Context())
	if err != nil {
		t.Error(err)
		return
	}
	defer st.Close()
	payload := []byte(strings.Repeat(string(rune('a'+id)), 10000))
	go func() {
		for i := range uint32(frames) {
			st.SendFrame(block.FrameHeader{Kind: block.FrameData, Payload: 10000, Range: block.Range{Len: 10000}, Number: id<<16 | i}, payload)
		}
		st.CloseWrite()
	}()
	for i := range uint32(frames) {
		got, err := st.Receive()
		if err != nil || got.Frame.Number != id<<16|i || string(got.Raw[block.FrameHeaderSize:]) != string(payload) {
			t.Errorf("stream %d, frame %d: %+v, %v", id, i, got.Frame, err)
			return
		}
	}
}

func TestLoadCredentialsSaysWhatIsWrong(t *testing.T) {
	home, other := newSite(t), newSite(t)
	for name, row := range map[string]struct {
		spoil func(t *testing.T, dir string)
		says  string
	}{
		"nothing wrong":  {func(*testing.T, string) {}, ""},
		"no CA":          {func(t *testing.T, dir string) { remove(t, dir, pki.CACertFile) }, "ca.crt is missing: enroll"},
		"no certificate": {func(t *testing.T, dir string) { remove(t, dir, pki.HostCertFile) }, "host.crt is missing: enroll"},
		"no key":         {func(t *testing.T, dir string) { remove(t, dir, pki.HostKeyFile) }, "host.key is missing: enroll"},
		"key that others can read": {func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, pki.HostKeyFile), 0o640); err != nil {
				t.Fatal(err)
			}
		}, "can be read by others (mode 0640): chmod 600"},
		"certificate is no PEM": {func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, pki.HostCertFile), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "host.crt holds no certificate in PEM"},
		"key of another": {func(t *testing.T, dir string) {
			home.host(t, "another", wire.RoleSource)
			copyFile(t, filepath.Join(home.dir, "another", pki.HostKeyFile), filepath.Join(dir, pki.HostKeyFile))
		}, "host.key does not belong to"},
		"CA of another site": {func(t *testing.T, dir string) {
			copyFile(t, filepath.Join(other.dir, pki.CACertFile), filepath.Join(dir, pki.CACertFile))
		}, "is of another CA"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(home.dir, strings.ReplaceAll(name, " ", "-"))
			if err := pki.Issue(home.dir, "web1", wire.RoleSource, time.Hour, dir); err != nil {
				t.Fatal(err)
			}
			row.spoil(t, dir)
			c, err := link.LoadCredentials(dir)
			if row.says == "" {
				if err != nil || c.Name != "web1" || len(c.Roles) != 1 || c.Roles[0] != wire.RoleSource {
					t.Errorf("%+v, %v", c, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), row.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v, want %q in it", err, row.says)
			}
		})
	}
	now := time.Now()
	for name, row := range map[string]struct {
		from, until time.Duration
		says        string
	}{
		"expired":       {-2 * time.Hour, -time.Hour, "expired at"},
		"not yet valid": {time.Hour, 2 * time.Hour, "one of the clocks is wrong"},
	} {
		dir := filepath.Join(home.dir, name)
		if err := pki.IssueBetween(home.dir, "web1", wire.RoleSource, now.Add(row.from), now.Add(row.until), dir); err != nil {
			t.Fatal(err)
		}
		if _, err := link.LoadCredentials(dir); err == nil || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func remove(t *testing.T, dir, file string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, file)); err != nil {
		t.Fatal(err)
	}
}
