package linetest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/codec"
	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/wire"
)

// rawSource is a source that says what a test wants it to, over the real link.
type rawSource struct {
	t      *testing.T
	open   wire.Open
	stream *link.Stream
	opened *wire.Opened
	codec  block.Codec
	enc    *codec.Encoder
	header block.DeltaHeader
	seal   block.Seal
	chain  *block.Chain
}

// dialRaw makes a session with the certificate in the folder of that name.
func (s *site) dialRaw(pki string) *link.Session {
	s.t.Helper()
	credentials, err := link.LoadCredentials(s.path(pki))
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	session, err := link.Dial(ctx, link.TCP, s.addr, link.Config{
		Credentials: credentials, Role: wire.RoleSource, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { session.Close(nil) })
	return session
}

// ask opens a stream with its first message and gives the answer.
func ask(t *testing.T, session *link.Session, m wire.Message) (*link.Stream, wire.Message) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	stream, err := session.OpenStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	stream.SetDeadline(time.Now().Add(time.Minute))
	if err := stream.Send(m); err != nil {
		t.Fatal(err)
	}
	if err := stream.Flush(); err != nil {
		t.Fatal(err)
	}
	got, err := stream.Receive()
	if refused := (*wire.Error)(nil); errors.As(err, &refused) {
		return stream, refused
	}
	if err != nil {
		t.Fatal(err)
	}
	return stream, got.Message
}

// openRaw opens a disk; what the target says against it is the error.
func (s *site) openRaw(pki string, open wire.Open) (*rawSource, error) {
	s.t.Helper()
	if open.Size == 0 {
		open.Size = mib
	}
	open.Name, open.Host, open.BlockSize = "raw", "web1", 4096
	stream, answer := ask(s.t, s.dialRaw(pki), &open)
	if e, ok := answer.(*wire.Error); ok {
		return nil, e
	}
	r := &rawSource{t: s.t, open: open, stream: stream, opened: answer.(*wire.Opened)}
	var err error
	if r.codec, err = codec.New(); err != nil {
		s.t.Fatal(err)
	}
	if r.enc, err = codec.NewEncoder(codec.LevelNone); err != nil {
		s.t.Fatal(err)
	}
	return r, nil
}

// begin sends the header of the delta that follows what the target holds.
func (r *rawSource) begin(g block.Generation) {
	r.t.Helper()
	r.header = block.DeltaHeader{
		Disk: r.open.Disk, Seq: r.opened.TipSeq + 1, Generation: g, BlockSize: 4096, DiskSize: r.open.Size, Parent: r.opened.TipDigest,
	}
	r.chain, r.seal = block.NewChain(r.codec, r.header), block.Seal{Class: block.ClassCrash, Seq: r.header.Seq}
	r.send(r.stream.SendDeltaHeader(r.header))
}

// frame sends a block of the byte b.
func (r *rawSource) frame(at block.Offset, b byte) {
	r.t.Helper()
	data := make([]byte, 4096)
	for i := range data {
		data[i] = b
	}
	f := r.enc.Data(at, data)
	f.Header.Number = uint32(r.seal.Frames)
	r.seal.Frames++
	r.seal.Payload += block.Size(len(f.Payload))
	r.seal.Covered += f.Header.Range.Len
	r.chain.Write(f.Header.Append(nil))
	r.chain.Write(f.Payload)
	r.send(r.stream.SendFrame(f.Header, f.Payload))
}

func (r *rawSource) send(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// commit seals the delta and gives what the target answers.
func (r *rawSource) commit(at time.Time) error {
	r.t.Helper()
	r.seal.Time = at.UTC()
	r.seal.Digest = r.chain.Seal(r.seal)
	if err := r.stream.SendSeal(r.seal); err != nil {
		return err
	}
	if err := r.stream.Flush(); err != nil {
		return err
	}
	return r.answer()
}

// answer is what the target says next; nil for an ack.
func (r *rawSource) answer() error {
	r.t.Helper()
	got, err := r.stream.Receive()
	if err != nil {
		return err
	}
	switch m := got.Message.(type) {
	case *wire.Error:
		return m
	case *wire.Ack:
		r.opened.TipSeq, r.opened.TipDigest = m.Seq, m.Digest
		return nil
	}
	r.t.Fatalf("the target sent %T", got.Message)
	return nil
}

// close ends the stream.
func (r *rawSource) close() { r.stream.Session().Close(nil) }
