package journal

import (
	"cmp"
	"slices"

	"github.com/understudy-dr/understudy/internal/block"
)

// extent is a part of a disk that a frame gives.
type extent struct {
	rng     block.Range
	pos     block.Offset // of the frame in its delta's file
	payload uint32       // 0: the range reads as zeroes
	src     uint32       // which of the deltas
	number  uint32       // of the frame in it
	seen    uint32       // of a view: when the frame was read last, see View.fetch; atomic
}

// after tells whether e overrides o where they overlap.
func (e *extent) after(o *extent) bool {
	return e.src > o.src || e.src == o.src && e.number > o.number
}

func (e *extent) sameFrame(o *extent) bool { return e.src == o.src && e.number == o.number }

// compareExtents orders by place, and at one place the newest first, so that the ones under it are passed by.
func compareExtents(a, b extent) int {
	switch {
	case a.rng.Off != b.rng.Off:
		return cmp.Compare(a.rng.Off, b.rng.Off)
	case a.src != b.src:
		return cmp.Compare(b.src, a.src)
	}
	return cmp.Compare(b.number, a.number)
}

// resolve turns extents that overlap into extents that don't, in the order of the disk: what was changed last stays. It uses
// the memory of all.
func resolve(all []extent) []extent {
	if !slices.IsSortedFunc(all, compareExtents) {
		slices.SortFunc(all, compareExtents)
	}
	if !overlaps(all) {
		return all
	}
	i, out := 0, make([]extent, 0, len(all))
	next := func() (extent, bool, error) {
		if i == len(all) {
			return extent{}, false, nil
		}
		i++
		return all[i-1], true, nil
	}
	_ = flatten(next, func(e extent) error { out = append(out, e); return nil }) // neither can fail
	return out
}

func overlaps(sorted []extent) bool {
	for i := 1; i < len(sorted); i++ {
		if sorted[i].rng.Off < sorted[i-1].rng.End() {
			return true
		}
	}
	return false
}

// flatten takes extents in the order of compareExtents and emits what is to be seen of them, in the order of the disk and
// without overlaps. Neighbours of one frame, and neighbouring zeroes, come as one. Its memory is what covers one place of the
// disk and reaches beyond all that is newer there.
func flatten(next func() (extent, bool, error), emit func(extent) error) error {
	j := joiner{emit: emit}
	live := heapOf[extent]{before: func(a, b *extent) bool { return a.after(b) }} // those that cover cur, the newest on top
	var cur block.Offset
	in, more, err := next()
	for err == nil && (more || len(live.items) > 0) {
		if len(live.items) == 0 {
			cur = in.rng.Off
		}
		for err == nil && more && in.rng.Off <= cur {
			if top := live.top(); top == nil || in.after(top) || in.rng.End() > top.rng.End() {
				live.push(in)
			}
			in, more, err = next()
		}
		for len(live.items) > 0 && live.top().rng.End() <= cur {
			live.pop()
		}
		if err != nil || len(live.items) == 0 {
			continue
		}
		e := *live.top()
		end := e.rng.End()
		if more {
			end = min(end, in.rng.Off)
		}
		e.rng = block.Range{Off: cur, Len: block.Size(end - cur)}
		err = j.add(e)
		cur = end
	}
	if err != nil {
		return err
	}
	return j.flush()
}

// joiner emits extents, those that go on in the same frame, or in zeroes, as one.
type joiner struct {
	emit func(extent) error
	last extent
}

func (j *joiner) add(e extent) error {
	if !j.last.rng.Empty() && j.last.rng.End() == e.rng.Off && (j.last.sameFrame(&e) || j.last.payload == 0 && e.payload == 0) {
		j.last.rng.Len += e.rng.Len
		return nil
	}
	err := j.flush()
	j.last = e
	return err
}

func (j *joiner) flush() error {
	if j.last.rng.Empty() {
		return nil
	}
	return j.emit(j.last)
}

// heapOf is a binary heap; the item that is before all others is on top.
type heapOf[T any] struct {
	items  []T
	before func(a, b *T) bool
}

// top is the first item, nil if there is none. It may be changed, if fix follows.
func (h *heapOf[T]) top() *T {
	if len(h.items) == 0 {
		return nil
	}
	return &h.items[0]
}

func (h *heapOf[T]) push(x T) {
	h.items = append(h.items, x)
	for i := len(h.items) - 1; i > 0; {
		up := (i - 1) / 2
		if !h.before(&h.items[i], &h.items[up]) {
			return
		}
		h.items[i], h.items[up] = h.items[up], h.items[i]
		i = up
	}
}

func (h *heapOf[T]) pop() {
	last := len(h.items) - 1
	h.items[0] = h.items[last]
	h.items = h.items[:last]
	h.fix()
}

// fix moves the top to its place.
func (h *heapOf[T]) fix() {
	for i := 0; ; {
		down := 2*i + 1
		if down >= len(h.items) {
			return
		}
		if right := down + 1; right < len(h.items) && h.before(&h.items[right], &h.items[down]) {
			down = right
		}
		if !h.before(&h.items[down], &h.items[i]) {
			return
		}
		h.items[i], h.items[down] = h.items[down], h.items[i]
		i = down
	}
}
