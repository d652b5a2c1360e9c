package block

import (
	"errors"
	"fmt"
)

// What callers branch on. Each is wrapped with what was being done to which thing.
var (
	ErrOutOfRange = errors.New("outside of the device")
	ErrReadOnly   = errors.New("device is read-only")
	ErrClosed     = errors.New("device is closed")
	ErrMalformed  = errors.New("malformed")            // bytes that no encoder of ours wrote
	ErrVersion    = errors.New("newer format version") // written by a later release
	ErrChecksum   = errors.New("checksum differs")
)

// CorruptionError says where stored bytes are not what was written there.
type CorruptionError struct {
	File string // path, or a name for what is not a file
	Off  Offset // of the first byte of the unit (header, frame, seal) that is damaged
	Seq  Seq    // of the delta, 0 if that is not known
	Err  error  // what is wrong; often wraps ErrChecksum or ErrMalformed
}

func (e *CorruptionError) Error() string {
	if e.Seq == 0 {
		return fmt.Sprintf("%s: damaged at offset %d: %v", e.File, int64(e.Off), e.Err)
	}
	return fmt.Sprintf("%s: delta %v damaged at offset %d: %v", e.File, e.Seq, int64(e.Off), e.Err)
}

// Unwrap gives the reason.
func (e *CorruptionError) Unwrap() error { return e.Err }
