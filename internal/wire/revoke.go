package wire

import "errors"

// Revoke takes certificates back: all that were issued for a name, or the one of a serial number. Reply answers it.
//
//	name string | serial string
type Revoke struct {
	Name   string // of a host or an operator; empty: by serial
	Serial string // in hexadecimal; empty: by name
}

// Type is TypeRevoke.
func (*Revoke) Type() Type { return TypeRevoke }

// Check holds the message against the limits.
func (m *Revoke) Check() error {
	if (m.Name == "") == (m.Serial == "") {
		return errors.New("a name or a serial number, one of the two")
	}
	if err := checkText("serial number", m.Serial, MaxSerial); err != nil {
		return err
	}
	return checkText("name", m.Name, MaxHost)
}

func (m *Revoke) appendBody(b []byte) []byte { return appendText(appendText(b, m.Name), m.Serial) }

func (m *Revoke) parseBody(c *cursor) { m.Name, m.Serial = c.text(MaxHost), c.text(MaxSerial) }
