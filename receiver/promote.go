package receiver

import (
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/wire"
	"github.com/understudy-dr/understudy/receiver/journal"
)

// The fence. A disk's generation stands in the journal's meta file. A promotion raises it: what runs over here is the newer
// disk from then on, and the old source must not change the copy any more.
//
//  1. Open: a source states its own generation, and an older one is refused
//  2. header: the journal takes no delta of an older generation
//  3. seal: sealing and promoting exclude each other (replica.metaMu), so a delta that was under way when the generation
//     rose is dropped at its seal at the latest
//  4. the stream of the source that has the disk open is broken with the reason
//
// 3 is what makes it sound; 4 is what makes it quick.

// PromoteReport answers a promotion.
type PromoteReport struct {
	Disk       block.DiskID     `json:"disk"`
	Name       string           `json:"name"` // HOST:DEVICE
	Generation block.Generation `json:"generation"`
	Newest     *PointReport     `json:"newest,omitempty"` // the newest that is consistent: nothing newer comes from the old source
}

// promote raises the generation of a disk for good and turns its source away.
func (r *Receiver) promote(rep *replica) (any, error) {
	err := rep.change(func(m *journal.Meta) bool { m.Generation++; return true })
	if err != nil {
		return nil, err
	}
	rep.evict()
	meta := rep.journal.Meta()
	report := PromoteReport{Disk: meta.Disk, Name: rep.name(), Generation: meta.Generation}
	if points := rep.journal.Points(); len(points) > 0 {
		if p, err := newestConsistent(points); err == nil {
			newest := pointReport(p)
			report.Newest = &newest
		}
	}
	r.log.Warn("promoted: the source is refused from now on", "disk", rep.name(), "generation", uint32(meta.Generation))
	return report, nil
}

// change changes what is known of the disk, if f returns true, durably. It excludes seals.
func (r *replica) change(f func(*journal.Meta) bool) error {
	r.metaMu.Lock()
	defer r.metaMu.Unlock()
	meta := r.journal.Meta()
	if !f(&meta) {
		return nil
	}
	return r.journal.SetMeta(meta)
}

// fenced refuses what is of an older generation than the disk's.
func (r *replica) fenced(g block.Generation) error {
	now := r.journal.Meta().Generation
	if g >= now {
		return nil
	}
	return wire.Errorf(wire.CodeFenced, "the copy of %s was promoted (generation %d, this source is at %d): nothing is taken from it any more; "+
		"if the promoted side is given up, run understudy-agent rejoin on the source", r.name(), now, g)
}

// commit makes a delta durable unless a promotion came first.
func (r *replica) commit(w *journal.Writer, h block.DeltaHeader, s block.Seal) error {
	r.metaMu.Lock()
	defer r.metaMu.Unlock()
	if err := r.fenced(h.Generation); err != nil {
		w.Abort()
		return err
	}
	return w.Commit(s)
}

// evict breaks the stream of the source that has the disk open, if there is one, and waits a little until it has let go.
func (r *replica) evict() {
	r.mu.Lock()
	h := r.holder
	r.mu.Unlock()
	if h == nil {
		return
	}
	h.evict()
	select {
	case <-h.gone:
	case <-time.After(evictTimeout):
	}
}
