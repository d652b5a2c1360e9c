package block

import (
	"fmt"
	"iter"
	"math/bits"
)

// Bitmap is a set of blocks, one bit each: block i is bit i%64 of word i/64. It is not safe for concurrent use.
// Bits past its length are always clear.
type Bitmap struct {
	words []uint64
	n     Count
}

// NewBitmap is an empty set over n blocks.
func NewBitmap(n Count) *Bitmap {
	return &Bitmap{words: make([]uint64, WordsFor(n)), n: n}
}

// BitmapOver is a set whose bits are those in words, which it uses and does not copy: memory that outlives the process, say.
// words must be WordsFor(n) long; bits past n are cleared.
func BitmapOver(words []uint64, n Count) *Bitmap {
	if len(words) != WordsFor(n) {
		panic(fmt.Sprintf("block: a bitmap of %d blocks over %d words", n, len(words)))
	}
	b := &Bitmap{words: words, n: n}
	b.trim()
	return b
}

// WordsFor is how many 64-bit words hold n blocks.
func WordsFor(n Count) int { return int((n + 63) / 64) }

// trim clears the bits past the length in the last word.
func (b *Bitmap) trim() {
	if tail := uint(b.n % 64); tail != 0 {
		b.words[len(b.words)-1] &= 1<<tail - 1
	}
}

// Len is the number of blocks the bitmap is over.
func (b *Bitmap) Len() Count { return b.n }

// Words is the memory itself, for whoever merges sets word by word.
func (b *Bitmap) Words() []uint64 { return b.words }

// Get tells whether block i is in the set.
func (b *Bitmap) Get(i Index) bool { return b.words[i/64]&(1<<uint(i%64)) != 0 }

// Set adds the blocks of r, which must lie within Len.
func (b *Bitmap) Set(r Run) {
	b.each(r, func(w int, mask uint64) { b.words[w] |= mask })
}

// Clear drops the blocks of r, which must lie within Len.
func (b *Bitmap) Clear(r Run) {
	b.each(r, func(w int, mask uint64) { b.words[w] &^= mask })
}

// SetAll adds every block.
func (b *Bitmap) SetAll() {
	for w := range b.words {
		b.words[w] = ^uint64(0)
	}
	b.trim()
}

// Reset drops every block.
func (b *Bitmap) Reset() { clear(b.words) }

// each calls f with the mask of r's bits in every word it touches.
func (b *Bitmap) each(r Run, f func(w int, mask uint64)) {
	if r.N <= 0 {
		return
	}
	if r.First < 0 || r.End() > Index(b.n) {
		panic(fmt.Sprintf("block: run %d+%d outside of a bitmap of %d", r.First, r.N, b.n))
	}
	first, last := int(r.First/64), int((r.End()-1)/64)
	for w := first; w <= last; w++ {
		mask := ^uint64(0)
		if w == first {
			mask &= ^uint64(0) << uint(r.First%64)
		}
		if w == last {
			mask &= ^uint64(0) >> uint(63-(r.End()-1)%64)
		}
		f(w, mask)
	}
}

// Count is how many blocks are in the set.
func (b *Bitmap) Count() Count {
	var n int
	for _, w := range b.words {
		n += bits.OnesCount64(w)
	}
	return Count(n)
}

// Runs are the maximal runs of blocks in the set, in ascending order. The set may be changed behind the run being visited.
func (b *Bitmap) Runs() iter.Seq[Run] { return RunsOf(b.n, func(w int) uint64 { return b.words[w] }) }

// RunsOf are the maximal runs of set bits among n, the words of which come from word, each asked for at least once and in
// ascending order: so a set computed from others (a and not b) is visited without being built.
func RunsOf(n Count, word func(w int) uint64) iter.Seq[Run] {
	return func(yield func(Run) bool) {
		start := Index(-1) // where the open run began
		for w := range WordsFor(n) {
			v, base := word(w), Index(w)*64
			if start < 0 && v == 0 || start >= 0 && v == ^uint64(0) {
				continue
			}
			for pos := 0; pos < 64; {
				if start < 0 {
					skip := bits.TrailingZeros64(v >> uint(pos))
					if pos += skip; pos >= 64 {
						break
					}
					start = base + Index(pos)
				}
				if pos += bits.TrailingZeros64(^(v >> uint(pos))); pos >= 64 {
					break // the run goes on in the next word
				}
				if !yield(Run{First: start, N: Count(base + Index(pos) - start)}) {
					return
				}
				start = -1
			}
		}
		if start >= 0 {
			yield(Run{First: start, N: n - Count(start)})
		}
	}
}
