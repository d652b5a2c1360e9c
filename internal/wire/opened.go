package wire

import (
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
)

// Opened answers Open: what the target holds of the disk. Deltas that continue its tip may follow.
//
//	tip seq u64 | tip digest 32 | tip size u64 | point time | generation u32 | has point u8 (0 or 1)
type Opened struct {
	TipSeq     block.Seq // the newest sealed delta, 0: nothing yet
	TipDigest  block.Digest
	TipSize    block.Size // of the disk as of the tip
	PointTime  time.Time  // of the tip's seal, by the source's clock then: no later seal may have an earlier one
	Generation block.Generation
	HasPoint   bool // at least one recovery point exists
}

// Type is TypeOpened.
func (*Opened) Type() Type { return TypeOpened }

// Check holds the message against the limits.
func (m *Opened) Check() error {
	if m.TipSize < 0 || m.TipSize > block.MaxDiskSize {
		return fmt.Errorf("a disk of %d bytes", m.TipSize)
	}
	if m.TipSeq == 0 && (m.TipDigest != (block.Digest{}) || m.HasPoint) {
		return fmt.Errorf("a digest or a point without a delta")
	}
	return nil
}

func (m *Opened) appendBody(b []byte) []byte {
	b = append(appendU64(b, uint64(m.TipSeq)), m.TipDigest[:]...)
	b = appendTime(appendU64(b, uint64(m.TipSize)), m.PointTime)
	return appendBool(appendU32(b, uint32(m.Generation)), m.HasPoint)
}

func (m *Opened) parseBody(c *cursor) {
	m.TipSeq, m.TipDigest = block.Seq(c.u64()), c.digest()
	m.TipSize, m.PointTime = block.Size(c.u64()), c.instant()
	m.Generation, m.HasPoint = block.Generation(c.u32()), c.boolean()
}
