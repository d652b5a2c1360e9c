package ebpf

import (
	"fmt"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/internal/block"
)

// The audit holds what the programs counted against what the disk's own statistics say was written.
//
// A copy's offset is what it counted less what the statistics say, in sectors. The kernel calls the tracepoint just before it
// updates the statistics, so an offset taken with the statistics read first is never below the true one; on a busy disk it is
// above it by the few requests that completed between the two reads. The true offset is constant as long as the copy misses
// nothing, and falls by what it misses. So a copy whose offset is not below its baseline has missed nothing that the next
// audit, or this one, would not show, and one such copy is enough: whatever the others missed, it marked.
//
// A baseline only ever falls: to the true offset, or towards it. It can cause a false alarm, and can't hide a miss for good.
type offsets [copies]int64

// offsets reads the statistics, then the counters.
func (p *pinned) offsets(d device) (offsets, error) {
	var o offsets
	stat, err := d.written()
	if err != nil {
		return o, err
	}
	for c := range copies {
		o[c] = int64(p.mem.load(c, counterSectors) - stat)
	}
	return o, nil
}

// lower takes over what is below.
func (o *offsets) lower(by offsets) {
	for c := range o {
		o[c] = min(o[c], by[c])
	}
}

// short is by how many sectors the best copy is below its baseline; 0 when a copy has them all.
func (o *offsets) short(base offsets) int64 {
	least := base[0] - o[0]
	for c := range o {
		least = min(least, base[c]-o[c])
	}
	return max(least, 0)
}

// rebase takes the present offsets for those that should be: the least of many readings, since a busy disk adds to them.
func (p *pinned) rebase(d device) error {
	const readings = 50
	base, err := p.offsets(d)
	for range readings {
		var o offsets
		if err != nil {
			return err
		}
		o, err = p.offsets(d)
		base.lower(o)
	}
	p.head.Baseline = base
	p.head.DriverSeen, p.head.OverflowSeen = p.sum(counterDriver), p.sum(counterOverflow)
	p.mem.store(p.head)
	return err
}

// sum adds up a counter over all programs.
func (p *pinned) sum(counter int) uint64 {
	var n uint64
	for c := range copies + 1 {
		n += p.mem.load(c, counter)
	}
	return n
}

// Audit implements capture.Tracker. A miss stays in the pinned header until the next call, in case this process is killed
// before it has noted it.
func (t *Tracker) Audit() (capture.Audit, error) {
	p := t.set
	if t.told {
		p.head.Missed, t.told = 0, false
	}
	reason := t.doubt()
	if reason == "" {
		now, err := p.offsets(t.dev)
		if err != nil {
			reason = err.Error()
		} else if short := now.short(p.head.Baseline); short > 0 {
			reason = fmt.Sprintf("of what the kernel reports as written to %s, %v did not show in its completions", t.dev.name, block.Size(short)*512)
		} else {
			p.head.Baseline.lower(now)
			p.mem.store(p.head)
			return capture.Audit{}, nil
		}
	}
	p.head.Missed, t.told = 1, true
	if t.opt.QueueMark == QueueMarkAuto {
		if err := t.markQueue(); err != nil {
			return capture.Audit{}, err
		}
	}
	if err := p.rebase(t.dev); err != nil {
		reason += "; " + err.Error()
	}
	return capture.Audit{Missed: true, Reason: reason}, nil
}

// doubt is why the counters need not even be looked at, or "".
func (t *Tracker) doubt() string {
	p := t.set
	now, err := lookAt(t.opt.Device)
	switch {
	case p.head.Missed == 1:
		return "an earlier agent found that a write may have been missed, and was stopped before it could act on it"
	case err != nil:
		return err.Error()
	case !now.same(p.head):
		return "the device is another one now"
	case p.sum(counterDriver) != p.head.DriverSeen:
		return "a pass-through request (SG_IO, NVMe command) went to the disk, whose effect can't be seen"
	case p.sum(counterOverflow) != p.head.OverflowSeen:
		return "a request was too large to mark"
	}
	return ""
}
