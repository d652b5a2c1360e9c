package block

import (
	"encoding/binary"
	"fmt"
	"hash"
	"hash/crc32"
)

// A delta is a header, frames (frame.go) and a seal (seal.go), in this order. The header:
//
//	 0         8         16        32        36           40          48          80        84
//	+---------+---------+---------+---------+------------+-----------+-----------+---------+
//	| magic   | version | disk id | gener-  | block size | disk size | digest of | crc-32c |
//	| 8 bytes | u32     | 16      | ation   | u32        | u64       | the delta |         |
//	|         | seq u64 |         | u32     |            |           | before    |         |
//	+---------+---------+---------+---------+------------+-----------+-----------+---------+
//
// Exactly: magic 8, version u32, seq u64, disk id 16, generation u32, block size u32, disk size u64, parent digest 32, crc u32.
// The crc covers all that is before it.

// DeltaMagic begins every delta: in a file, it is the file's magic.
const DeltaMagic = "USDELTA\n"

// DeltaVersion is the version this code writes.
//
//	1: the first
const DeltaVersion = 1

// DeltaHeaderSize is the size of an encoded DeltaHeader in bytes.
const DeltaHeaderSize = 8 + 4 + 8 + 16 + 4 + 4 + 8 + 32 + 4

// DeltaHeader says whose changes follow and after what.
type DeltaHeader struct {
	Disk       DiskID
	Seq        Seq // of this delta: the parent's plus 1
	Generation Generation
	BlockSize  BlockSize // granularity of the source's dirty set
	DiskSize   Size      // of the disk as of this delta; a disk may have grown since the parent
	Parent     Digest    // of the delta before, zero for the first
}

// Append adds the encoded header to b.
func (h DeltaHeader) Append(b []byte) []byte {
	start := len(b)
	b = append(b, DeltaMagic...)
	b = binary.LittleEndian.AppendUint32(b, DeltaVersion)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.Seq))
	b = append(b, h.Disk[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(h.Generation))
	b = binary.LittleEndian.AppendUint32(b, uint32(h.BlockSize))
	b = binary.LittleEndian.AppendUint64(b, uint64(h.DiskSize))
	b = append(b, h.Parent[:]...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], Castagnoli))
}

// ParseDeltaHeader reads a header from the first DeltaHeaderSize bytes of b.
func ParseDeltaHeader(b []byte) (DeltaHeader, error) {
	var h DeltaHeader
	if len(b) < DeltaHeaderSize || string(b[:8]) != DeltaMagic {
		return h, fmt.Errorf("parse delta header: no delta begins here: %w", ErrMalformed)
	}
	b = b[:DeltaHeaderSize]
	if v := binary.LittleEndian.Uint32(b[8:]); v > DeltaVersion {
		return h, fmt.Errorf("parse delta header: version %d, this release reads up to %d: %w", v, DeltaVersion, ErrVersion)
	}
	if crc32.Checksum(b[:DeltaHeaderSize-4], Castagnoli) != binary.LittleEndian.Uint32(b[DeltaHeaderSize-4:]) {
		return h, fmt.Errorf("parse delta header: %w", ErrChecksum)
	}
	h.Seq = Seq(binary.LittleEndian.Uint64(b[12:]))
	copy(h.Disk[:], b[20:])
	h.Generation = Generation(binary.LittleEndian.Uint32(b[36:]))
	h.BlockSize = BlockSize(binary.LittleEndian.Uint32(b[40:]))
	h.DiskSize = Size(binary.LittleEndian.Uint64(b[44:]))
	copy(h.Parent[:], b[52:])
	if err := h.BlockSize.Check(); err != nil {
		return h, fmt.Errorf("parse delta header: %v: %w", err, ErrMalformed)
	}
	if h.Seq == 0 || h.DiskSize <= 0 || h.DiskSize > MaxDiskSize {
		return h, fmt.Errorf("parse delta header: seq %d, disk of %d bytes: %w", h.Seq, h.DiskSize, ErrMalformed)
	}
	return h, nil
}

// Codec is the part of the delta format that needs code from outside the standard library. internal/codec has the real one.
// It is safe for concurrent use.
type Codec interface {
	// Open checks the payload of a data frame against the frame's sum and gives the disk's content, h.Range.Len bytes:
	// in dst, if that is large enough and a copy is needed, else in other memory, which may be payload itself.
	Open(dst []byte, h FrameHeader, payload []byte) ([]byte, error)
	// Check holds a payload against the frame's sum without decoding it.
	Check(h FrameHeader, payload []byte) error
	// Pack makes a data frame of the content of a range that starts at off, of up to MaxFrameData bytes, in the coding that
	// is asked for or, where that saves too little, in none. The payload is in dst, in other memory, or plain itself. The
	// header's number is the caller's to set.
	Pack(dst []byte, coding Coding, off Offset, plain []byte) (FrameHeader, []byte)
	// NewDigest is a fresh BLAKE3-256.
	NewDigest() hash.Hash
}

// Chain computes the digest of a delta while it goes by: BLAKE3 over the header, every frame with its payload, and the seal
// without the digest it carries. The header holds the parent's digest, and that chains them.
type Chain struct{ h hash.Hash }

// NewChain begins with the delta's header.
func NewChain(c Codec, header DeltaHeader) *Chain {
	h := c.NewDigest()
	h.Write(header.Append(nil))
	return &Chain{h: h}
}

// Write adds encoded frames. It never fails.
func (c *Chain) Write(frames []byte) (int, error) { return c.h.Write(frames) }

// Sum is the digest of what went by so far.
func (c *Chain) Sum() Digest {
	var d Digest
	c.h.Sum(d[:0])
	return d
}

// Seal is the digest of the delta that ends with s; s.Digest itself is not part of it.
func (c *Chain) Seal(s Seal) Digest {
	c.h.Write(s.appendBody(nil))
	var d Digest
	c.h.Sum(d[:0])
	return d
}
