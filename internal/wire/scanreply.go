package wire

import (
	"fmt"

	"github.com/understudy-dr/understudy/internal/block"
)

// ScanReply answers a ScanRequest.
//
//	seq u64 | offset u64 | length u64 | count u32 | digests, 32 each
type ScanReply struct {
	Seq     block.Seq   // the delta as of which these are
	Range   block.Range // as asked
	Digests []block.Digest
}

// Type is TypeScanReply.
func (*ScanReply) Type() Type { return TypeScanReply }

// Check holds the message against the limits.
func (m *ScanReply) Check() error {
	if m.Range.Empty() || !m.Range.In(block.MaxDiskSize) {
		return fmt.Errorf("a scan of range %v", m.Range)
	}
	if len(m.Digests) == 0 || len(m.Digests) > MaxScanDigests {
		return fmt.Errorf("%d digests, 1 to %d are allowed", len(m.Digests), MaxScanDigests)
	}
	return nil
}

func (m *ScanReply) appendBody(b []byte) []byte {
	b = appendU32(appendExtent(appendU64(b, uint64(m.Seq)), m.Range), uint32(len(m.Digests)))
	for i := range m.Digests {
		b = append(b, m.Digests[i][:]...)
	}
	return b
}

func (m *ScanReply) parseBody(c *cursor) {
	m.Seq, m.Range = block.Seq(c.u64()), c.extent()
	n := c.u32()
	if c.failed || n > MaxScanDigests || int(n)*len(block.Digest{}) != len(c.b) {
		c.failed = true
		return
	}
	m.Digests = make([]block.Digest, n)
	for i := range m.Digests {
		m.Digests[i] = c.digest()
	}
}
