package block

import "io"

// Geometry is what a device is like.
type Geometry struct {
	Size     Size
	Logical  BlockSize // smallest unit of a direct read or write
	ReadOnly bool
}

// Device is a disk, or what looks like one: the host's disk, a file, an export, a view of a recovery point, a clone.
//
// ReadAt and WriteAt may be called at the same time from many goroutines; both move the whole slice or return an error.
// A read past the end is io.EOF with what there was, a write past the end is ErrOutOfRange. Written data is durable once
// Sync has returned nil. Close fails calls that come after it; the caller sees to it that none is under way.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Geometry() Geometry
	Close() error
}

// Zeroer is a Device that can make a range read as zeroes for less than writing them.
type Zeroer interface {
	Zero(r Range) error
}

// Trimmer is a Device that can give a range back; what it reads as afterwards is undefined.
type Trimmer interface {
	Trim(r Range) error
}

// Extent is a range of a device that is all data or all hole. A hole reads as zeroes.
type Extent struct {
	Range
	Hole bool
}

// Extenter is a Device that knows its holes. Extents calls visit for neighbouring extents, in order, that cover r exactly,
// until visit returns false.
type Extenter interface {
	Extents(r Range, visit func(Extent) bool) error
}

// ZeroRange makes r read as zeroes on dev: by Zero if it can, else by writing them.
func ZeroRange(dev Device, r Range) error {
	if z, ok := dev.(Zeroer); ok {
		return z.Zero(r)
	}
	zeroes := AlignedBuffer(min(r.Len, MaxFrameData))
	for !r.Empty() {
		n := min(r.Len, Size(len(zeroes)))
		if _, err := dev.WriteAt(zeroes[:n], int64(r.Off)); err != nil {
			return err
		}
		r = Range{Off: r.Off + Offset(n), Len: r.Len - n}
	}
	return nil
}
