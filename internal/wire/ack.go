package wire

import (
	"errors"

	"github.com/understudy-dr/understudy/internal/block"
)

// Ack says that a sealed delta is durable at the target.
//
//	seq u64 | digest 32
type Ack struct {
	Seq    block.Seq
	Digest block.Digest // of the delta, as its seal has it
}

// Type is TypeAck.
func (*Ack) Type() Type { return TypeAck }

// Check holds the message against the limits.
func (m *Ack) Check() error {
	if m.Seq == 0 {
		return errors.New("an ack of no delta")
	}
	return nil
}

func (m *Ack) appendBody(b []byte) []byte { return append(appendU64(b, uint64(m.Seq)), m.Digest[:]...) }

func (m *Ack) parseBody(c *cursor) { m.Seq, m.Digest = block.Seq(c.u64()), c.digest() }
