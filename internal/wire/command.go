package wire

import "fmt"

// CommandKind is what an operator wants done at the target.
type CommandKind uint8

// The kinds.
const (
	CommandPin     CommandKind = 1 // keep a recovery point whatever the policy says
	CommandUnpin   CommandKind = 2 // leave it to the policy again
	CommandPromote CommandKind = 3 // raise the disk's generation: its source is refused from now on
	CommandAudit   CommandKind = 4 // read every byte that is stored of the disk, and check it
	CommandAccept  CommandKind = 5 // take the disk from whichever machine of its host opens it next: the hardware was replaced
)

func (k CommandKind) String() string {
	switch k {
	case CommandPin:
		return "pin"
	case CommandUnpin:
		return "unpin"
	case CommandPromote:
		return "promote"
	case CommandAudit:
		return "audit"
	case CommandAccept:
		return "accept"
	}
	return fmt.Sprintf("command(%d)", uint8(k))
}

// Command asks for something to be done. Any number of Progress, then Reply or Error answer it.
//
//	kind u8 | disk string | point string
type Command struct {
	Kind  CommandKind // the target refuses one that it doesn't know
	Disk  string      // selector: an id, a device or HOST:DEVICE
	Point string      // selector: latest, #412 or an RFC 3339 time; empty where the kind takes none
}

// Type is TypeCommand.
func (*Command) Type() Type { return TypeCommand }

// Check holds the message against the limits.
func (m *Command) Check() error {
	if err := checkText("disk selector", m.Disk, MaxSelector); err != nil {
		return err
	}
	return checkText("point selector", m.Point, MaxSelector)
}

func (m *Command) appendBody(b []byte) []byte {
	return appendText(appendText(append(b, byte(m.Kind)), m.Disk), m.Point)
}

func (m *Command) parseBody(c *cursor) {
	m.Kind, m.Disk, m.Point = CommandKind(c.u8()), c.text(MaxSelector), c.text(MaxSelector)
}
