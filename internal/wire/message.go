package wire

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"

	"github.com/understudy-dr/understudy/internal/block"
)

// Type is a message's first byte.
type Type uint8

// The types.
const (
	TypeHello       Type = 0x80
	TypeWelcome     Type = 0x81
	TypeError       Type = 0x82
	TypeEnd         Type = 0x83
	TypeOpen        Type = 0x90
	TypeOpened      Type = 0x91
	TypeAck         Type = 0x92
	TypeAbort       Type = 0x93
	TypeScanRequest Type = 0xa0
	TypeScanReply   Type = 0xa1
	TypeQuery       Type = 0xb0
	TypeReply       Type = 0xb1
	TypeCommand     Type = 0xb2
	TypeProgress    Type = 0xb3
	TypeRead        Type = 0xc0
	TypeReadStart   Type = 0xc1
	TypeReadEnd     Type = 0xc2
	TypeEnroll      Type = 0xd0
	TypeRenew       Type = 0xd1
	TypeGranted     Type = 0xd2
	TypeInvite      Type = 0xd3
	TypeRevoke      Type = 0xd4
)

// Message is one of the messages of this package, always by pointer.
type Message interface {
	// Type is the message's first byte.
	Type() Type
	// Check says which limit or rule of the protocol the message breaks.
	Check() error
	appendBody(b []byte) []byte
	parseBody(c *cursor)
}

// kind is what is known of a type without its bytes.
type kind struct {
	name     string
	min, max int  // of the body, in bytes
	open     bool // the body may go on after what this version knows
	make     func() Message
}

// kindOf is the table of the types.
func kindOf(t Type) (kind, bool) {
	switch t {
	case TypeHello:
		return kind{"hello", 0, maxHelloBody, true, func() Message { return new(Hello) }}, true
	case TypeWelcome:
		return kind{"welcome", 0, maxWelcomeBody, true, func() Message { return new(Welcome) }}, true
	case TypeError:
		return kind{"error", 0, maxErrorBody, true, func() Message { return new(Error) }}, true
	case TypeEnd:
		return kind{"end", 0, 0, false, func() Message { return new(End) }}, true
	case TypeOpen:
		return kind{"open", 0, maxOpenBody, false, func() Message { return new(Open) }}, true
	case TypeOpened:
		return kind{"opened", openedBody, openedBody, false, func() Message { return new(Opened) }}, true
	case TypeAck:
		return kind{"ack", ackBody, ackBody, false, func() Message { return new(Ack) }}, true
	case TypeAbort:
		return kind{"abort", 0, 0, false, func() Message { return new(Abort) }}, true
	case TypeScanRequest:
		return kind{"scan request", scanRequestBody, scanRequestBody, false, func() Message { return new(ScanRequest) }}, true
	case TypeScanReply:
		return kind{"scan reply", scanReplyFixed, maxScanReplyBody, false, func() Message { return new(ScanReply) }}, true
	case TypeQuery:
		return kind{"query", 0, maxQueryBody, false, func() Message { return new(Query) }}, true
	case TypeReply:
		return kind{"reply", 0, MaxDocument, false, func() Message { return new(Reply) }}, true
	case TypeCommand:
		return kind{"command", 0, maxCommandBody, false, func() Message { return new(Command) }}, true
	case TypeProgress:
		return kind{"progress", progressBody, progressBody, false, func() Message { return new(Progress) }}, true
	case TypeRead:
		return kind{"read", 0, maxReadBody, false, func() Message { return new(Read) }}, true
	case TypeReadStart:
		return kind{"read start", 0, maxReadStartBody, false, func() Message { return new(ReadStart) }}, true
	case TypeReadEnd:
		return kind{"read end", readEndBody, readEndBody, false, func() Message { return new(ReadEnd) }}, true
	case TypeEnroll:
		return kind{"enroll", 0, maxEnrollBody, false, func() Message { return new(Enroll) }}, true
	case TypeRenew:
		return kind{"renew", 0, maxRenewBody, false, func() Message { return new(Renew) }}, true
	case TypeGranted:
		return kind{"granted", 0, maxGrantedBody, false, func() Message { return new(Granted) }}, true
	case TypeInvite:
		return kind{"invite", 0, maxInviteBody, false, func() Message { return new(Invite) }}, true
	case TypeRevoke:
		return kind{"revoke", 0, maxRevokeBody, false, func() Message { return new(Revoke) }}, true
	}
	return kind{}, false
}

func (t Type) String() string {
	if k, ok := kindOf(t); ok {
		return k.name
	}
	return fmt.Sprintf("type(%#x)", uint8(t))
}

// Append adds the whole message, head and body, to b. It fails when the message breaks its own Check.
func Append(b []byte, m Message) ([]byte, error) {
	if err := m.Check(); err != nil {
		return b, fmt.Errorf("encode %v: %w", m.Type(), err)
	}
	start := len(b)
	b = append(b, byte(m.Type()), 0, 0, 0, 0, 0, 0, 0)
	b = m.appendBody(b)
	binary.LittleEndian.PutUint32(b[start+4:], uint32(len(b)-start-HeadSize))
	return b, nil
}

// ParseHead reads a message's head and tells the length of the body, which is within the limit of the type.
func ParseHead(b []byte) (Type, int, error) {
	if len(b) < HeadSize {
		return 0, 0, Errorf(CodeProtocol, "a message's head of %d bytes", len(b))
	}
	t := Type(b[0])
	k, ok := kindOf(t)
	if !ok {
		return 0, 0, Errorf(CodeProtocol, "unknown message %v", t)
	}
	if b[1] != 0 || b[2] != 0 || b[3] != 0 {
		return 0, 0, Errorf(CodeProtocol, "%v with unknown flags", t)
	}
	n := binary.LittleEndian.Uint32(b[4:])
	if n < uint32(k.min) || n > uint32(k.max) {
		return 0, 0, Errorf(CodeProtocol, "%v with a body of %d bytes, %d to %d are allowed", t, n, k.min, k.max)
	}
	return t, int(n), nil
}

// Parse reads one message from the start of b and tells how many bytes it took. The message shares no memory with b.
// Every error satisfies errors.Is(err, ErrProtocol).
func Parse(b []byte) (Message, int, error) {
	t, n, err := ParseHead(b)
	if err != nil {
		return nil, 0, err
	}
	if len(b) < HeadSize+n {
		return nil, 0, Errorf(CodeProtocol, "%v cut short: %d of %d bytes", t, len(b), HeadSize+n)
	}
	k, _ := kindOf(t)
	m := k.make()
	c := &cursor{b: b[HeadSize : HeadSize+n]}
	m.parseBody(c)
	if c.failed || len(c.b) > 0 && !k.open {
		return nil, 0, Errorf(CodeProtocol, "malformed %v", t)
	}
	if err := m.Check(); err != nil {
		return nil, 0, Errorf(CodeProtocol, "%v: %w", t, err)
	}
	return m, HeadSize + n, nil
}

// checkText holds a string against its limit.
func checkText(what, s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("%s of %d bytes, at most %d fit", what, len(s), limit)
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("%s %.40q is not UTF-8", what, s)
	}
	return nil
}

// Unit is a kind of thing on a stream.
type Unit uint8

// The units.
const (
	UnitUnknown Unit = iota
	UnitMessage
	UnitHeader // of a delta
	UnitFrame
	UnitSeal
)

// messageBit is what the first byte of every message has and of no other unit.
const (
	messageBit = 0x80

	_ uint = messageBit - 1 - max('U', block.SealKind, uint(block.FrameData), uint(block.FrameZero))
)

// UnitOf tells from a unit's first byte what it is.
func UnitOf(first byte) Unit {
	switch {
	case first&messageBit != 0:
		return UnitMessage
	case first == block.DeltaMagic[0]:
		return UnitHeader
	case first == block.SealKind:
		return UnitSeal
	case first == byte(block.FrameData) || first == byte(block.FrameZero):
		return UnitFrame
	}
	return UnitUnknown
}
