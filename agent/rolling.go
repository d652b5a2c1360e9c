package agent

import (
	"errors"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/link"
)

// The rolling verification compares the disk with its copy a little at a time, for ever: one round in Config.VerifyEvery,
// at a rate of Config.VerifyRate at most. It is the comparison of verify.go, one step after the other; where it is, and what
// it found, stands in the disk's state file, so a round goes on after a restart of the agent or of the host.
//
// A mismatch says that something is wrong that nothing else noticed: a write that was not marked, or a copy that rotted. It
// is logged as an error, counted, and sent again with the next delta; and since nobody knows how far it goes, the whole disk
// is compared at once, and points are flagged unproven until that has ended.
const (
	// rollingPause is what steps are made for: long enough that they cost nothing, short enough that each is small.
	rollingPause = 10 * time.Second
	// rollingStore is how often the position is stored at most.
	rollingStore = 10 * time.Second
)

// rolling is what the rolling verification of a disk needs beside its state.
type rolling struct {
	every   time.Duration
	stored  time.Time // when the position was last written to the file
	trouble string    // why it could not be, so that it is logged once
}

// VerifyStatus is what the operator sees of the rolling verification.
type VerifyStatus struct {
	Every      float64    `json:"every_seconds"`      // in what time a round is to be made; negative: switched off
	Round      int        `json:"round"`              // number of the round under way, from 1; 0 before the first
	Started    time.Time  `json:"started,omitzero"`   // when it began
	Total      block.Size `json:"total_bytes"`        // of the disk
	Done       block.Size `json:"done_bytes"`         // of the round
	LastFull   time.Time  `json:"last_full,omitzero"` // when the last whole round ended
	Mismatches int        `json:"mismatches"`         // blocks that differed without being due to be sent, ever
	Mismatched time.Time  `json:"last_mismatch,omitzero"`
}

func (r *rolling) status(v verifyState, size block.Size) VerifyStatus {
	return VerifyStatus{
		Every: r.every.Seconds(), Round: v.Round, Started: v.Started, Total: size, Done: min(v.Position, size),
		LastFull: v.LastFull, Mismatches: v.Mismatches, Mismatched: v.Mismatched,
	}
}

// rollingStep is how much of a disk one step compares.
func rollingStep(size block.Size, every time.Duration) block.Size {
	step := block.Size(float64(size) * min(1, rollingPause.Seconds()/every.Seconds()))
	return max(scanGroup, (step+scanGroup-1)/scanGroup*scanGroup)
}

// rollingDue is when the step at v.Position is due. A round's start in the future, by a clock that was set back, is moved to
// where the position says that it was.
func rollingDue(v *verifyState, size block.Size, every time.Duration, now time.Time) time.Time {
	part := time.Duration(float64(every) * float64(v.Position) / float64(size))
	if v.Started.After(now) {
		v.Started = now.Add(-part)
	}
	return v.Started.Add(part)
}

// roll makes the next step of the rolling verification, if it is due, and tells how long to wait for the one after it: no
// longer than longest.
func (u *upload) roll(s *link.Session, longest time.Duration) (time.Duration, error) {
	d, every := u.disk, u.cfg.VerifyEvery
	if every < 0 {
		return longest, nil
	}
	now, v, size := time.Now(), d.state.current().Verify, d.pump.size
	if v.Round == 0 {
		v.Round, v.Started = 1, now
	}
	v.Position = min(v.Position, size) / scanGroup * scanGroup
	if due := rollingDue(&v, size, every, now); due.After(now) {
		return min(longest, due.Sub(now)), nil
	}
	step := block.Range{Off: block.Offset(v.Position), Len: min(rollingStep(size, every), size-v.Position)}
	i := inspection{upload: u}
	if err := i.compare(u.ctx, s, step, 1, &pacer{rate: u.cfg.VerifyRate}, func(block.Offset) {}); err != nil {
		return 0, err
	}
	v.Position += step.Len
	if v.Position >= size {
		v.LastFull = time.Now()
		v.Round, v.Position, v.Started = v.Round+1, 0, v.Started.Add(every)
		if v.Started.Before(v.LastFull) { // it took longer, or was interrupted: what was missed is not made up for
			v.Started = v.LastFull
		}
	}
	if err := d.keepVerify(v, i.report); err != nil && err.Error() != d.verify.trouble {
		d.verify.trouble = err.Error() // a full disk here is no reason to stop: the place in the round is lost at worst
		u.log.Warn("can't store where the verification is: after a restart of the agent it goes on further back", "disk", d.path, "err", err)
	}
	if !i.report.Equal() {
		u.log.Error("the copy was not what the disk is: the blocks are sent again, and the whole disk is compared",
			"disk", d.path, "different", i.report.Different, "first", i.report.Ranges[0].String(), "as_of", d.current().Acked.Seq.String())
		u.distrust("the rolling verification found a difference")
	}
	return 0, nil
}

// keepVerify notes a step: in the file at the end of a round, after a mismatch, and now and then.
func (d *disk) keepVerify(v verifyState, found VerifyReport) error {
	r := &d.verify
	store := !found.Equal() || v.Position == 0 || time.Since(r.stored) > rollingStore
	if store {
		r.stored = time.Now()
	}
	if !found.Equal() {
		v.Mismatches += int(found.Different / block.Size(d.set.BlockSize()))
		v.Mismatched = time.Now()
	}
	set := func(s *stateData) { s.Verify = v }
	err := d.state.change(store, set)
	if err != nil {
		err = errors.Join(err, d.state.change(false, set))
	}
	return err
}
