// Package codec turns blocks of a disk into frames of a delta and back: zero detection, compression, checksum. Bytes in,
// bytes out, no I/O. It is safe for concurrent use but for the Encoder, of which each goroutine has its own.
package codec

import (
	"bytes"
	"fmt"
	"hash"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"github.com/understudy-dr/understudy/internal/block"
)

// Level is how hard an Encoder tries to make payloads small.
type Level string

// The levels.
const (
	LevelNone Level = "none"
	LevelS2   Level = "s2"
	LevelZstd Level = "zstd"
)

// Set reads a level from a flag or a config file.
func (l *Level) Set(s string) error {
	switch Level(s) {
	case LevelNone, LevelS2, LevelZstd:
		*l = Level(s)
		return nil
	}
	return fmt.Errorf("%q is no compression: none, s2 or zstd", s)
}

func (l *Level) String() string { return string(*l) }

// Type names the value in help texts.
func (l *Level) Type() string { return "none|s2|zstd" }

// UnmarshalText makes the level a string in TOML.
func (l *Level) UnmarshalText(text []byte) error { return l.Set(string(text)) }

// Encoder makes frames. It keeps the memory it compresses into, so that a frame costs no allocation; it is for one goroutine.
type Encoder struct {
	level   Level
	zstd    *zstd.Encoder
	scratch []byte
}

// NewEncoder makes an Encoder; the zero level is none.
func NewEncoder(level Level) (*Encoder, error) {
	e := &Encoder{level: level}
	if level != LevelZstd {
		return e, nil
	}
	var err error
	e.zstd, err = newZstd()
	return e, err
}

// newZstd makes a compressor that takes its memory when it is first used.
func newZstd() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithWindowSize(int(block.MaxFrameData)), zstd.WithLowerEncoderMem(true))
}

// Frame is one encoded frame: its header, and the payload that follows it on the wire. The payload is the Encoder's memory
// or the data that went in, and holds until the next call.
type Frame struct {
	Header  block.FrameHeader
	Payload []byte
}

// Data encodes the new content of a range of up to block.MaxFrameData bytes that starts at off. The header's Number is left
// to the sender, which alone knows the order.
func (e *Encoder) Data(off block.Offset, data []byte) Frame {
	coding := block.CodingNone
	switch e.level {
	case LevelS2:
		coding = block.CodingS2
	case LevelZstd:
		coding = block.CodingZstd
	}
	e.scratch = roomFor(e.scratch, coding, len(data))
	h, payload := pack(e.zstd, e.scratch, coding, off, data)
	return Frame{Header: h, Payload: payload}
}

// roomFor makes dst long enough for what pack makes of n bytes.
func roomFor(dst []byte, coding block.Coding, n int) []byte {
	if need := s2.MaxEncodedLen(n); coding != block.CodingNone && cap(dst) < need { // zstd's worst is less
		return make([]byte, need)
	}
	return dst
}

// pack encodes data into dst, for which see roomFor.
func pack(z *zstd.Encoder, dst []byte, coding block.Coding, off block.Offset, data []byte) (block.FrameHeader, []byte) {
	h := block.FrameHeader{Kind: block.FrameData, Coding: coding, Range: block.Range{Off: off, Len: block.Size(len(data))}}
	payload := data
	switch coding {
	case block.CodingS2:
		payload = s2.Encode(dst[:cap(dst)], data)
	case block.CodingZstd:
		payload = z.EncodeAll(data, dst[:0])
	}
	if len(payload) >= len(data)-len(data)/16 { // less than a sixteenth saved is not worth the target's decoding
		payload, h.Coding = data, block.CodingNone
	}
	h.Payload = uint32(len(payload))
	h.Sum = xxhash.Sum64(payload)
	return h, payload
}

// Zero encodes a range that reads as zeroes.
func Zero(r block.Range) block.FrameHeader { return block.FrameHeader{Kind: block.FrameZero, Range: r} }

// zeroPage is what IsZero compares with.
var zeroPage [4096]byte

// IsZero tells whether every byte of b is 0. Data that is not zero is mostly known by its first word.
func IsZero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeroPage))
		if !bytes.Equal(b[:n], zeroPage[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

// Codec implements block.Codec.
type Codec struct {
	zstd *zstd.Decoder
	pack *zstd.Encoder
}

// New makes the one Codec a process needs.
func New() (*Codec, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(uint64(block.MaxFrameData)),
		zstd.WithDecoderMaxWindow(uint64(block.MaxFrameData)), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("make zstd decoder: %w", err)
	}
	enc, err := newZstd()
	if err != nil {
		return nil, fmt.Errorf("make zstd encoder: %w", err)
	}
	return &Codec{zstd: dec, pack: enc}, nil
}

// NewDigest implements block.Codec with BLAKE3-256.
func (c *Codec) NewDigest() hash.Hash { return blake3.New() }

// Pack implements block.Codec.
func (c *Codec) Pack(dst []byte, coding block.Coding, off block.Offset, plain []byte) (block.FrameHeader, []byte) {
	return pack(c.pack, roomFor(dst, coding, len(plain)), coding, off, plain)
}

// Check implements block.Codec.
func (c *Codec) Check(h block.FrameHeader, payload []byte) error {
	if len(payload) != int(h.Payload) {
		return fmt.Errorf("frame of range %v: %d of %d bytes of payload: %w", h.Range, len(payload), h.Payload, block.ErrMalformed)
	}
	if h.Kind == block.FrameData && xxhash.Sum64(payload) != h.Sum {
		return fmt.Errorf("frame of range %v: payload: %w", h.Range, block.ErrChecksum)
	}
	return nil
}

// Open implements block.Codec. h has been parsed, so its lengths are within the format's limits.
func (c *Codec) Open(dst []byte, h block.FrameHeader, payload []byte) ([]byte, error) {
	if err := c.Check(h, payload); err != nil {
		return nil, err
	}
	want := int(h.Range.Len)
	var err error
	switch h.Coding {
	case block.CodingNone:
		return payload, nil
	case block.CodingS2:
		var n int
		if n, err = s2.DecodedLen(payload); err == nil && n != want {
			err = fmt.Errorf("decodes to %d bytes", n)
		}
		if err == nil {
			if cap(dst) < want {
				dst = make([]byte, want)
			}
			dst, err = s2.Decode(dst[:want], payload)
		}
	case block.CodingZstd:
		dst, err = c.zstd.DecodeAll(payload, dst[:0])
	default:
		err = fmt.Errorf("unknown coding %v", h.Coding)
	}
	if err == nil && len(dst) != want {
		err = fmt.Errorf("decodes to %d bytes", len(dst))
	}
	if err != nil {
		return nil, fmt.Errorf("frame of range %v: %v: %w", h.Range, err, block.ErrMalformed)
	}
	return dst, nil
}

// ChunkSize is what a scan takes the digest of at once.
const ChunkSize = 64 * block.KiB

// ChunkDigest is the BLAKE3-256 of a chunk, by which source and target compare without sending it.
func ChunkDigest(chunk []byte) block.Digest { return blake3.Sum256(chunk) }

// GroupDigest is the BLAKE3-256 over the digests of neighbouring chunks: one look tells whether all of them are equal.
func GroupDigest(chunks []block.Digest) block.Digest {
	h := blake3.New()
	for i := range chunks {
		h.Write(chunks[i][:])
	}
	var d block.Digest
	h.Sum(d[:0])
	return d
}
