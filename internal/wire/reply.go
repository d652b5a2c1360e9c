package wire

import (
	"bytes"
	"fmt"
)

// Reply answers a Query. The body is the document.
type Reply struct {
	Document []byte // JSON
}

// Type is TypeReply.
func (*Reply) Type() Type { return TypeReply }

// Check holds the message against the limits. Whether the document is JSON, its reader finds out.
func (m *Reply) Check() error {
	if len(m.Document) > MaxDocument {
		return fmt.Errorf("a document of %d bytes, at most %d fit: ask for less", len(m.Document), MaxDocument)
	}
	return nil
}

func (m *Reply) appendBody(b []byte) []byte { return append(b, m.Document...) }

func (m *Reply) parseBody(c *cursor) { m.Document = bytes.Clone(c.take(len(c.b))) }
