package wire

import (
	"bytes"
	"encoding/binary"
	"time"
	"unicode/utf8"

	"github.com/understudy-dr/understudy/internal/block"
)

// cursor reads a body from its start. The first thing that doesn't fit makes it fail; it gives zeroes from then on.
type cursor struct {
	b      []byte
	failed bool
}

// take is the next n bytes.
func (c *cursor) take(n int) []byte {
	if c.failed || len(c.b) < n {
		c.failed = true
		return make([]byte, min(n, 64)) // n is a constant of ours whenever the bytes are read as a number
	}
	b := c.b[:n]
	c.b = c.b[n:]
	return b
}

func (c *cursor) u8() uint8   { return c.take(1)[0] }
func (c *cursor) u16() uint16 { return binary.LittleEndian.Uint16(c.take(2)) }
func (c *cursor) u32() uint32 { return binary.LittleEndian.Uint32(c.take(4)) }
func (c *cursor) u64() uint64 { return binary.LittleEndian.Uint64(c.take(8)) }

// boolean takes nothing but 0 and 1, so that a value has one encoding.
func (c *cursor) boolean() bool {
	v := c.u8()
	c.failed = c.failed || v > 1
	return v == 1
}

// text is a string of up to limit bytes.
func (c *cursor) text(limit int) string {
	n := int(c.u16())
	if n > limit {
		c.failed = true
	}
	s := c.take(n)
	if c.failed || !utf8.Valid(s) {
		c.failed = true
		return ""
	}
	return string(s)
}

// bytes are up to limit of them, a copy.
func (c *cursor) bytes(limit int) []byte {
	n := int(c.u16())
	if n > limit {
		c.failed = true
	}
	return bytes.Clone(c.take(n))
}

func (c *cursor) digest() (d block.Digest) { copy(d[:], c.take(len(d))); return d }
func (c *cursor) disk() (id block.DiskID)  { copy(id[:], c.take(len(id))); return id }
func (c *cursor) instant() time.Time       { return time.Unix(0, int64(c.u64())).UTC() }
func (c *cursor) extent() (r block.Range) {
	r.Off, r.Len = block.Offset(c.u64()), block.Size(c.u64())
	return r
}
func appendText(b []byte, s string) []byte    { return append(appendU16(b, uint16(len(s))), s...) }
func appendBytes(b, s []byte) []byte          { return append(appendU16(b, uint16(len(s))), s...) }
func appendU16(b []byte, v uint16) []byte     { return binary.LittleEndian.AppendUint16(b, v) }
func appendU32(b []byte, v uint32) []byte     { return binary.LittleEndian.AppendUint32(b, v) }
func appendU64(b []byte, v uint64) []byte     { return binary.LittleEndian.AppendUint64(b, v) }
func appendTime(b []byte, t time.Time) []byte { return appendU64(b, uint64(t.UnixNano())) }

func appendExtent(b []byte, r block.Range) []byte {
	return appendU64(appendU64(b, uint64(r.Off)), uint64(r.Len))
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}
