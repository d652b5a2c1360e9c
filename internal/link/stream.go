package link

import (
	"bufio"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/wire"
)

// Stream carries units both ways: messages, and the parts of deltas, whose bytes it never changes. What is sent gathers in
// a buffer; Flush sends it on its way.
//
// The methods that send may be called from several goroutines; units are never mixed, but their order is then open.
// Receive is for one goroutine at a time. SetDeadline, CloseWrite and Close may be called at any time.
//
// After any error of a method that sends, or of Receive, that direction of the stream is of no more use.
type Stream struct {
	s      *Session
	raw    rawStream
	closed sync.Once
	onEnd  func()

	writing sync.Mutex // held while something is sent
	w       *bufio.Writer
	scratch []byte
	ended   bool // End was sent

	in receiver // receive.go
}

func newStream(s *Session, raw rawStream, onEnd func()) *Stream {
	st := &Stream{s: s, raw: raw, onEnd: onEnd, w: bufio.NewWriterSize(raw, sendBuffer)}
	st.in.r = bufio.NewReaderSize(raw, receiveBuffer)
	return st
}

// Session is what the stream belongs to.
func (st *Stream) Session() *Session { return st.s }

// send runs put, which writes one unit.
func (st *Stream) send(put func() error) error {
	st.writing.Lock()
	defer st.writing.Unlock()
	if st.ended {
		return &brokenError{"send", ErrClosed}
	}
	if err := put(); err != nil {
		return st.failed("send", err)
	}
	return nil
}

// Send puts a message into the stream. A message that breaks its own limits is not sent, and the stream goes on.
func (st *Stream) Send(m wire.Message) error {
	var invalid error
	err := st.send(func() error {
		st.scratch, invalid = wire.Append(st.scratch[:0], m)
		if invalid != nil {
			return nil
		}
		_, err := st.w.Write(st.scratch)
		if cap(st.scratch) > growStep {
			st.scratch = nil
		}
		return err
	})
	return errors.Join(invalid, err)
}

// SendDeltaHeader begins a delta.
func (st *Stream) SendDeltaHeader(h block.DeltaHeader) error {
	return st.sendBytes(h.Append)
}

// SendSeal ends a delta. The seal must pass its Check. Flush follows, or the target never sees it.
func (st *Stream) SendSeal(s block.Seal) error {
	if err := s.Check(); err != nil {
		return err
	}
	return st.sendBytes(s.Append)
}

func (st *Stream) sendBytes(encode func([]byte) []byte) error {
	return st.send(func() error {
		st.scratch = encode(st.scratch[:0])
		_, err := st.w.Write(st.scratch)
		return err
	})
}

// SendFrame puts a frame into the stream: h and the payload, whose length h.Payload must be. Small frames gather; of a
// large payload most is sent from where it lies. The payload is the caller's again when SendFrame returns.
func (st *Stream) SendFrame(h block.FrameHeader, payload []byte) error {
	if int(h.Payload) != len(payload) {
		return wire.Errorf(wire.CodeInternal, "a frame of %d bytes with a header for %d", len(payload), h.Payload)
	}
	return st.send(func() error {
		st.scratch = h.Append(st.scratch[:0])
		if _, err := st.w.Write(st.scratch); err != nil {
			return err
		}
		_, err := st.w.Write(payload)
		return err
	})
}

// Flush sends what has gathered.
func (st *Stream) Flush() error {
	return st.send(st.w.Flush)
}

// CloseWrite flushes and tells the peer that nothing more comes: its Receive gives io.EOF. Receiving goes on.
func (st *Stream) CloseWrite() error {
	if err := st.Send(&wire.End{}); err != nil {
		return err
	}
	return st.send(func() error {
		st.ended = true
		return st.w.Flush()
	})
}

// SetDeadline makes calls that are blocked, or come later, fail at t with an error that is os.ErrDeadlineExceeded; the zero
// time takes it away. A write that is stuck in the network returns a little later, within the session's idle time.
func (st *Stream) SetDeadline(t time.Time) error { return st.raw.SetDeadline(t) }

// Close ends the stream both ways and makes blocked calls return. What was flushed still arrives, unless another goroutine
// is in the middle of sending; what was not is dropped.
func (st *Stream) Close() error {
	st.closed.Do(func() {
		idle := st.writing.TryLock()
		if idle {
			st.ended = true
			st.writing.Unlock()
		}
		st.raw.finish(!idle)
		st.onEnd()
	})
	return nil
}

// failed makes an error of the stream out of one of its carrier.
func (st *Stream) failed(op string, err error) error {
	switch {
	case errors.As(err, new(*wire.Error)) || errors.As(err, new(*brokenError)):
		return err
	case timedOut(err):
		select {
		case <-st.s.c.done(): // silence ended the session: that is the better reason
		default:
			return &brokenError{op, os.ErrDeadlineExceeded}
		}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return st.s.broken(op, errCut)
	}
	return st.s.broken(op, err)
}

// errCut: the peer's stream ended in the middle of a unit.
var errCut = errors.New("the stream ended in the middle of a message or frame")
