package wire

// Abort drops the open delta; the source begins anew on the same stream. It has no body.
type Abort struct{}

// Type is TypeAbort.
func (*Abort) Type() Type { return TypeAbort }

// Check finds nothing wrong.
func (*Abort) Check() error { return nil }

func (*Abort) appendBody(b []byte) []byte { return b }
func (*Abort) parseBody(*cursor)          {}
