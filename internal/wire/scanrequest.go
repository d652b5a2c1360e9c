package wire

import (
	"fmt"

	"github.com/understudy-dr/understudy/internal/block"
)

// ScanRequest asks for the digests of a range in chunks. Several may be on their way; replies come in the order of the
// requests. The last chunk ends with the range and may be shorter.
//
//	disk 16 | seq u64 | offset u64 | length u64 | chunk u64
type ScanRequest struct {
	Disk  block.DiskID
	Seq   block.Seq // the delta as of which to answer; 0: the newest, whichever that is
	Range block.Range
	Chunk block.Size
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
	return nil
}

// Chunks is how many digests the reply holds.
func (m *ScanRequest) Chunks() int64 { return int64((m.Range.Len-1)/m.Chunk) + 1 }

func (m *ScanRequest) appendBody(b []byte) []byte {
	b = appendU64(append(b, m.Disk[:]...), uint64(m.Seq))
	return appendU64(appendExtent(b, m.Range), uint64(m.Chunk))
}

func (m *ScanRequest) parseBody(c *cursor) {
	m.Disk, m.Seq, m.Range, m.Chunk = c.disk(), block.Seq(c.u64()), c.extent(), block.Size(c.u64())
}
