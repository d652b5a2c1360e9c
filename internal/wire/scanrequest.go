package wire

import (
	"fmt"

	"github.com/understudy-dr/understudy/internal/block"
)

// ScanRequest asks for the digests of a range in chunks. Several may be on their way; replies come in the order of the
// requests. The last chunk ends with the range and may be shorter.
//
// With a group above 1 each digest of the reply is one over the digests of so many chunks: ranges that are equal then cost
// next to nothing on the line. The last group may be smaller.
//
//	disk 16 | seq u64 | offset u64 | length u64 | chunk u64 | group u32
type ScanRequest struct {
	Disk  block.DiskID
	Seq   block.Seq // the delta as of which to answer; 0: the newest, whichever that is
	Range block.Range
	Chunk block.Size
	Group uint32 // chunks for each digest of the reply, 1 or more
}

// Type is TypeScanRequest.
func (*ScanRequest) Type() Type { return TypeScanRequest }

// Check holds the message against the limits.
func (m *ScanRequest) Check() error {
	if m.Range.Empty() || !m.Range.In(block.MaxDiskSize) {
		return fmt.Errorf("a scan of range %v", m.Range)
	}
	if m.Chunk < MinScanChunk || m.Chunk > MaxScanChunk {
		return fmt.Errorf("chunks of %d bytes, %d to %d are allowed", m.Chunk, MinScanChunk, MaxScanChunk)
	}
	if n := m.Chunks(); n > MaxScanDigests {
		return fmt.Errorf("%d chunks at once, at most %d are allowed", n, MaxScanDigests)
	}
	if m.Group == 0 || m.Group > MaxScanDigests {
		return fmt.Errorf("groups of %d chunks, 1 to %d are allowed", m.Group, MaxScanDigests)
	}
	return nil
}

// Chunks is how many chunks the range has.
func (m *ScanRequest) Chunks() int64 { return int64((m.Range.Len-1)/m.Chunk) + 1 }

// Digests is how many digests the reply holds.
func (m *ScanRequest) Digests() int64 { return (m.Chunks()-1)/int64(m.Group) + 1 }

func (m *ScanRequest) appendBody(b []byte) []byte {
	b = appendU64(append(b, m.Disk[:]...), uint64(m.Seq))
	return appendU32(appendU64(appendExtent(b, m.Range), uint64(m.Chunk)), m.Group)
}

func (m *ScanRequest) parseBody(c *cursor) {
	m.Disk, m.Seq, m.Range, m.Chunk, m.Group = c.disk(), block.Seq(c.u64()), c.extent(), block.Size(c.u64()), c.u32()
}
