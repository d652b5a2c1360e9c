package receiver

import (
	"testing"

	"github.com/understudy-dr/understudy/internal/block"
)

// TestDigestsOfAPart: what was hashed for the groups answers a request for chunks only where it is the same: of the same
// delta, in the same chunks, and whole ones.
func TestDigestsOfAPart(t *testing.T) {
	const chunk = 64 * block.KiB
	h := hashed{seq: 7, rng: block.Range{Off: 1 << 20, Len: 10*chunk + 512}, chunk: chunk, chunks: make([]block.Digest, 11)}
	for i := range h.chunks {
		h.chunks[i] = block.Digest{byte(i)}
	}
	at := func(n int) block.Offset { return 1<<20 + block.Offset(n)*block.Offset(chunk) }
	for name, c := range map[string]struct {
		seq         block.Seq
		rng         block.Range
		chunk       block.Size
		first, many int
	}{
		"all":                {7, h.rng, chunk, 0, 11},
		"the first":          {7, block.Range{Off: at(0), Len: chunk}, chunk, 0, 1},
		"in the middle":      {7, block.Range{Off: at(3), Len: 4 * chunk}, chunk, 3, 4},
		"the last, shorter":  {7, block.Range{Off: at(10), Len: 512}, chunk, 10, 1},
		"two at the end":     {7, block.Range{Off: at(9), Len: chunk + 512}, chunk, 9, 2},
		"a later delta":      {8, h.rng, chunk, 0, 0},
		"other chunks":       {7, h.rng, chunk / 2, 0, 0},
		"between two chunks": {7, block.Range{Off: at(3) + 512, Len: chunk}, chunk, 0, 0},
		"a part of a chunk":  {7, block.Range{Off: at(3), Len: chunk / 2}, chunk, 0, 0},
		"past the end":       {7, block.Range{Off: at(10), Len: chunk}, chunk, 0, 0},
		"before the start":   {7, block.Range{Off: at(-1), Len: chunk}, chunk, 0, 0},
	} {
		got := h.part(c.seq, c.rng, c.chunk)
		if len(got) != c.many || c.many > 0 && got[0] != h.chunks[c.first] {
			t.Errorf("%s: %d digests", name, len(got))
		}
	}
	if (hashed{}).part(0, block.Range{Len: chunk}, chunk) != nil {
		t.Error("digests out of nothing")
	}
}
