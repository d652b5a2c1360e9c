package volumetest

import "github.com/understudy-dr/understudy/internal/block"

// Op is what a Device is asked to do.
type Op string

// The operations that can fail.
const (
	OpRead  Op = "read"
	OpWrite Op = "write"
	OpZero  Op = "zero"
	OpSync  Op = "sync"
	OpGrow  Op = "grow"
)

// Failing is a Device that asks Fail before everything it does, and returns the error it gets instead of doing it. Fail may
// be called from several goroutines; it must not be changed while calls are under way.
type Failing struct {
	block.Device
	Fail func(op Op, r block.Range) error
}

// Unwrap is the Device behind it.
func (f *Failing) Unwrap() block.Device { return f.Device }

// ReadAt implements block.Device.
func (f *Failing) ReadAt(p []byte, off int64) (int, error) {
	if err := f.Fail(OpRead, block.Range{Off: block.Offset(off), Len: block.Size(len(p))}); err != nil {
		return 0, err
	}
	return f.Device.ReadAt(p, off)
}

// WriteAt implements block.Device.
func (f *Failing) WriteAt(p []byte, off int64) (int, error) {
	if err := f.Fail(OpWrite, block.Range{Off: block.Offset(off), Len: block.Size(len(p))}); err != nil {
		return 0, err
	}
	return f.Device.WriteAt(p, off)
}

// Zero implements block.Zeroer.
func (f *Failing) Zero(r block.Range) error {
	if err := f.Fail(OpZero, r); err != nil {
		return err
	}
	return block.ZeroRange(f.Device, r)
}

// Sync implements block.Device.
func (f *Failing) Sync() error {
	if err := f.Fail(OpSync, block.Range{}); err != nil {
		return err
	}
	return f.Device.Sync()
}

// Truncate grows the Device behind it, which must be able to.
func (f *Failing) Truncate(size block.Size) error {
	if err := f.Fail(OpGrow, block.Range{Len: size}); err != nil {
		return err
	}
	return f.Device.(interface{ Truncate(block.Size) error }).Truncate(size)
}
