package receiver

import (
	"encoding/json"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/wire"
	"github.com/understudy-dr/understudy/receiver/journal"
)

// DiskReport is what an operator sees of one disk's copy.
type DiskReport struct {
	ID         block.DiskID     `json:"id"`
	Host       string           `json:"host"`
	Name       string           `json:"name"`
	Size       block.Size       `json:"size_bytes"`
	Source     string           `json:"source,omitempty"` // host of the agent that replicates it now
	Damage     string           `json:"damage,omitempty"` // why it is not continued
	Generation block.Generation `json:"generation"`       // how often the copy was promoted
	Tip        block.Seq        `json:"tip"`
	Points     int              `json:"points"`
	Oldest     *PointReport     `json:"oldest,omitempty"`
	Newest     *PointReport     `json:"newest,omitempty"`
	Lag        float64          `json:"lag_seconds"` // age of the newest point
	Journal    block.Size       `json:"journal_bytes"`
	Folded     block.Seq        `json:"folded"` // the delta that the volume stands at
	Allocated  block.Size       `json:"volume_allocated_bytes"`
}

// PointReport is a recovery point as the command line prints it.
type PointReport struct {
	Seq     block.Seq         `json:"seq"`
	Time    time.Time         `json:"time"`
	Class   block.Class       `json:"class"`
	Proven  bool              `json:"proven"`
	Frames  uint64            `json:"frames"`
	Payload block.Size        `json:"payload_bytes"`
	Covered block.Size        `json:"covered_bytes"`
	Labels  map[string]string `json:"labels,omitempty"`
	Pinned  bool              `json:"pinned,omitempty"`
	First   block.Seq         `json:"first"`        // the oldest delta that was merged into the point's own
	Stored  block.Size        `json:"stored_bytes"` // in the journal; 0 where the volume itself stands at the point
}

func pointReport(p journal.Point) PointReport {
	return PointReport{
		Seq: p.Seq, Time: p.Time, Class: p.Class, Proven: p.Proven(),
		Frames: p.Frames, Payload: p.Payload, Covered: p.Covered, Labels: p.Labels,
		Pinned: p.Pinned, First: p.First, Stored: p.Bytes,
	}
}

// query answers with a JSON document.
func (r *Receiver) query(may reach, stream *link.Stream, q *wire.Query) error {
	var doc any
	switch q.Kind {
	case wire.QueryStatus:
		list := []DiskReport{}
		for _, rep := range r.store.all() {
			if may.covers(rep.journal.Meta().Host) {
				list = append(list, rep.report())
			}
		}
		doc = list
	case wire.QueryPoints:
		rep, err := r.store.find(q.Disk, may)
		if err != nil {
			return err
		}
		list := []PointReport{}
		for _, p := range rep.journal.Points() {
			list = append(list, pointReport(p))
		}
		doc = list
	default:
		return wire.Errorf(wire.CodeProtocol, "unknown query %d", q.Kind)
	}
	return reply(stream, doc)
}

// reply answers with a document, and is done.
func reply(stream *link.Stream, doc any) error {
	raw, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	stream.SetDeadline(time.Now().Add(replyTime))
	if err := stream.Send(&wire.Reply{Document: raw}); err != nil {
		return err
	}
	return stream.Flush()
}

func (r *replica) report() DiskReport {
	meta, usage, points := r.journal.Meta(), r.journal.Usage(), r.journal.Summary()
	d := DiskReport{
		ID: meta.Disk, Host: meta.Host, Name: meta.Name, Size: meta.Size, Tip: r.journal.Tip().Seq,
		Generation: meta.Generation, Points: points.Points, Journal: usage.Bytes, Folded: usage.Folded, Allocated: r.vol.Allocated(),
	}
	d.Source = r.source()
	if err := r.damage(); err != nil {
		d.Damage = err.Error()
	}
	if points.Points > 0 {
		oldest, newest := pointReport(*points.Oldest), pointReport(*points.Newest)
		d.Oldest, d.Newest = &oldest, &newest
		d.Lag = max(0, time.Since(newest.Time).Seconds()) // the source's clock may be ahead of this one
	}
	return d
}
