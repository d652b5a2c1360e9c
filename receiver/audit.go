package receiver

import (
	"context"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/receiver/journal"
)

// tellEvery is how often an operator hears of progress.
const tellEvery = 250 * time.Millisecond

// AuditReport is what an audit of a disk's copy found.
type AuditReport struct {
	Disk block.DiskID `json:"disk"`
	Host string       `json:"host"`
	Name string       `json:"name"`
	journal.Audit
}

// audit reads every byte that is stored of a disk. Damage of the journal that it finds stops the copy from being continued, as
// damage that is found at the start does.
func (r *Receiver) audit(ctx context.Context, rep *replica, progress func(done, total block.Size) error) (*AuditReport, error) {
	defer rep.poke() // what it kept from retention may go
	var told time.Time
	a, err := rep.journal.Audit(ctx, func(done, total block.Size) error {
		if time.Since(told) < tellEvery && done < total {
			return nil
		}
		told = time.Now()
		return progress(done, total)
	})
	if err != nil {
		return nil, err
	}
	rep.counts.audits.Add(1)
	if !a.Clean() {
		rep.counts.damage.Add(1)
	}
	if err := a.Err(); err != nil {
		rep.mu.Lock()
		rep.damaged = err
		rep.mu.Unlock()
		r.log.Error("an audit found damage", "disk", rep.name(), "places", len(a.Damage), "err", err)
	}
	meta := rep.journal.Meta()
	return &AuditReport{Disk: meta.Disk, Host: meta.Host, Name: meta.Name, Audit: *a}, nil
}
