package link_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/wire"
)

// until waits for something that goroutines and the kernel do in their own time.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after a minute still not: %s", what)
		}
	}
}

// siege connects from 127.0.0.2 again and again, as far as it is let, and never greets.
func siege(t *testing.T, carrier link.Carrier, to string, cfg *link.Credentials) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	from := net.ParseIP("127.0.0.2")
	dial := func() (end func(), gone <-chan struct{}) {
		done := make(chan struct{})
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}
		c, err := d.DialContext(ctx, "tcp", to)
		if err != nil {
			return nil, nil
		}
		go func() { defer close(done); c.Read(make([]byte, 1)) }()
		return func() { c.Close() }, done
	}
	if carrier == link.QUIC {
		udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: from})
		if err != nil {
			t.Fatal(err)
		}
		tr := &quic.Transport{Conn: udp}
		t.Cleanup(func() { tr.Close(); udp.Close() })
		target, err := net.ResolveUDPAddr("udp", to)
		if err != nil {
			t.Fatal(err)
		}
		dial = func() (func(), <-chan struct{}) {
			c, err := tr.Dial(ctx, target, cfg.TLSConfig(), &quic.Config{KeepAlivePeriod: time.Second})
			if err != nil {
				return nil, nil
			}
			return func() { c.CloseWithError(0, "") }, c.Context().Done()
		}
	}
	for range link.MaxHalfOpenPerAddr + 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				end, gone := dial()
				if end == nil {
					time.Sleep(10 * time.Millisecond) // refused: a hostile host tries again
					continue
				}
				select {
				case <-gone:
				case <-ctx.Done():
				}
				end()
			}
		})
	}
}

// TestAnAddressUnderSiegeKeepsNobodyOut: one address holds all the half-open connections that it may, and knocks on; another
// gets session after session meanwhile, and none of them is refused.
func TestAnAddressUnderSiegeKeepsNobodyOut(t *testing.T) {
	eachCarrier(t, func(t *testing.T, carrier link.Carrier) {
		home := newSite(t)
		source := home.host(t, "web1", wire.RoleSource)
		l := listen(t, link.Config{Credentials: home.host(t, "dr1", wire.RoleTarget), Handshake: time.Minute})
		siege(t, carrier, l.Addr(carrier).String(), source)
		besieged := func() bool { return l.HalfOpen(carrier, "127.0.0.2") == link.MaxHalfOpenPerAddr }
		until(t, "the hostile address is at its limit", besieged)
		for i := range 40 {
			s, err := link.Dial(t.Context(), carrier, l.Addr(carrier).String(), link.Config{Credentials: source})
			if err != nil {
				t.Fatalf("session %d: %v", i+1, err)
			}
			target, err := l.Accept(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if n := l.HalfOpen(carrier, "127.0.0.2"); n > link.MaxHalfOpenPerAddr {
				t.Fatalf("the hostile address has %d half-open", n)
			}
			s.Close(nil)
			target.Close(nil)
		}
		until(t, "the hostile address is still at its limit", besieged)
	})
}

// pour sends frames on streams that it opens, and counts them, until it can't.
func pour(s *link.Session, streams int, sent *atomic.Int64) {
	const size = 64 << 10
	payload := make([]byte, size)
	for range streams {
		go func() {
			st, err := s.OpenStream(context.Background())
			if err != nil {
				return
			}
			h := block.FrameHeader{Kind: block.FrameData, Payload: size, Range: block.Range{Len: size}}
			for st.SendFrame(h, payload) == nil {
				sent.Add(1)
			}
		}()
	}
}

// TestAPeerAtItsLimitDoesNotSlowAnother: one source fills its memory at the target with streams that nobody reads; another
// sends all that it has, and all of it arrives, while the first still stands where it stood. When the first is read at last
// it goes on.
func TestAPeerAtItsLimitDoesNotSlowAnother(t *testing.T) {
	const memory = 8 << 20
	eachCarrier(t, func(t *testing.T, carrier link.Carrier) {
		home := newSite(t)
		l := listen(t, link.Config{Credentials: home.host(t, "dr1", wire.RoleTarget)}.WithMemory(memory))
		session := func(name string) (source, target *link.Session) {
			source, err := link.Dial(t.Context(), carrier, l.Addr(carrier).String(), link.Config{Credentials: home.host(t, name, wire.RoleSource)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { source.Close(nil) })
			if target, err = l.Accept(t.Context()); err != nil {
				t.Fatal(err)
			}
			return source, target
		}
		hostile, hostileHere := session("web1")
		var sent atomic.Int64
		pour(hostile, 4, &sent)
		for range 4 {
			if _, err := hostileHere.AcceptStream(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		stuck := int64(-1)
		until(t, "the hostile peer gets no further", func() bool {
			before := stuck
			stuck = sent.Load()
			time.Sleep(200 * time.Millisecond) // stuck is: no progress for so long
			return stuck > 0 && stuck == before
		})
		if held := l.Held("web1"); carrier == link.TCP && (held < memory || held > memory+1<<20) {
			t.Errorf("the hostile peer holds %d bytes, it may %d", held, memory)
		}
		honest, honestHere := session("web2")
		a, b := streams(t, honest, honestHere)
		const frames = 200
		go ask200(a, frames)
		for i := range frames {
			if got, err := b.Receive(); err != nil || got.Frame == nil {
				t.Fatalf("frame %d of the honest peer: %v", i, err)
			}
		}
		if now := sent.Load(); now != stuck {
			t.Errorf("the hostile peer went on from %d to %d: it was not at its limit", stuck, now)
		}
		if hostileHere.Err() != nil || honestHere.Err() != nil {
			t.Errorf("sessions ended: %v, %v", hostileHere.Err(), honestHere.Err())
		}
		hostileHere.Close(nil)
		until(t, "what the hostile peer held is free", func() bool { return l.Held("web1") == 0 })
	})
}

// ask200 sends frames of 200 KiB.
func ask200(st *link.Stream, frames int) {
	const size = 200 << 10
	payload := make([]byte, size)
	for range frames {
		if st.SendFrame(block.FrameHeader{Kind: block.FrameData, Payload: size, Range: block.Range{Len: size}}, payload) != nil {
			return
		}
	}
	st.Flush()
}

// TestAPeerHeldBackGoesOnWhenItIsRead: over its budget a peer is slowed, not lost.
func TestAPeerHeldBackGoesOnWhenItIsRead(t *testing.T) {
	const memory, streams, frames = 1 << 20, 3, 100
	source, target := pair(t, link.TCP, func(_, target *link.Config) { *target = target.WithMemory(memory) })
	for range streams {
		st, err := source.OpenStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		go ask200(st, frames)
	}
	var wg sync.WaitGroup
	for range streams {
		st, err := target.AcceptStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for i := range frames {
				if _, err := st.Receive(); err != nil {
					t.Errorf("frame %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestOnePeersSessionsAreCounted: over the limit the oldest of that peer ends, and is told; nobody else's.
func TestOnePeersSessionsAreCounted(t *testing.T) {
	eachCarrier(t, func(t *testing.T, carrier link.Carrier) {
		home := newSite(t)
		l := listen(t, link.Config{Credentials: home.host(t, "dr1", wire.RoleTarget)})
		dial := func(c *link.Credentials) *link.Session {
			s, err := link.Dial(t.Context(), carrier, l.Addr(carrier).String(), link.Config{Credentials: c})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close(nil) })
			if _, err := l.Accept(t.Context()); err != nil {
				t.Fatal(err)
			}
			return s
		}
		other := dial(home.host(t, "web2", wire.RoleSource))
		web1 := home.host(t, "web1", wire.RoleSource)
		var sessions []*link.Session
		for range link.MaxSessions + 2 {
			sessions = append(sessions, dial(web1))
		}
		for i, s := range sessions[:2] {
			<-s.Done()
			if err := s.Err(); !errors.Is(err, wire.ErrBusy) {
				t.Errorf("session %d: %v", i, err)
			}
		}
		for i, s := range append(sessions[2:], other) {
			if a, err := s.OpenStream(t.Context()); err != nil || errors.Join(a.Send(&wire.Abort{}), a.Flush()) != nil || s.Err() != nil {
				t.Errorf("session %d: %v, %v", i, err, s.Err())
			}
		}
	})
}

// TestOnePeersStreamsAreCountedOverItsSessions: two sessions are not twice the streams.
func TestOnePeersStreamsAreCountedOverItsSessions(t *testing.T) {
	home := newSite(t)
	l := listen(t, link.Config{Credentials: home.host(t, "dr1", wire.RoleTarget)})
	web1 := home.host(t, "web1", wire.RoleSource)
	var accepted, opened atomic.Int32
	for range 2 {
		s, err := link.Dial(t.Context(), link.TCP, l.Addr(link.TCP).String(), link.Config{Credentials: web1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close(nil) })
		target, err := l.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				if _, err := target.AcceptStream(t.Context()); err != nil {
					return
				}
				accepted.Add(1)
			}
		}()
		go func() {
			for range link.MaxStreams {
				a, err := s.OpenStream(t.Context())
				if err == nil {
					errors.Join(a.Send(&wire.Abort{}), a.Flush())
				}
				opened.Add(1)
			}
		}()
	}
	until(t, "all streams were asked for", func() bool { return opened.Load() == 2*link.MaxStreams })
	time.Sleep(200 * time.Millisecond) // for what must not come: one more
	if n := accepted.Load(); n != link.MaxStreams {
		t.Errorf("%d streams are open, %d may be", n, link.MaxStreams)
	}
}
