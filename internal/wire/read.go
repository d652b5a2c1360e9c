package wire

import (
	"fmt"

	"github.com/understudy-dr/understudy/internal/block"
)

// Read asks for the content of a disk as of a recovery point: for a restore. ReadStart answers it, then frames come, in
// the order of the disk, which cover the range exactly, then ReadEnd; or an Error at any time.
//
//	disk string | point string | offset u64 | length u64
type Read struct {
	Disk  string      // selector, as in Query
	Point string      // selector, as in Query
	Range block.Range // empty: the whole disk
}

// Type is TypeRead.
func (*Read) Type() Type { return TypeRead }

// Check holds the message against the limits.
func (m *Read) Check() error {
	if !m.Range.In(block.MaxDiskSize) {
		return fmt.Errorf("a read of range %v", m.Range)
	}
	if err := checkText("disk selector", m.Disk, MaxSelector); err != nil {
		return err
	}
	return checkText("point selector", m.Point, MaxSelector)
}

func (m *Read) appendBody(b []byte) []byte {
	return appendExtent(appendText(appendText(b, m.Disk), m.Point), m.Range)
}

func (m *Read) parseBody(c *cursor) {
	m.Disk, m.Point, m.Range = c.text(MaxSelector), c.text(MaxSelector), c.extent()
}
