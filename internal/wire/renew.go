package wire

// Renew asks for a certificate of the same name and roles as the one that the session was made with. Granted or Error
// answers it.
//
//	request bytes
type Renew struct {
	Request []byte // a PKCS #10 request in DER: the public key, and proof of the private one
}

// Type is TypeRenew.
func (*Renew) Type() Type { return TypeRenew }

// Check holds the message against the limits.
func (m *Renew) Check() error { return checkDER("certificate request", m.Request) }

func (m *Renew) appendBody(b []byte) []byte { return appendBytes(b, m.Request) }

func (m *Renew) parseBody(c *cursor) { m.Request = c.bytes(MaxDER) }
