package link_test

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/wire"
)

// noSession holds that a listener has no session to give.
func noSession(t *testing.T, l *link.Listener) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if s, err := l.Accept(ctx); err == nil {
		t.Errorf("the listener made a session with %+v", s.Peer())
	}
}

// knock connects without our code: TLS or QUIC, then raw bytes where the hello belongs. It returns what came back.
func knock(t *testing.T, carrier link.Carrier, addr string, cfg *tls.Config, say []byte) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if carrier == link.TCP {
		c, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Write(say); err != nil {
			return nil, err
		}
		return io.ReadAll(c)
	}
	c, err := quic.DialAddr(ctx, addr, cfg, &quic.Config{})
	if err != nil {
		return nil, err
	}
	defer c.CloseWithError(0, "")
	s, err := c.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	s.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := s.Write(say); err != nil {
		return nil, err
	}
	return io.ReadAll(s)
}

func TestAStrangerBeforeTheHello(t *testing.T) {
	home := newSite(t)
	source := home.host(t, "web1", wire.RoleSource)
	target := home.host(t, "dr1", wire.RoleTarget)
	huge := []byte{byte(wire.TypeHello), 0, 0, 0, 0xff, 0xff, 0xff, 0xff}
	reply := []byte{byte(wire.TypeReply), 0, 0, 0, 0, 0, 0, 1} // 16 MiB: allowed, but not here
	foreign := source.TLSConfig()
	foreign.NextProtos = []string{"h2"}
	ack, _ := wire.Append(nil, &wire.Ack{Seq: 1})
	for name, row := range map[string]struct {
		cfg  *tls.Config
		say  []byte
		logs string
		only link.Carrier
	}{
		"states a length of 4 GiB":  {source.TLSConfig(), huge, "with a body of 4294967295 bytes", ""},
		"sends a message too large": {source.TLSConfig(), reply, "a greeting of", ""},
		"does not say hello":        {source.TLSConfig(), ack, "a session can't begin with ack", ""},
		"speaks something else":     {source.TLSConfig(), []byte("GET / HTTP/1.1\r\n\r\n"), "unknown message", ""},
		"says nothing":              {source.TLSConfig(), nil, "no session with this peer", ""},
		"shows no certificate":      {source.WithoutCertificate(), huge, "TLS handshake", link.TCP}, // QUIC's handshake fails unseen
		"another protocol":          {foreign, huge, "TLS handshake", link.TCP},
	} {
		t.Run(name, func(t *testing.T) {
			eachCarrier(t, func(t *testing.T, carrier link.Carrier) {
				var log logs
				l := listen(t, link.Config{Credentials: target, Log: log.logger(), Handshake: 500 * time.Millisecond})
				begun := time.Now()
				answer, err := knock(t, carrier, l.Addr(carrier).String(), row.cfg, row.say)
				if took := time.Since(begun); took > 4*time.Second {
					t.Errorf("it was kept for %v: %v", took, err)
				}
				if m, _, err := wire.Parse(answer); err == nil && m.Type() != wire.TypeError {
					t.Errorf("it was answered with %v", m.Type())
				}
				if row.only == "" || row.only == carrier {
					log.waitFor(t, row.logs)
				}
				noSession(t, l)
			})
		})
	}
}

// TestAHostilePeerOnAStream sends what no sender of ours would: each is a violation, and nothing large is set aside for it.
func TestAHostilePeerOnAStream(t *testing.T) {
	frame := block.FrameHeader{Kind: block.FrameData, Payload: 4096, Range: block.Range{Len: 4096}}
	longer := frame
	longer.Payload, longer.Range.Len = 1<<31, 1<<31
	flipped := frame.Append(nil)
	flipped[20] ^= 1
	seal := block.Seal{Seq: 1, Class: block.ClassCrash, Time: time.Now()}.Append(nil)
	longSeal := append([]byte{}, seal...)
	binary.LittleEndian.PutUint32(longSeal[4:], 1<<31)
	header := block.DeltaHeader{Seq: 1, BlockSize: 4096, DiskSize: 4096}.Append(nil)
	header[30] ^= 1
	flags, _ := wire.Append(nil, &wire.Ack{Seq: 1})
	flags[1] = 1
	for name, raw := range map[string][]byte{
		"frame of 2 GiB":       longer.Append(nil),
		"frame, bit flipped":   flipped,
		"seal of 2 GiB":        longSeal,
		"header, bit flipped":  header,
		"message of 4 GiB":     {byte(wire.TypeReply), 0, 0, 0, 0xff, 0xff, 0xff, 0xff},
		"message of no type":   {0xff, 0, 0, 0, 0, 0, 0, 0},
		"message with flags":   flags,
		"nothing known":        make([]byte, 64),
		"malformed in the end": {byte(wire.TypeError), 0, 0, 0, 1, 0, 0, 0, 7},
	} {
		t.Run(name, func(t *testing.T) {
			eachCarrier(t, func(t *testing.T, carrier link.Carrier) {
				source, target := pair(t, carrier, nil)
				a, b := streams(t, source, target)
				if err := a.WriteRaw(raw); err != nil {
					t.Fatal(err)
				}
				b.SetDeadline(time.Now().Add(10 * time.Second))
				got, err := b.Receive()
				if !errors.Is(err, wire.ErrProtocol) || link.Broken(err) {
					t.Errorf("%+v, %v", got, err)
				}
				if again, err2 := b.Receive(); err2 != err {
					t.Errorf("received %+v, %v after a violation", again, err2)
				}
				if n := b.BufferSize(); n > 1<<20 {
					t.Errorf("%d bytes set aside", n)
				}
			})
		})
	}
}

func TestALargeMessageIsTakenAsItComes(t *testing.T) {
	eachCarrier(t, func(t *testing.T, carrier link.Carrier) {
		source, target := pair(t, carrier, nil)
		a, b := streams(t, source, target)
		document := []byte(strings.Repeat("0123456789", 1<<19))
		go func() {
			a.Send(&wire.Reply{Document: document})
			a.CloseWrite()
		}()
		got, err := b.Receive()
		if err != nil || string(got.Message.(*wire.Reply).Document) != string(document) {
			t.Fatalf("%v", err)
		}
		if err := b.Send(&wire.Reply{Document: make([]byte, wire.MaxDocument+1)}); err == nil {
			t.Error("a message beyond the limits was sent")
		}
		if err := errors.Join(b.Send(&wire.Abort{}), b.Flush()); err != nil {
			t.Errorf("the stream does not go on: %v", err)
		}
	})
}

func TestTooManyStreams(t *testing.T) {
	eachCarrier(t, func(t *testing.T, carrier link.Carrier) {
		source, target := pair(t, carrier, nil)
		accepted := make(chan *link.Stream, 2*link.MaxStreams)
		go func() {
			for {
				s, err := target.AcceptStream(t.Context())
				if err != nil {
					return
				}
				accepted <- s
			}
		}()
		more := func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			s, err := source.OpenStream(ctx) // over QUIC, the peer allows no more
			if err == nil {
				err = errors.Join(s.Send(&wire.Abort{}), s.Flush())
			}
			if err != nil && !link.Broken(err) {
				t.Error(err)
			}
		}
		for range link.MaxStreams {
			more()
		}
		for len(accepted) < link.MaxStreams {
			time.Sleep(time.Millisecond)
		}
		more()
		time.Sleep(100 * time.Millisecond)
		if n := len(accepted); n != link.MaxStreams {
			t.Errorf("%d streams are open, %d may be", n, link.MaxStreams)
		}
		done := <-accepted // one that ends makes room
		if _, err := done.Receive(); err != nil {
			t.Error(err)
		}
		done.Close()
		if carrier == link.TCP {
			more()
			for len(accepted) < link.MaxStreams {
				time.Sleep(time.Millisecond)
			}
		}
	})
}

// TestAnEndThatDies: the process at the other end is gone, or the network is, in the middle of a frame.
func TestAnEndThatDies(t *testing.T) {
	eachCarrier(t, func(t *testing.T, carrier link.Carrier) {
		s := newSite(t)
		l := listen(t, link.Config{Credentials: s.host(t, "dr1", wire.RoleTarget), Idle: time.Second})
		relay := newRelay(t, carrier, l.Addr(carrier).String())
		source, err := link.Dial(t.Context(), carrier, relay.addr, link.Config{Credentials: s.host(t, "web1", wire.RoleSource), Idle: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer source.Close(nil)
		target, err := l.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		a, b := streams(t, source, target)
		h := block.FrameHeader{Kind: block.FrameData, Payload: 200000, Range: block.Range{Len: 200000}, Coding: block.CodingZstd}
		if err := a.WriteRaw(append(h.Append(nil), make([]byte, 1000)...)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
		relay.silence()
		begun := time.Now()
		for name, st := range map[string]*link.Stream{"source": a, "target": b} {
			if _, err := st.Receive(); !link.Broken(err) || errors.Is(err, io.EOF) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("it took %v to find out, with an idle time of 1 s", took)
		}
		<-source.Done()
		<-target.Done()
		if source.Err() == nil || target.Err() == nil {
			t.Errorf("the sessions say %v and %v", source.Err(), target.Err())
		}
	})
}

func TestAStreamCutInAFrame(t *testing.T) {
	eachCarrier(t, func(t *testing.T, carrier link.Carrier) {
		source, target := pair(t, carrier, nil)
		a, b := streams(t, source, target)
		h := block.FrameHeader{Kind: block.FrameData, Payload: 4096, Range: block.Range{Len: 4096}}
		if err := errors.Join(a.WriteRaw(append(h.Append(nil), 1, 2, 3)), a.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Receive(); !link.Broken(err) || errors.Is(err, io.EOF) {
			t.Errorf("%v", err)
		}
		if source.Err() != nil || target.Err() != nil {
			t.Errorf("the sessions ended: %v, %v", source.Err(), target.Err())
		}
	})
}

// relay forwards one connection or one pair of UDP addresses until it is silenced, and then nothing.
type relay struct {
	addr    string
	silence func()
}

func newRelay(t *testing.T, carrier link.Carrier, to string) *relay {
	t.Helper()
	silent := make(chan struct{})
	r := &relay{silence: func() { close(silent) }}
	if carrier == link.TCP {
		in, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { in.Close() })
		r.addr = in.Addr().String()
		go relayTCP(t, in, to, silent)
		return r
	}
	in, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	out, err := net.Dial("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); out.Close() })
	r.addr = in.LocalAddr().String()
	go relayUDP(in, out, silent)
	return r
}

func relayTCP(t *testing.T, in net.Listener, to string, silent chan struct{}) {
	a, err := in.Accept()
	if err != nil {
		return
	}
	b, err := net.Dial("tcp", to)
	if err != nil {
		a.Close()
		return
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	forward := func(dst, src net.Conn) {
		buf := make([]byte, 1<<16)
		for {
			n, err := src.Read(buf)
			select {
			case <-silent:
				if err != nil {
					return
				}
				continue
			default:
			}
			if err != nil {
				return
			}
			dst.Write(buf[:n])
		}
	}
	go forward(a, b)
	forward(b, a)
}

func relayUDP(in net.PacketConn, out net.Conn, silent chan struct{}) {
	from := make(chan net.Addr, 1)
	go func() {
		dialer, buf := <-from, make([]byte, 1<<16)
		for {
			n, err := out.Read(buf)
			if err != nil {
				return
			}
			select {
			case <-silent:
			default:
				in.WriteTo(buf[:n], dialer)
			}
		}
	}()
	buf := make([]byte, 1<<16)
	for {
		n, addr, err := in.ReadFrom(buf)
		if err != nil {
			close(from)
			return
		}
		select {
		case from <- addr:
		default:
		}
		select {
		case <-silent:
		default:
			out.Write(buf[:n])
		}
	}
}
