package wire

import (
	"fmt"
	"time"
)

// Hello is the first message of the end that dials.
//
//	min version u16 | max version u16 | role u8 | host string | program string | time i64 (ns since 1970, UTC)
type Hello struct {
	MinVersion, MaxVersion uint16
	Role                   Role
	Host                   string    // what the host calls itself; who it is, its certificate says
	Program                string    // name and version
	Time                   time.Time // by the sender's clock, UTC
}

// Type is TypeHello.
func (*Hello) Type() Type { return TypeHello }

// Check holds the message against the limits.
func (m *Hello) Check() error {
	if m.MinVersion == 0 || m.MaxVersion < m.MinVersion {
		return fmt.Errorf("versions %d to %d", m.MinVersion, m.MaxVersion)
	}
	if err := checkText("host", m.Host, MaxHost); err != nil {
		return err
	}
	return checkText("program", m.Program, MaxProgram)
}

func (m *Hello) appendBody(b []byte) []byte {
	b = append(appendU16(appendU16(b, m.MinVersion), m.MaxVersion), byte(m.Role))
	return appendTime(appendText(appendText(b, m.Host), m.Program), m.Time)
}

func (m *Hello) parseBody(c *cursor) {
	m.MinVersion, m.MaxVersion, m.Role = c.u16(), c.u16(), Role(c.u8())
	m.Host, m.Program, m.Time = c.text(MaxHost), c.text(MaxProgram), c.instant()
}

// Agree picks the version to speak with an end that sent m: the newest both know. It fails with ErrVersion and says which
// end is too old.
func (m *Hello) Agree(minVersion, maxVersion uint16) (uint16, error) {
	switch {
	case m.MaxVersion < minVersion:
		return 0, Errorf(CodeVersion, "%s is too old: it speaks up to version %d of the protocol, this end %d at least: upgrade %s",
			m.who(), m.MaxVersion, minVersion, m.who())
	case m.MinVersion > maxVersion:
		return 0, Errorf(CodeVersion, "this end is too old for %s: it speaks up to version %d of the protocol, %d at least is asked: upgrade this end",
			m.who(), maxVersion, m.MinVersion)
	}
	return min(m.MaxVersion, maxVersion), nil
}

func (m *Hello) who() string {
	if m.Program == "" {
		return m.Host
	}
	return fmt.Sprintf("%s (%s)", m.Host, m.Program)
}
