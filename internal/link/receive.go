package link

import (
	"bufio"
	"errors"
	"io"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/wire"
)

// Received is one unit off a stream: exactly one of Message, Header, Frame and Seal is set. What Frame and Raw point to is
// the stream's, and good until the next Receive; everything else is the caller's.
type Received struct {
	Message wire.Message
	Header  *block.DeltaHeader
	Frame   *block.FrameHeader
	Seal    *block.Seal
	// Raw is the unit of a delta as it came: for a frame, header and payload together. It is nil for a message.
	Raw []byte
}

// receiver is the receiving half of a Stream.
type receiver struct {
	r     *bufio.Reader
	buf   []byte            // a whole frame, once one has come
	frame block.FrameHeader // of the last frame
	err   error             // the end of this direction; it stays
}

// Receive waits for the next unit. An Error from the peer is returned as the error, a *wire.Error. The end of what the peer
// sends is an error that is io.EOF. What breaks the protocol is a *wire.Error of CodeProtocol.
//
// A frame's header is checked by its sum and against every limit of its format; its payload is not: the sum in the header
// is for whoever stores it.
func (st *Stream) Receive() (Received, error) {
	in := &st.in
	if in.err != nil {
		return Received{}, in.err
	}
	got, err := in.next()
	if err == nil {
		switch m := got.Message.(type) {
		case *wire.Error:
			return Received{}, m
		case *wire.End:
			err = io.EOF
		default:
			return got, nil
		}
	}
	in.err = st.received(err)
	return Received{}, in.err
}

// received sorts out what ended the receiving direction.
func (st *Stream) received(err error) error {
	if err == io.EOF {
		return &brokenError{"receive", io.EOF}
	}
	return st.failed("receive", err)
}

// next reads one unit.
func (in *receiver) next() (Received, error) {
	first, err := in.r.Peek(1)
	if err != nil {
		return Received{}, err
	}
	switch wire.UnitOf(first[0]) {
	case wire.UnitFrame:
		return in.nextFrame()
	case wire.UnitMessage:
		return in.nextMessage()
	case wire.UnitHeader:
		raw, err := in.read(block.DeltaHeaderSize)
		if err != nil {
			return Received{}, err
		}
		h, err := block.ParseDeltaHeader(raw)
		return Received{Header: &h, Raw: raw}, violation(err)
	case wire.UnitSeal:
		return in.nextSeal()
	}
	return Received{}, wire.Errorf(wire.CodeProtocol, "nothing known begins with byte %#x", first[0])
}

// read fills the start of the stream's buffer with the next n bytes.
func (in *receiver) read(n int) ([]byte, error) {
	if len(in.buf) < n {
		in.buf = make([]byte, n)
	}
	return in.buf[:n], in.fill(in.buf[:n])
}

// fill reads all of b; an end before that is none of the clean kind.
func (in *receiver) fill(b []byte) error {
	_, err := io.ReadFull(in.r, b)
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (in *receiver) nextFrame() (Received, error) {
	const most = block.FrameHeaderSize + int(block.MaxFramePayload)
	if len(in.buf) < most {
		in.buf = make([]byte, most)
	}
	head, err := in.read(block.FrameHeaderSize)
	if err != nil {
		return Received{}, err
	}
	in.frame, err = block.ParseFrameHeader(head) // which holds the length of the payload against its limit
	if err != nil {
		return Received{}, violation(err)
	}
	raw := in.buf[:block.FrameHeaderSize+int(in.frame.Payload)]
	return Received{Frame: &in.frame, Raw: raw}, in.fill(raw[block.FrameHeaderSize:])
}

func (in *receiver) nextSeal() (Received, error) {
	head, err := in.r.Peek(block.SealHeadSize)
	if err != nil {
		return Received{}, unexpected(err)
	}
	n, err := block.SealSize(head)
	if err != nil {
		return Received{}, violation(err)
	}
	raw, err := in.read(n)
	if err != nil {
		return Received{}, err
	}
	s, _, err := block.ParseSeal(raw)
	return Received{Seal: &s, Raw: raw}, violation(err)
}

// nextMessage sets memory aside as the bytes come, not as the head promises them.
func (in *receiver) nextMessage() (Received, error) {
	head, err := in.r.Peek(wire.HeadSize)
	if err != nil {
		return Received{}, unexpected(err)
	}
	_, n, err := wire.ParseHead(head)
	if err != nil {
		return Received{}, err
	}
	total := wire.HeadSize + n
	var raw []byte
	if total <= growStep {
		raw, err = in.read(total)
	} else {
		raw, err = in.readLarge(total)
	}
	if err != nil {
		return Received{}, err
	}
	m, _, err := wire.Parse(raw)
	return Received{Message: m}, err
}

func (in *receiver) readLarge(total int) ([]byte, error) {
	raw := make([]byte, 0, growStep)
	for len(raw) < total {
		n := min(total-len(raw), max(growStep, len(raw)))
		start := len(raw)
		raw = append(raw, make([]byte, n)...)
		if err := in.fill(raw[start:]); err != nil {
			return nil, err
		}
	}
	return raw, nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// violation makes an error of the delta's format one that can be told to the peer.
func violation(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, block.ErrVersion):
		return wire.Errorf(wire.CodeVersion, "%w", err)
	}
	return wire.Errorf(wire.CodeProtocol, "%w", err)
}
