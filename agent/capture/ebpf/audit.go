package ebpf

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/internal/block"
)

// The audit holds what the programs counted against what the disk's own statistics say was written.
//
// A copy's offset is what it counted less what the statistics say, in sectors. The kernel calls the tracepoint just before it
// updates the statistics, so an offset taken with the statistics read first is never below the true one; on a busy disk it is
// above it by the few requests that completed between the two reads. The true offset is constant as long as the copy misses
// nothing, and falls by what it misses. So a copy whose offset is not below its baseline has missed nothing that a later
// reading would not show, and one such copy is enough: whatever the others missed, it marked.
//
// "A later reading" is not good enough for a recovery point, of which this audit decides whether it is proven: with writes going
// on, a request that completed between the two reads would hide one of its size that was missed. So each Take reads too, and the
// least since the last audit counts. A point's last Take comes while its file systems are frozen, when nothing completes: that
// reading is exact, and has all that was missed before it.
//
// A baseline only ever falls: to the true offset, or towards it. It can cause a false alarm, and can't hide a miss for good.
//
// Where writes in flight are kept in a table, what was found there counts as seen by every copy: only what none saw is found.
type offsets [copies]int64

// offsets reads the statistics, then the counters.
func (p *pinned) offsets(s *statistics) (offsets, error) {
	var o offsets
	stat, err := s.written()
	if err != nil {
		return o, err
	}
	for c := range copies {
		o[c] = int64(p.mem.load(c, counterSectors) + p.mem.load(flightCopy, counterFound) - stat)
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

// add raises all.
func (o *offsets) add(n int64) {
	for c := range o {
		o[c] += n
	}
}

// rebase takes the present offsets for those that should be: the least of many readings, since a busy disk adds to them. What
// was in the table of writes in flight throughout is taken for landed. If it was not, that is a false alarm in the next audit;
// the other way round it could hide a miss.
func (p *pinned) rebase(s *statistics) error {
	const readings, tries = 50, 5
	var base offsets
	for range tries {
		found := p.mem.load(flightCopy, counterFound)
		stuck := p.mem.inFlight(p.seen)
		for i := range readings {
			o, err := p.offsets(s)
			if err != nil {
				return err
			}
			if i == 0 {
				base = o
			}
			base.lower(o)
		}
		for _, e := range stuck {
			if atomic.LoadUint64(&p.mem.words[e.at]) == e.id {
				base.add(int64(e.count))
			}
		}
		if found == p.mem.load(flightCopy, counterFound) {
			break // or an earlier reading lacked what a later one has
		}
	}
	p.head.Baseline = base
	p.head.DriverSeen, p.head.OverflowSeen = p.sum(counterDriver), p.sum(counterOverflow)
	p.mem.store(p.head)
	return nil
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
	t.auditing.Lock()
	defer t.auditing.Unlock()
	defer func() { t.observed = false }()
	p := t.set
	if t.told {
		p.head.Missed, t.told = 0, false
	}
	reason := t.doubt()
	if reason == "" {
		short, err := t.short()
		if err != nil {
			reason = err.Error()
		} else if short > 0 {
			reason = fmt.Sprintf("of what the kernel reports as written to %s, %v did not show in its completions", t.dev.name, block.Size(short)*512)
		} else {
			return capture.Audit{}, nil
		}
	}
	p.head.Missed, t.told = 1, true
	if t.opt.Flights == FlightsAuto {
		if err := t.keepFlights(); err != nil {
			reason += "; " + err.Error()
		}
	}
	if err := p.rebase(t.stats); err != nil {
		reason += "; " + err.Error()
	}
	return capture.Audit{Missed: true, Reason: reason}, nil
}

// flightsPatience is how long an audit waits for what is in the table of writes in flight to be seen as landed: on a busy disk
// its requests are soon used again, on another one the queues are soon empty.
const flightsPatience = time.Second

// observe takes a reading for the next audit. Where something is in the table of writes in flight, it may be what a copy lacks only
// for the moment: then it is none.
func (t *Tracker) observe() {
	now, err := t.set.offsets(t.stats)
	if err != nil || !t.set.mem.still(nil) {
		return
	}
	if !t.observed {
		t.least, t.observed = now, true
	}
	t.least.lower(now)
}

// pause lets Take go on for a moment. Nothing tells when a request is used again, or when the queues are empty: it has to be looked
// at time and again.
func (t *Tracker) pause() {
	t.auditing.Unlock()
	time.Sleep(2 * time.Millisecond)
	t.auditing.Lock()
}

// short is by how many sectors the best copy falls short. A write whose completion nobody saw counts as short until it is
// found in the table of writes in flight.
func (t *Tracker) short() (int64, error) {
	p := t.set
	for since := time.Now(); ; t.pause() {
		p.settle(t.stats)
		t.observe()
		if t.observed {
			if short := t.least.short(p.head.Baseline); short > 0 {
				return short, nil
			}
			p.head.Baseline.lower(t.least)
			p.mem.store(p.head)
		}
		now, err := p.offsets(t.stats)
		if err != nil {
			return 0, err
		}
		short := now.short(p.head.Baseline)
		if short == 0 || p.head.Flights == 0 || time.Since(since) > flightsPatience {
			return short, nil
		}
	}
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
