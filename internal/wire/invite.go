package wire

import (
	"errors"
	"fmt"
	"time"
)

// Invite asks for a token with which a host enrolls. Reply answers it.
//
//	host string | ttl i64 (ns) | receiver string
type Invite struct {
	Host string
	TTL  time.Duration // for how long the token is good
	// Receiver is where the host is to enroll, as HOST:PORT, to be put into the token; empty: it is told otherwise.
	Receiver string
}

// Type is TypeInvite.
func (*Invite) Type() Type { return TypeInvite }

// Check holds the message against the limits.
func (m *Invite) Check() error {
	if m.Host == "" {
		return errors.New("no host")
	}
	if m.TTL <= 0 || m.TTL > MaxTokenTTL {
		return fmt.Errorf("a token good for %v, up to %v is allowed", m.TTL, MaxTokenTTL)
	}
	if err := checkText("host", m.Host, MaxHost); err != nil {
		return err
	}
	return checkText("receiver", m.Receiver, MaxAddress)
}

func (m *Invite) appendBody(b []byte) []byte {
	return appendText(appendU64(appendText(b, m.Host), uint64(m.TTL)), m.Receiver)
}

func (m *Invite) parseBody(c *cursor) {
	m.Host, m.TTL, m.Receiver = c.text(MaxHost), time.Duration(c.u64()), c.text(MaxAddress)
}
