package block

import "fmt"

// Range is a run of bytes on a device: [Off, Off+Len). A Range with Len 0 is empty wherever it is.
type Range struct {
	Off Offset
	Len Size
}

// End is the first byte after the range.
func (r Range) End() Offset { return r.Off + Offset(r.Len) }

// Empty tells whether the range holds no byte.
func (r Range) Empty() bool { return r.Len <= 0 }

// In tells whether the range lies wholly on a device of the given size. It can't be fooled by overflow.
func (r Range) In(size Size) bool {
	return r.Off >= 0 && r.Len >= 0 && Size(r.Off) <= size && r.Len <= size-Size(r.Off)
}

// Intersect is the part that both ranges share; it is empty when they share none.
func (r Range) Intersect(o Range) Range {
	start, end := max(r.Off, o.Off), min(r.End(), o.End())
	if end <= start {
		return Range{Off: start}
	}
	return Range{Off: start, Len: Size(end - start)}
}

func (r Range) String() string { return fmt.Sprintf("[%d, +%d)", int64(r.Off), int64(r.Len)) }

// Run is a run of blocks: [First, First+N).
type Run struct {
	First Index
	N     Count
}

// End is the first block after the run.
func (r Run) End() Index { return r.First + Index(r.N) }

// Range is the run in bytes, cut at the end of a device of the given size.
func (r Run) Range(b BlockSize, size Size) Range {
	start, end := b.At(r.First), min(b.At(r.End()), Offset(size))
	return Range{Off: start, Len: Size(max(end-start, 0))}
}

// Covering is the smallest run of blocks that holds the range.
func (r Range) Covering(b BlockSize) Run {
	if r.Empty() {
		return Run{First: b.Of(r.Off)}
	}
	first := b.Of(r.Off)
	return Run{First: first, N: Count(b.Of(r.End()-1) - first + 1)}
}
