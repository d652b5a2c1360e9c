package receiver

import (
	"errors"

	"github.com/understudy-dr/understudy/internal/wire"
	"github.com/understudy-dr/understudy/receiver/journal"
)

// pin keeps the point, or leaves it to the policy again, and tells which one that was.
func (r *Receiver) pin(rep *replica, selector string, keep bool) (*PointReport, error) {
	if selector == "" {
		return nil, wire.Errorf(wire.CodeNoPoint, "no point named: say DISK@latest, DISK@#412 or DISK@2026-01-31T12:00:00Z")
	}
	point, err := selectPoint(rep.journal.Points(), selector)
	if err != nil {
		return nil, err
	}
	if keep {
		err = rep.journal.Pin(point.Seq)
	} else {
		err = rep.journal.Unpin(point.Seq)
	}
	switch {
	case errors.Is(err, journal.ErrNoPoint):
		return nil, wire.Errorf(wire.CodeNoPoint, "%w", err)
	case errors.Is(err, journal.ErrFolding):
		return nil, wire.Errorf(wire.CodeBusy, "%w", err)
	case err != nil:
		return nil, err
	}
	r.log.Info("pins changed", "disk", rep.name(), "point", point.Seq.String(), "pinned", keep)
	rep.poke()
	point.Pinned = keep
	report := pointReport(point)
	return &report, nil
}
