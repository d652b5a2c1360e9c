package wire

import "github.com/understudy-dr/understudy/internal/block"

// ReadEnd ends the frames of a Read: without it, or when it disagrees with what came, the restore is not whole.
//
//	digest 32 | frames u64
type ReadEnd struct {
	Digest block.Digest // BLAKE3-256 over the frames as sent, headers and payloads
	Frames uint64       // how many there were
}

// Type is TypeReadEnd.
func (*ReadEnd) Type() Type { return TypeReadEnd }

// Check finds nothing wrong.
func (*ReadEnd) Check() error { return nil }

func (m *ReadEnd) appendBody(b []byte) []byte { return appendU64(append(b, m.Digest[:]...), m.Frames) }

func (m *ReadEnd) parseBody(c *cursor) { m.Digest, m.Frames = c.digest(), c.u64() }
