package wire

import (
	"errors"
	"fmt"
)

// Enroll is what a host without a certificate says in place of Hello, once it has seen that the listener's certificate is
// of the CA that its token names. Granted or Error answers it, and the connection ends.
//
//	token 8 | secret 24 | host string | program string | request bytes
type Enroll struct {
	Token   [TokenSize]byte  // which token
	Secret  [SecretSize]byte // that the host has it
	Host    string           // what the host goes by: the token is good for one name
	Program string           // name and version
	Request []byte           // a PKCS #10 request in DER: the public key, and proof of the private one
}

// Type is TypeEnroll.
func (*Enroll) Type() Type { return TypeEnroll }

// Check holds the message against the limits.
func (m *Enroll) Check() error {
	if m.Host == "" {
		return errors.New("no host")
	}
	if err := checkText("host", m.Host, MaxHost); err != nil {
		return err
	}
	if err := checkText("program", m.Program, MaxProgram); err != nil {
		return err
	}
	return checkDER("certificate request", m.Request)
}

func (m *Enroll) appendBody(b []byte) []byte {
	b = append(append(b, m.Token[:]...), m.Secret[:]...)
	return appendBytes(appendText(appendText(b, m.Host), m.Program), m.Request)
}

func (m *Enroll) parseBody(c *cursor) {
	copy(m.Token[:], c.take(TokenSize))
	copy(m.Secret[:], c.take(SecretSize))
	m.Host, m.Program, m.Request = c.text(MaxHost), c.text(MaxProgram), c.bytes(MaxDER)
}

// checkDER holds a certificate or a request against what it may measure. What it says, its reader finds out.
func checkDER(what string, der []byte) error {
	if len(der) == 0 || len(der) > MaxDER {
		return fmt.Errorf("a %s of %d bytes, 1 to %d are allowed", what, len(der), MaxDER)
	}
	return nil
}
