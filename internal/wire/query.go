package wire

import "fmt"

// QueryKind is what an operator wants to know.
type QueryKind uint8

// The kinds.
const (
	QueryStatus QueryKind = 1 // every disk of the target and how it stands
	QueryPoints QueryKind = 3 // the recovery points of one disk
)

func (k QueryKind) String() string {
	switch k {
	case QueryStatus:
		return "status"
	case QueryPoints:
		return "points"
	}
	return fmt.Sprintf("query(%d)", uint8(k))
}

// Query asks a question. Reply or Error answers it.
//
//	kind u8 | disk string | point string
type Query struct {
	Kind  QueryKind // the target refuses one that it doesn't know
	Disk  string    // selector: an id, a device or HOST:DEVICE; empty for all
	Point string    // selector: latest, #412 or an RFC 3339 time; empty for all
}

// Type is TypeQuery.
func (*Query) Type() Type { return TypeQuery }

// Check holds the message against the limits.
func (m *Query) Check() error {
	if err := checkText("disk selector", m.Disk, MaxSelector); err != nil {
		return err
	}
	return checkText("point selector", m.Point, MaxSelector)
}

func (m *Query) appendBody(b []byte) []byte {
	return appendText(appendText(append(b, byte(m.Kind)), m.Disk), m.Point)
}

func (m *Query) parseBody(c *cursor) {
	m.Kind, m.Disk, m.Point = QueryKind(c.u8()), c.text(MaxSelector), c.text(MaxSelector)
}
