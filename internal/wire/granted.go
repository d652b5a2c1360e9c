package wire

import "fmt"

// Granted answers Enroll and Renew.
//
//	certificate bytes | count u8 | count times: CA bytes
type Granted struct {
	Certificate []byte   // of the host, in DER
	CAs         [][]byte // in DER: after Enroll, all that the host is to trust; after Renew none, for trust does not change by itself
}

// Type is TypeGranted.
func (*Granted) Type() Type { return TypeGranted }

// Check holds the message against the limits.
func (m *Granted) Check() error {
	if len(m.CAs) > MaxCAs {
		return fmt.Errorf("%d CAs, at most %d are trusted at once", len(m.CAs), MaxCAs)
	}
	for _, ca := range m.CAs {
		if err := checkDER("CA", ca); err != nil {
			return err
		}
	}
	return checkDER("certificate", m.Certificate)
}

func (m *Granted) appendBody(b []byte) []byte {
	b = append(appendBytes(b, m.Certificate), byte(len(m.CAs)))
	for _, ca := range m.CAs {
		b = appendBytes(b, ca)
	}
	return b
}

func (m *Granted) parseBody(c *cursor) {
	m.Certificate = c.bytes(MaxDER)
	n := int(c.u8())
	if n > MaxCAs {
		c.failed = true
	}
	for range n {
		if c.failed {
			return
		}
		m.CAs = append(m.CAs, c.bytes(MaxDER))
	}
}
