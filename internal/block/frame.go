package block

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// A frame is the smallest part of a delta: new content for one range of the disk. All integers are little-endian.
//
//	 0       1         2       4         8            16        24          32            36      40
//	+-------+---------+-------+---------+------------+---------+-----------+-------------+-------+----------
//	| kind  | coding  | zero  | payload | offset     | length  | sum       | number in   | crc   | payload …
//	| u8    | u8      | u16   | u32     | u64        | u64     | u64       | delta u32   | u32   |
//	+-------+---------+-------+---------+------------+---------+-----------+-------------+-------+----------
//
// payload is its length on the wire. sum is the XXH64 of the payload as stored, 0 when there is none. crc is the CRC-32C
// of the 36 bytes before it, so a damaged header is known before its lengths are believed. number counts the frames of
// the delta from 0, modulo 2^32; a later frame overrides an earlier one where they overlap.

// Frame sizes and limits.
const (
	// FrameHeaderSize is the size of a frame without its payload, in bytes.
	FrameHeaderSize = 40
	// MaxFrameData is the most disk that one data frame covers: large enough that the header and a system call cost
	// nothing beside it, small enough that a random read of a view decodes little.
	MaxFrameData = 256 * KiB
	// MaxFramePayload is the most a payload may take: a coding that makes data longer is not used.
	MaxFramePayload = uint32(MaxFrameData)
	// MaxDiskSize bounds every offset: 1 EiB, far from where sums of an offset and a length overflow.
	MaxDiskSize = Size(1) << 60
)

// FrameKind is what a frame does to its range.
type FrameKind uint8

// The kinds.
const (
	FrameData FrameKind = 1 // the range's new content is in the payload
	FrameZero FrameKind = 2 // the range now reads as zeroes; no payload, any length
)

func (k FrameKind) String() string {
	switch k {
	case FrameData:
		return "data"
	case FrameZero:
		return "zero"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Coding is how a payload is compressed.
type Coding uint8

// The codings.
const (
	CodingNone Coding = 0
	CodingS2   Coding = 1 // one S2 block (github.com/klauspost/compress/s2)
	CodingZstd Coding = 2 // one Zstandard frame (RFC 8878)
)

func (c Coding) String() string {
	switch c {
	case CodingNone:
		return "none"
	case CodingS2:
		return "s2"
	case CodingZstd:
		return "zstd"
	}
	return fmt.Sprintf("coding(%d)", uint8(c))
}

// FrameHeader is a frame without its payload.
type FrameHeader struct {
	Kind    FrameKind
	Coding  Coding
	Payload uint32 // bytes that follow the header
	Range   Range  // what of the disk it is about
	Sum     uint64 // XXH64 of the payload
	Number  uint32 // position in the delta
}

// Castagnoli is the table of CRC-32C, which has an instruction on amd64 and arm64.
var Castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Append adds the header's 40 bytes to b.
func (h FrameHeader) Append(b []byte) []byte {
	start := len(b)
	b = append(b, byte(h.Kind), byte(h.Coding), 0, 0)
	b = binary.LittleEndian.AppendUint32(b, h.Payload)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.Range.Off))
	b = binary.LittleEndian.AppendUint64(b, uint64(h.Range.Len))
	b = binary.LittleEndian.AppendUint64(b, h.Sum)
	b = binary.LittleEndian.AppendUint32(b, h.Number)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], Castagnoli))
}

// ParseFrameHeader reads a header from the first 40 bytes of b and checks it against every limit of the format. The range
// is not checked against the disk, which the caller knows.
func ParseFrameHeader(b []byte) (FrameHeader, error) {
	if len(b) < FrameHeaderSize {
		return FrameHeader{}, fmt.Errorf("parse frame header: %d of %d bytes: %w", len(b), FrameHeaderSize, ErrMalformed)
	}
	b = b[:FrameHeaderSize]
	if got, want := crc32.Checksum(b[:36], Castagnoli), binary.LittleEndian.Uint32(b[36:]); got != want {
		return FrameHeader{}, fmt.Errorf("parse frame header: %w", ErrChecksum)
	}
	h := FrameHeader{
		Kind:    FrameKind(b[0]),
		Coding:  Coding(b[1]),
		Payload: binary.LittleEndian.Uint32(b[4:]),
		Range: Range{
			Off: Offset(binary.LittleEndian.Uint64(b[8:])),
			Len: Size(binary.LittleEndian.Uint64(b[16:])),
		},
		Sum:    binary.LittleEndian.Uint64(b[24:]),
		Number: binary.LittleEndian.Uint32(b[32:]),
	}
	if b[2] != 0 || b[3] != 0 {
		return FrameHeader{}, fmt.Errorf("parse frame header: reserved bytes are set: %w", ErrMalformed)
	}
	return h, h.check()
}

// check holds the header against the limits of the format.
func (h FrameHeader) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("frame %d of range %v: "+format+": %w", append(append([]any{h.Number, h.Range}, args...), ErrMalformed)...)
	}
	if h.Range.Empty() || !h.Range.In(MaxDiskSize) {
		return bad("impossible range")
	}
	switch h.Kind {
	case FrameZero:
		if h.Payload != 0 || h.Sum != 0 || h.Coding != CodingNone {
			return bad("a zero frame with a payload")
		}
	case FrameData:
		if h.Range.Len > MaxFrameData || h.Payload == 0 || h.Payload > MaxFramePayload {
			return bad("payload of %d bytes", h.Payload)
		}
		if h.Coding > CodingZstd {
			return bad("unknown coding %d", h.Coding)
		}
		if h.Coding == CodingNone && Size(h.Payload) != h.Range.Len {
			return bad("plain payload of %d bytes", h.Payload)
		}
	default:
		return bad("unknown kind %d", h.Kind)
	}
	return nil
}
