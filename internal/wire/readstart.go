package wire

import (
	"fmt"

	"github.com/understudy-dr/understudy/internal/block"
)

// ReadStart says which disk and point the frames that follow are of.
//
//	disk 16 | size u64 | the point's seal as block.Seal encodes it
type ReadStart struct {
	Disk block.DiskID
	Seal block.Seal
	Size block.Size // of the disk as of the point
}

// Type is TypeReadStart.
func (*ReadStart) Type() Type { return TypeReadStart }

// Check holds the message against the limits.
func (m *ReadStart) Check() error {
	if m.Size <= 0 || m.Size > block.MaxDiskSize {
		return fmt.Errorf("a disk of %d bytes", m.Size)
	}
	return m.Seal.Check()
}

func (m *ReadStart) appendBody(b []byte) []byte {
	return m.Seal.Append(appendU64(append(b, m.Disk[:]...), uint64(m.Size)))
}

func (m *ReadStart) parseBody(c *cursor) {
	m.Disk, m.Size = c.disk(), block.Size(c.u64())
	s, n, err := block.ParseSeal(c.b)
	if c.failed || err != nil {
		c.failed = true
		return
	}
	m.Seal, c.b = s, c.b[n:]
}
