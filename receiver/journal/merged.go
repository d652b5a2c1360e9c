package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/understudy-dr/understudy/internal/block"
)

// The merge section of a merged delta:
//
//	kind u8 = 0x4d 'M' | zero u8 ×3 | first seq u64 | frames u64 | payload bytes u64 | disk bytes u64 | digest 32 | crc u32
//
// The counts are those of the frames in this file. The digest is a BLAKE3-256 over header, frames, the whole seal, and the
// section up to the digest; the crc is the CRC-32C of all of the section before it.

const (
	mergeHead        = "M\x00\x00\x00"
	mergeSectionSize = 4 + 8 + 8 + 8 + 8 + 32 + 4
)

// content is what a delta's file holds.
type content struct {
	frames           uint64
	payload, covered block.Size
}

// add counts one more frame.
func (c *content) add(h block.FrameHeader) {
	c.frames++
	c.payload += block.Size(h.Payload)
	c.covered += h.Range.Len
}

func (c content) String() string {
	return fmt.Sprintf("%d frames with %d bytes for %d of the disk", c.frames, c.payload, c.covered)
}

// mergeSection is what a merged delta says of itself.
type mergeSection struct {
	first  block.Seq
	held   content
	digest block.Digest
}

// appendBody adds everything before the digest.
func (m mergeSection) appendBody(b []byte) []byte {
	b = append(b, mergeHead...)
	b = binary.LittleEndian.AppendUint64(b, uint64(m.first))
	b = binary.LittleEndian.AppendUint64(b, m.held.frames)
	b = binary.LittleEndian.AppendUint64(b, uint64(m.held.payload))
	return binary.LittleEndian.AppendUint64(b, uint64(m.held.covered))
}

func (m mergeSection) append(b []byte) []byte {
	start := len(b)
	b = append(m.appendBody(b), m.digest[:]...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], block.Castagnoli))
}

func parseMergeSection(b []byte) (mergeSection, error) {
	var m mergeSection
	if len(b) != mergeSectionSize || string(b[:len(mergeHead)]) != mergeHead {
		return m, fmt.Errorf("merge section begins otherwise: %w", block.ErrMalformed)
	}
	if crc32.Checksum(b[:len(b)-4], block.Castagnoli) != binary.LittleEndian.Uint32(b[len(b)-4:]) {
		return m, fmt.Errorf("merge section: %w", block.ErrChecksum)
	}
	m.first = block.Seq(binary.LittleEndian.Uint64(b[4:]))
	m.held.frames = binary.LittleEndian.Uint64(b[12:])
	m.held.payload = block.Size(binary.LittleEndian.Uint64(b[20:]))
	m.held.covered = block.Size(binary.LittleEndian.Uint64(b[28:]))
	copy(m.digest[:], b[36:])
	return m, nil
}

// seal is the digest of the merged delta whose header and frames have gone through chain.
func (m mergeSection) seal(chain *block.Chain, s block.Seal) block.Digest {
	chain.Write(s.Append(nil))
	chain.Write(m.appendBody(nil))
	return chain.Sum()
}
