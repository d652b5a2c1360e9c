package wire

// End says that the sender will send nothing more on this stream, but goes on receiving. It has no body.
type End struct{}

// Type is TypeEnd.
func (*End) Type() Type { return TypeEnd }

// Check finds nothing wrong.
func (*End) Check() error { return nil }

func (*End) appendBody(b []byte) []byte { return b }
func (*End) parseBody(*cursor)          {}
