package ebpf

import (
	"fmt"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/internal/block"
)

// counted is what the best copy of the completion program counted, in sectors. A copy misses what completes while it runs
// itself on that CPU; another one has it.
func (p *pinned) counted() uint64 {
	var best uint64
	for c := range copies {
		best = max(best, p.mem.load(c, counterSectors))
	}
	return best
}

func (p *pinned) sum(counter int) uint64 {
	var n uint64
	for c := range copies + 1 {
		n += p.mem.load(c, counter)
	}
	return n
}

// rebase takes the difference between what was counted and what the statistics say as the one that should be.
//
// The kernel calls the tracepoint just before it updates the statistics, so on a busy disk the two are read a few requests
// apart. rebase looks for a moment in which neither moves; where there is none, it takes the largest difference it saw
// between a count and statistics read after it: that hides at most the requests of that moment, once, since the baseline stays
// until an audit fails.
func (p *pinned) rebase(d device) error {
	const looks = 50
	closest := int64(0)
	for i := range looks {
		before := p.counted()
		stat, err := d.written()
		if err != nil {
			return err
		}
		after := p.counted()
		diff := int64(before - stat)
		if i == 0 || diff > closest {
			closest = diff
		}
		again, err := d.written()
		if err != nil {
			return err
		}
		if before == after && stat == again {
			closest = diff
			break
		}
	}
	p.head.Baseline = closest
	p.head.DriverSeen, p.head.OverflowEnd = p.sum(counterDriver), p.sum(counterOverflow)
	p.mem.store(p.head)
	return nil
}

// Audit implements capture.Tracker. The statistics are read first: every write in them was counted before.
func (t *Tracker) Audit() (capture.Audit, error) {
	p := t.set
	stat, err := t.dev.written()
	if err != nil {
		return capture.Audit{Missed: true, Reason: err.Error()}, nil
	}
	counted := p.counted()
	a := capture.Audit{Exact: true, Expected: block.Size(int64(stat)+p.head.Baseline) * 512, Seen: block.Size(counted) * 512}
	now, err := lookAt(t.opt.Device)
	switch {
	case p.head.Missed == 1:
		a.Reason = "the queue mark could not be taken over"
	case err != nil:
		a.Reason = err.Error()
	case !now.same(p.head):
		a.Reason = "the device is another one now"
	case a.Seen < a.Expected:
		a.Reason = fmt.Sprintf("the kernel reports %v written to %s since tracking began, its completions account for %v", a.Expected, t.dev.name, a.Seen)
	case p.sum(counterDriver) != p.head.DriverSeen:
		a.Reason = "a pass-through request (SG_IO, NVMe command) went to the disk, whose effect can't be seen"
	case p.sum(counterOverflow) != p.head.OverflowEnd:
		a.Reason = "a request was too large to mark"
	case !p.whole():
		a.Reason = "a tracking program is no longer attached"
	default:
		return a, nil
	}
	a.Missed = true
	p.head.Missed = 0
	if t.opt.QueueMark == QueueMarkAuto {
		if err := t.markQueue(); err != nil {
			return a, err
		}
	}
	return a, p.rebase(t.dev)
}
