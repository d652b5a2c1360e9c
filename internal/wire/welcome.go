package wire

import (
	"errors"
	"time"
)

// Welcome answers a Hello: the session is open. Refusal is an Error instead.
//
//	version u16 | host string | program string | time i64
type Welcome struct {
	Version uint16 // what both ends speak from here on
	Host    string
	Program string
	Time    time.Time // by the sender's clock, UTC
}

// Type is TypeWelcome.
func (*Welcome) Type() Type { return TypeWelcome }

// Check holds the message against the limits.
func (m *Welcome) Check() error {
	if m.Version == 0 {
		return errors.New("version 0")
	}
	if err := checkText("host", m.Host, MaxHost); err != nil {
		return err
	}
	return checkText("program", m.Program, MaxProgram)
}

func (m *Welcome) appendBody(b []byte) []byte {
	return appendTime(appendText(appendText(appendU16(b, m.Version), m.Host), m.Program), m.Time)
}

func (m *Welcome) parseBody(c *cursor) {
	m.Version, m.Host, m.Program, m.Time = c.u16(), c.text(MaxHost), c.text(MaxProgram), c.instant()
}
