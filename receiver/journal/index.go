package journal

import (
	"container/heap"
	"slices"

	"github.com/understudy-dr/understudy/internal/block"
)

// extent is a part of a view that a frame gives.
type extent struct {
	rng     block.Range
	pos     block.Offset // of the frame in its delta's file
	payload uint32       // 0: the range reads as zeroes
	src     uint32       // which of the view's deltas
	number  uint32       // of the frame in it
}

// after tells whether e overrides o where they overlap.
func (e *extent) after(o *extent) bool {
	return e.src > o.src || e.src == o.src && e.number > o.number
}

func (e *extent) sameFrame(o *extent) bool { return e.src == o.src && e.number == o.number }

// resolve turns extents that overlap into extents that don't, in the order of the disk: what was changed last stays. It uses
// the memory of all.
func resolve(all []extent) []extent {
	slices.SortFunc(all, func(a, b extent) int {
		switch {
		case a.rng.Off != b.rng.Off:
			return int(min(1, max(-1, a.rng.Off-b.rng.Off)))
		case a.sameFrame(&b):
			return 0
		case a.after(&b):
			return -1 // the newest first, so that the ones under it are passed by
		}
		return 1
	})
	if !overlaps(all) {
		return all
	}
	out := make([]extent, 0, len(all))
	var live extentHeap // those that cover cur, the newest on top
	var cur block.Offset
	for i := 0; i < len(all) || len(live) > 0; {
		if len(live) == 0 {
			cur = all[i].rng.Off
		}
		for ; i < len(all) && all[i].rng.Off <= cur; i++ {
			heap.Push(&live, all[i])
		}
		for len(live) > 0 && live[0].rng.End() <= cur {
			heap.Pop(&live)
		}
		if len(live) == 0 {
			continue
		}
		e := live[0]
		end := e.rng.End()
		if i < len(all) {
			end = min(end, all[i].rng.Off)
		}
		e.rng = block.Range{Off: cur, Len: block.Size(end - cur)}
		out = appendExtent(out, e)
		cur = end
	}
	return out
}

// appendExtent adds e, as part of the last one if it goes on in the same frame.
func appendExtent(out []extent, e extent) []extent {
	if n := len(out); n > 0 && out[n-1].sameFrame(&e) && out[n-1].rng.End() == e.rng.Off {
		out[n-1].rng.Len += e.rng.Len
		return out
	}
	return append(out, e)
}

func overlaps(sorted []extent) bool {
	for i := 1; i < len(sorted); i++ {
		if sorted[i].rng.Off < sorted[i-1].rng.End() {
			return true
		}
	}
	return false
}

type extentHeap []extent

func (h extentHeap) Len() int           { return len(h) }
func (h extentHeap) Less(i, k int) bool { return h[i].after(&h[k]) }
func (h extentHeap) Swap(i, k int)      { h[i], h[k] = h[k], h[i] }
func (h *extentHeap) Push(x any)        { *h = append(*h, x.(extent)) }
func (h *extentHeap) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}
