package wire

import (
	"fmt"

	"github.com/understudy-dr/understudy/internal/block"
)

// Progress says how far a Command is.
//
//	done u64 | total u64
type Progress struct {
	Done, Total block.Size // bytes; Total is 0 where it is not known yet
}

// Type is TypeProgress.
func (*Progress) Type() Type { return TypeProgress }

// Check holds the message against the limits.
func (m *Progress) Check() error {
	if m.Done < 0 || m.Total < 0 {
		return fmt.Errorf("%d of %d bytes", m.Done, m.Total)
	}
	return nil
}

func (m *Progress) appendBody(b []byte) []byte {
	return appendU64(appendU64(b, uint64(m.Done)), uint64(m.Total))
}

func (m *Progress) parseBody(c *cursor) { m.Done, m.Total = block.Size(c.u64()), block.Size(c.u64()) }
