package wire

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Code says what kind of refusal or failure an Error is.
type Code uint16

// The codes. A code never changes its meaning and is never used again for another.
const (
	CodeInternal    Code = 1
	CodeProtocol    Code = 2
	CodeVersion     Code = 3
	CodeForbidden   Code = 4
	CodeCertificate Code = 5
	CodeClock       Code = 6
	CodeShutdown    Code = 7
	CodeUnknownDisk Code = 8
	CodeBusy        Code = 9
	CodeFenced      Code = 10
	CodeTip         Code = 11
	CodeNoPoint     Code = 12
	CodeNoSpace     Code = 13
	CodeCorrupt     Code = 14
	CodeToken       Code = 15
	CodeNoSigner    Code = 16
)

// What callers branch on: an Error satisfies errors.Is with the sentinel of its code, on both sides of the wire.
var (
	ErrInternal    = errors.New("internal error at the peer")
	ErrProtocol    = errors.New("protocol violated")
	ErrVersion     = errors.New("no common version of the protocol")
	ErrForbidden   = errors.New("not allowed")
	ErrCertificate = errors.New("certificate refused")
	ErrClock       = errors.New("clocks disagree")
	ErrShutdown    = errors.New("peer is shutting down")
	ErrUnknownDisk = errors.New("unknown disk")
	ErrBusy        = errors.New("disk is in use by another source")
	ErrFenced      = errors.New("fenced: the disk was promoted elsewhere")
	ErrTip         = errors.New("the target's tip is not what the source builds on")
	ErrNoPoint     = errors.New("no such recovery point")
	ErrNoSpace     = errors.New("no space left at the target")
	ErrCorrupt     = errors.New("stored data is damaged")
	ErrToken       = errors.New("token refused")
	ErrNoSigner    = errors.New("this receiver signs no certificates")
)

// codeInfo gives a code's word and sentinel.
func codeInfo(c Code) (string, error) {
	switch c {
	case CodeInternal:
		return "internal", ErrInternal
	case CodeProtocol:
		return "protocol", ErrProtocol
	case CodeVersion:
		return "version", ErrVersion
	case CodeForbidden:
		return "forbidden", ErrForbidden
	case CodeCertificate:
		return "certificate", ErrCertificate
	case CodeClock:
		return "clock", ErrClock
	case CodeShutdown:
		return "shutdown", ErrShutdown
	case CodeUnknownDisk:
		return "unknown-disk", ErrUnknownDisk
	case CodeBusy:
		return "busy", ErrBusy
	case CodeFenced:
		return "fenced", ErrFenced
	case CodeTip:
		return "tip", ErrTip
	case CodeNoPoint:
		return "no-point", ErrNoPoint
	case CodeNoSpace:
		return "no-space", ErrNoSpace
	case CodeCorrupt:
		return "corrupt", ErrCorrupt
	case CodeToken:
		return "token", ErrToken
	case CodeNoSigner:
		return "no-signer", ErrNoSigner
	}
	return fmt.Sprintf("code-%d", uint16(c)), nil
}

func (c Code) String() string { name, _ := codeInfo(c); return name }

// Error is a message that says why a request, a stream or a session ends. It is an error of Go on both sides.
//
//	code u16 | text string
type Error struct {
	Code Code   // one this end doesn't know comes from a later version
	Text string // one line for people, with the way out
	err  error  // what Errorf was given, on the side that made it
}

// Errorf makes an Error; format and args are those of fmt.Errorf, %w included. What is too long is cut.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Text: cut(strings.ToValidUTF8(err.Error(), "?"), MaxErrorText), err: err}
}

// cut shortens s to at most n bytes without parting a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Error is the text, on one line and without control characters: it may come from a peer and go to a terminal.
func (m *Error) Error() string {
	if m.Text == "" {
		if _, sentinel := codeInfo(m.Code); sentinel != nil {
			return sentinel.Error()
		}
		return m.Code.String()
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, m.Text)
}

// Is makes errors.Is find the sentinel of the code.
func (m *Error) Is(target error) bool {
	_, sentinel := codeInfo(m.Code)
	return sentinel != nil && target == sentinel
}

// Unwrap gives what Errorf was given, nil on an Error that came over the wire.
func (m *Error) Unwrap() error { return m.err }

// Type is TypeError.
func (*Error) Type() Type { return TypeError }

// Check holds the message against the limits.
func (m *Error) Check() error { return checkText("error text", m.Text, MaxErrorText) }

func (m *Error) appendBody(b []byte) []byte { return appendText(appendU16(b, uint16(m.Code)), m.Text) }

func (m *Error) parseBody(c *cursor) { m.Code, m.Text = Code(c.u16()), c.text(MaxErrorText) }
