package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Code is the exit status of a command. The numbers are an interface: scripts branch on them, so they never change.
type Code int

// The exit codes, the one table of them.
const (
	CodeOK          Code = 0   // done
	CodeFailure     Code = 1   // failed, in a way that has no code of its own
	CodeUsage       Code = 2   // wrong flag, argument or configuration: nothing was done
	CodeDifference  Code = 3   // the comparison was made, and the copy differs
	CodeNotFound    Code = 4   // no such disk, recovery point or file
	CodeRefused     Code = 5   // the other side does not allow it: certificate, role, generation
	CodeUnreachable Code = 6   // nobody answers at that address or socket
	CodeInUse       Code = 7   // another daemon serves this disk, directory or socket
	CodeDamaged     Code = 8   // data failed its checksum, and was not served
	CodeInterrupted Code = 130 // stopped by a signal, as shells count it
)

var codeTexts = []struct {
	code Code
	text string
}{
	{CodeOK, "done"},
	{CodeFailure, "failed"},
	{CodeUsage, "wrong flag, argument or configuration; nothing was done"},
	{CodeDifference, "the copy differs from the source"},
	{CodeNotFound, "no such disk, recovery point or file"},
	{CodeRefused, "refused by the other side (certificate, role, generation)"},
	{CodeUnreachable, "nobody answers at that address or socket"},
	{CodeInUse, "another daemon serves this disk, directory or socket"},
	{CodeDamaged, "data failed its checksum and was not served"},
	{CodeInterrupted, "stopped by a signal"},
}

// CodeTable prints the exit codes, a line each, for a command's help.
func CodeTable() string {
	var b strings.Builder
	for _, c := range codeTexts {
		fmt.Fprintf(&b, "  %3d  %s\n", c.code, c.text)
	}
	return b.String()
}

// ExitError gives an error its exit code.
type ExitError struct {
	Code Code
	Err  error
}

func (e *ExitError) Error() string { return e.Err.Error() }

// Unwrap is the error that was given a code.
func (e *ExitError) Unwrap() error { return e.Err }

// Exit gives err an exit code. A nil err stays nil.
func Exit(code Code, err error) error {
	if err == nil {
		return nil
	}
	return &ExitError{Code: code, Err: err}
}

// Exitf makes an error with an exit code; the format is that of fmt.Errorf.
func Exitf(code Code, format string, args ...any) error {
	return &ExitError{Code: code, Err: fmt.Errorf(format, args...)}
}

// ExitCode is the exit status for err: that of the outermost ExitError in it, or what the sentinels of this package and
// context.Canceled stand for, or CodeFailure. nil is CodeOK.
func ExitCode(err error) Code {
	if err == nil {
		return CodeOK
	}
	if e, ok := errors.AsType[*ExitError](err); ok {
		return e.Code
	}
	switch {
	case errors.Is(err, ErrInUse):
		return CodeInUse
	case errors.Is(err, ErrNoDaemon):
		return CodeUnreachable
	case errors.Is(err, context.Canceled):
		return CodeInterrupted
	}
	return CodeFailure
}
