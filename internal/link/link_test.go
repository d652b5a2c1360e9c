package link_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/internal/wire"
)

var carriers = []link.Carrier{link.TCP, link.QUIC}

// eachCarrier runs the same test on both carriers.
func eachCarrier(t *testing.T, f func(t *testing.T, carrier link.Carrier)) {
	for _, carrier := range carriers {
		t.Run(string(carrier), func(t *testing.T) { f(t, carrier) })
	}
}

// site is a CA in a directory of the test.
type site struct{ dir string }

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{t.TempDir()}
	if err := pki.Init(s.dir, "home", false); err != nil {
		t.Fatal(err)
	}
	return s
}

// host issues a certificate that is good now.
func (s *site) host(t testing.TB, name string, role wire.Role) *link.Credentials {
	t.Helper()
	out := filepath.Join(s.dir, name)
	if err := pki.Issue(s.dir, name, role, time.Hour, out); err != nil {
		t.Fatal(err)
	}
	c, err := link.LoadCredentials(out)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// logs is a log that a test can read while it is written.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// waitFor fails the test when text does not turn up.
func (l *logs) waitFor(t *testing.T, text string) {
	t.Helper()
	for range 500 {
		if strings.Contains(l.String(), text) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("the listener's log never said %q:\n%s", text, l)
}

func (l *logs) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// listen starts a listener on both carriers that ends with the test.
func listen(t testing.TB, cfg link.Config) *link.Listener {
	t.Helper()
	l, err := link.Listen("127.0.0.1:0", carriers, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// pair is a session from both ends.
func pair(t testing.TB, carrier link.Carrier, tune func(source, target *link.Config)) (source, target *link.Session) {
	t.Helper()
	s := newSite(t)
	a := link.Config{Credentials: s.host(t, "web1", wire.RoleSource), Program: "agent test"}
	b := link.Config{Credentials: s.host(t, "dr1", wire.RoleTarget), Program: "receiver test"}
	if tune != nil {
		tune(&a, &b)
	}
	l := listen(t, b)
	accepted := make(chan *link.Session, 1)
	go func() {
		defer close(accepted)
		if s, err := l.Accept(t.Context()); err == nil {
			accepted <- s
		}
	}()
	source, err := link.Dial(t.Context(), carrier, l.Addr(carrier).String(), a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { source.Close(nil) })
	target = <-accepted
	if target == nil {
		t.Fatal("the listener gave no session")
	}
	t.Cleanup(func() { target.Close(nil) })
	return source, target
}

// streams opens a stream and gives both its ends. The first message is an Abort, and it has been received.
func streams(t testing.TB, source, target *link.Session) (a, b *link.Stream) {
	t.Helper()
	a, err := source.OpenStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(a.Send(&wire.Abort{}), a.Flush()); err != nil {
		t.Fatal(err)
	}
	if b, err = target.AcceptStream(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Receive(); err != nil || got.Message == nil || got.Message.Type() != wire.TypeAbort {
		t.Fatalf("%+v, %v", got, err)
	}
	return a, b
}

func TestEndsKnowEachOther(t *testing.T) {
	eachCarrier(t, func(t *testing.T, carrier link.Carrier) {
		source, target := pair(t, carrier, nil)
		p, q := source.Peer(), target.Peer()
		if p.Host != "dr1" || p.Role != wire.RoleTarget || p.Program != "receiver test" {
			t.Errorf("the source sees %+v", p)
		}
		if q.Host != "web1" || q.Role != wire.RoleSource || q.Program != "agent test" || q.Skew.Abs() > 10*time.Second {
			t.Errorf("the target sees %+v", q)
		}
		if source.Carrier() != carrier || target.Carrier() != carrier || source.Version() != wire.MaxVersion {
			t.Errorf("carriers %s and %s, version %d", source.Carrier(), target.Carrier(), source.Version())
		}
	})
}

// TestADeltaArrivesAsItWasSent sends frames of many sizes, small and large mixed, with messages between, and holds that
// each comes out as its own bytes.
func TestADeltaArrivesAsItWasSent(t *testing.T) {
	eachCarrier(t, func(t *testing.T, carrier link.Carrier) {
		source, target := pair(t, carrier, nil)
		a, b := streams(t, source, target)
		header := block.DeltaHeader{Disk: block.NewDiskID(), Seq: 1, BlockSize: 4096, DiskSize: 1 << 30}
		seal := block.Seal{Class: block.ClassCrash, Seq: 1, Time: time.Now(), Labels: map[string]string{"host": "web1"}}
		r := rand.New(rand.NewPCG(1, 2))
		random := make([]byte, 1<<20)
		for i := range random {
			random[i] = byte(r.Uint32())
		}
		const frames = 600
		var want [][]byte
		for i := range frames {
			size := []int{512, 4096, 1 + r.IntN(60000), 256 << 10, 0}[i%5]
			at := r.IntN(len(random) - size)
			h := block.FrameHeader{Kind: block.FrameData, Payload: uint32(size), Range: block.Range{Off: 4096, Len: block.Size(size)}, Number: uint32(i), Sum: 7}
			if size == 0 {
				h = block.FrameHeader{Kind: block.FrameZero, Range: block.Range{Len: 1 << 20}, Number: uint32(i)}
			}
			want = append(want, append(h.Append(nil), random[at:at+size]...))
		}
		sent := make(chan error, 1)
		go func() {
			err := a.SendDeltaHeader(header)
			for i, raw := range want {
				h, _ := block.ParseFrameHeader(raw)
				err = errors.Join(err, a.SendFrame(h, raw[block.FrameHeaderSize:]))
				if i%100 == 50 {
					err = errors.Join(err, a.Send(&wire.Ack{Seq: block.Seq(i)}))
				}
			}
			sent <- errors.Join(err, a.SendSeal(seal), a.CloseWrite())
		}()
		got, err := b.Receive()
		if err != nil || got.Header == nil || *got.Header != header || !bytes.Equal(got.Raw, header.Append(nil)) {
			t.Fatalf("header %+v, %v", got, err)
		}
		for i, raw := range want {
			got, err := b.Receive()
			if err != nil || got.Frame == nil || got.Frame.Number != uint32(i) || !bytes.Equal(got.Raw, raw) {
				t.Fatalf("frame %d: %+v, %v", i, got.Frame, err)
			}
			if i%100 != 50 {
				continue
			}
			if got, err = b.Receive(); err != nil || got.Message.(*wire.Ack).Seq != block.Seq(i) {
				t.Fatalf("after frame %d: %+v, %v", i, got, err)
			}
		}
		if got, err = b.Receive(); err != nil || got.Seal == nil || !bytes.Equal(got.Raw, seal.Append(nil)) {
			t.Fatalf("seal %+v, %v", got, err)
		}
		if _, err = b.Receive(); !errors.Is(err, io.EOF) || !link.Broken(err) {
			t.Fatalf("after the end: %v", err)
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		if stats := target.Stats(); stats.In < 100*256<<10 {
			t.Errorf("%d bytes counted", stats.In)
		}
	})
}

func TestHalfClose(t *testing.T) {
	eachCarrier(t, func(t *testing.T, carrier link.Carrier) {
		source, target := pair(t, carrier, nil)
		a, b := streams(t, source, target)
		if err := a.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := a.Send(&wire.Abort{}); !errors.Is(err, link.ErrClosed) {
			t.Errorf("sending after CloseWrite: %v", err)
		}
		if _, err := b.Receive(); !errors.Is(err, io.EOF) {
			t.Fatalf("the other end: %v", err)
		}
		for i := range 3 { // the other direction goes on
			if err := errors.Join(b.Send(&wire.Ack{Seq: block.Seq(i + 1)}), b.Flush()); err != nil {
				t.Fatal(err)
			}
			if got, err := a.Receive(); err != nil || got.Message.(*wire.Ack).Seq != block.Seq(i+1) {
				t.Fatalf("%+v, %v", got, err)
			}
		}
		if err := errors.Join(b.Send(wire.Errorf(wire.CodeNoSpace, "the disk of dr1 is full")), b.Flush(), b.Close()); err != nil {
			t.Fatal(err)
		}
		_, err := a.Receive()
		if !errors.Is(err, wire.ErrNoSpace) || err.Error() != "the disk of dr1 is full" || link.Broken(err) {
			t.Errorf("the error of the peer: %v", err)
		}
		if _, err := a.Receive(); !errors.Is(err, io.EOF) {
			t.Errorf("after the peer's Close: %v", err)
		}
	})
}

func TestTheReasonOfACloseArrives(t *testing.T) {
	eachCarrier(t, func(t *testing.T, carrier link.Carrier) {
		for name, row := range map[string]struct {
			reason error
			want   error
		}{
			"shutdown":  {wire.Errorf(wire.CodeShutdown, "dr1 is stopping"), wire.ErrShutdown},
			"internal":  {errors.New("a disk fell off"), wire.ErrInternal},
			"no reason": {nil, link.ErrPeerGone},
		} {
			t.Run(name, func(t *testing.T) {
				source, target := pair(t, carrier, nil)
				a, _ := streams(t, source, target)
				target.Close(row.reason)
				_, err := a.Receive()
				if !errors.Is(err, row.want) || !link.Broken(err) || errors.Is(err, io.EOF) {
					t.Errorf("a stream says %v", err)
				}
				<-source.Done()
				if err := source.Err(); !errors.Is(err, row.want) {
					t.Errorf("the session says %v", err)
				} else if row.reason != nil && !strings.Contains(err.Error(), row.reason.Error()) {
					t.Errorf("%v does not say %v", err, row.reason)
				}
				if err := target.Err(); err != nil {
					t.Errorf("the end that closed says %v", err)
				}
				if _, err := source.OpenStream(context.Background()); !link.Broken(err) {
					t.Errorf("a stream on a dead session: %v", err)
				}
			})
		}
	})
}

func TestDeadlines(t *testing.T) {
	eachCarrier(t, func(t *testing.T, carrier link.Carrier) {
		source, target := pair(t, carrier, nil)
		a, b := streams(t, source, target)
		time.AfterFunc(30*time.Millisecond, func() { a.SetDeadline(time.Now()) })
		if _, err := a.Receive(); !timeoutOnly(err) {
			t.Errorf("a blocked Receive: %v", err)
		}
		payload := make([]byte, block.MaxFrameData)
		h := block.FrameHeader{Kind: block.FrameData, Payload: uint32(len(payload)), Range: block.Range{Len: block.MaxFrameData}}
		time.AfterFunc(200*time.Millisecond, func() { b.SetDeadline(time.Now()) })
		var err error
		for range 1 << 12 { // 1 GiB nobody reads: the window fills up
			if err = b.SendFrame(h, payload); err != nil {
				break
			}
		}
		if !timeoutOnly(err) {
			t.Errorf("a blocked SendFrame: %v", err)
		}
	})
}

func TestCloseWakesWhoeverIsBlocked(t *testing.T) {
	eachCarrier(t, func(t *testing.T, carrier link.Carrier) {
		source, target := pair(t, carrier, nil)
		a, _ := streams(t, source, target)
		failed := make(chan error, 2)
		go func() {
			_, err := a.Receive()
			failed <- err
		}()
		payload := make([]byte, block.MaxFrameData)
		h := block.FrameHeader{Kind: block.FrameData, Payload: uint32(len(payload)), Range: block.Range{Len: block.MaxFrameData}}
		go func() {
			var err error
			for err == nil {
				err = a.SendFrame(h, payload)
			}
			failed <- err
		}()
		time.Sleep(50 * time.Millisecond)
		a.Close()
		for range 2 {
			select {
			case err := <-failed:
				if !link.Broken(err) {
					t.Errorf("woken with %v", err)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("still blocked 10 s after Close")
			}
		}
	})
}
