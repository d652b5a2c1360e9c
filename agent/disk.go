package agent

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/internal/block"
)

// State is where a disk stands.
//
//	waiting ──▶ syncing ──▶ scanning ──▶ protected     (scanning only after a gap in tracking)
//	   ▲           │            │            │
//	   ├───────────┴────────────┴────────────┘         link lost, refused
//	   ▼
//	fenced                                             the target's side was promoted; an operator's rejoin leads out
type State string

// The states.
const (
	StateWaiting   State = "waiting"   // no link, or the target refused; writes are tracked all the same
	StateFenced    State = "fenced"    // the target's side was promoted: nothing is sent; writes are tracked
	StateScanning  State = "scanning"  // compared with the target, since tracking had a gap; its points are fuzzy until then
	StateSyncing   State = "syncing"   // a first sync, or the backlog of an outage, is sent in parts
	StateProtected State = "protected" // takes recovery points
)

// OpenTracker attaches a tracker to a device: cmd hands in the one to use.
type OpenTracker func(device string, id block.DiskID, granularity block.BlockSize, maxBitmap block.Size) (capture.Tracker, error)

// disk is one protected disk: what lives as long as the agent.
type disk struct {
	id          block.DiskID
	path        string
	opened      deviceState // of dev
	dev         *block.File
	tracker     capture.Tracker
	set         *capture.Set
	noteMem     []byte // where the note is kept
	pump        *pump
	scans       *lender[[]byte] // shared with other disks
	residue     *residue
	finds       finds
	state       *diskState
	behind      bool          // the host's clock is behind the newest point
	trouble     string        // the last error logged, so that it is logged once
	wake        chan struct{} // capacity 1: try again now
	rejoining   atomic.Bool   // an operator gave up what the promoted side wrote
	verify      rolling
	absence     absence      // of recovery points
	fencedUntil time.Time    // when a fenced disk asks again; of the disk's loop
	acked       atomic.Int64 // deltas of this agent that the target has acknowledged
	counts      diskCounts

	mu     sync.Mutex
	closed bool
	note   note
	missed int // audits that failed
	status DiskStatus
}

// DiskStatus is what the operator sees of a disk.
type DiskStatus struct {
	ID         block.DiskID     `json:"id"`
	Device     string           `json:"device"`
	Size       block.Size       `json:"size_bytes"`
	State      State            `json:"state"`
	Error      string           `json:"error,omitempty"`          // why it is not protected, or why the last point failed
	LastPoint  *PointStatus     `json:"last_point,omitempty"`     // newest acknowledged by this agent
	Consistent time.Time        `json:"last_consistent,omitzero"` // its newest that is one instant: what latest means
	ProvenAt   time.Time        `json:"last_proven,omitzero"`     // its newest that is one instant and proven
	Lag        float64          `json:"lag_seconds"`              // age of the newest acknowledged point; 0 before the first
	Pending    block.Size       `json:"pending_bytes"`            // what the target has not acknowledged
	Total      block.Size       `json:"total_bytes"`              // of the first sync or backlog under way
	Done       block.Size       `json:"done_bytes"`
	Left       float64          `json:"eta_seconds,omitempty"` // a guess; 0 where nothing is under way or can be said
	Scan       *ScanStatus      `json:"scan,omitempty"`        // the comparison under way after a gap in tracking or a missed write
	Verify     VerifyStatus     `json:"verify"`
	Proven     bool             `json:"proven"`           // nothing is left to be compared: points from now on are proven
	Shortfalls int              `json:"audit_shortfalls"` // audits of the tracker that failed, since the agent began
	Generation block.Generation `json:"generation"`
	Changed    block.Size       `json:"changed_bytes"`  // of disk, over all points of this agent
	Sent       block.Size       `json:"sent_bytes"`     // of payload, over all deltas of this agent
	Pace       *PaceStatus      `json:"pace,omitempty"` // writes against the link; none before the first measurement
	Tracker    capture.Status   `json:"tracker"`

	eta eta
}

// PointStatus is a recovery point as its source saw it.
type PointStatus struct {
	Seq     block.Seq     `json:"seq"`
	Time    time.Time     `json:"time"`
	Class   block.Class   `json:"class"`
	Proven  bool          `json:"proven"`
	Changed block.Size    `json:"changed_bytes"`
	Sent    block.Size    `json:"sent_bytes"`
	Frozen  time.Duration `json:"frozen_ns"`
	Residue block.Size    `json:"frozen_bytes"` // of disk, read meanwhile
	Acked   time.Time     `json:"acked"`
}

// openDisk attaches the tracker first: from then on no write goes unmarked, whatever is read later.
func openDisk(path string, cfg Config, mem *memory, open OpenTracker) (*disk, error) {
	identity, err := deviceIdentity(path)
	if err != nil {
		return nil, err
	}
	id, err := diskID(cfg.StateDir, identity)
	if err != nil {
		return nil, err
	}
	d := &disk{id: id, path: path, wake: make(chan struct{}, 1), verify: rolling{every: cfg.VerifyEvery}}
	d.counts.begin()
	if d.state, err = loadDiskState(cfg.StateDir, id); err != nil {
		return nil, err
	}
	if d.opened, err = lookAtDevice(path); err != nil {
		return nil, err
	}
	if d.tracker, err = open(path, id, cfg.BlockSize, bitmapBudget/block.Size(len(cfg.Disks))); err != nil {
		return nil, fmt.Errorf("track %s: %w", path, err)
	}
	if err := d.openDevice(mem); err != nil {
		d.tracker.Close()
		return nil, err
	}
	return d, nil
}

func (d *disk) openDevice(mem *memory) error {
	var err error
	if d.dev, err = block.OpenFile(d.path, block.Mode{Direct: true}); err != nil {
		return err
	}
	if size := d.dev.Geometry().Size; size < block.Size(block.DefaultBlockSize) {
		d.dev.Close()
		return fmt.Errorf("%s holds %v: too small to protect, 4 KiB is the least", d.path, size)
	}
	d.set = capture.NewSet(d.tracker)
	keep := d.tracker.Keep()
	d.noteMem = keep.Note
	if keep.Resumed {
		d.note = readNote(d.noteMem)
	}
	d.markGrown(d.dev.Geometry().Size)
	d.pump, d.scans = newPump(d.dev, d.set, mem.workers), mem.scans
	if d.residue, err = newResidue(mem.freeze); err != nil {
		d.dev.Close()
		return err
	}
	d.status = DiskStatus{
		ID: d.id, Device: d.path, Size: d.pump.size, State: StateWaiting, Tracker: d.tracker.Status(),
	}
	return nil
}

// markGrown makes the part that the bits do not stand for yet, of a disk that has grown, something to be sent.
func (d *disk) markGrown(size block.Size) {
	if old := d.note.Size; d.note.Synced && old < size {
		d.set.Mark(block.Range{Off: block.Offset(old), Len: size - old}.Covering(d.set.BlockSize()))
	}
	d.update(func(n *note) { n.Size = size })
}

// close leaves the tracker in the kernel, marking. The disk can't be used after it but for Status.
func (d *disk) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	d.closed = true
	d.dev.Close()
	d.tracker.Close()
	d.residue.arena.close()
}

// gone tells whether close was called.
func (d *disk) gone() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
}

// missedCount is how many audits have failed.
func (d *disk) missedCount() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.missed
}

// update changes the note and stores it before it returns.
func (d *disk) update(change func(*note)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(&d.note)
	d.note.write(d.noteMem)
}

// current is the note as it stands.
func (d *disk) current() note {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.note
}

// show changes what the operator sees.
func (d *disk) show(change func(*DiskStatus)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(&d.status)
}

// Status is a copy of what the operator sees, with the ages of now.
func (d *disk) Status() DiskStatus {
	state := d.state.current()
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.status
	if s.State == StateProtected && !d.note.Synced {
		s.State = StateScanning
	}
	if s.State == StateSyncing {
		s.Left = s.eta.left(s.Done, s.Total).Seconds()
	}
	if s.Scan != nil {
		scan := *s.Scan
		scan.Left = scan.eta.left(scan.Done, scan.Total).Seconds()
		s.Scan = &scan
	}
	s.Generation, s.Verify = state.Generation, d.verify.status(state.Verify, s.Size)
	s.Proven, s.Shortfalls = d.note.proven(), d.missed
	if !d.closed {
		s.Pending, s.Tracker = d.set.BlockSize().Bytes(d.set.Pending()), d.tracker.Status()
	}
	if s.LastPoint != nil {
		s.Lag = max(0, time.Since(s.LastPoint.Time).Seconds()) // the clock may have been set back
	}
	return s
}

// unlinked shows that there is no link: the disk's loop has ended with it, and may not have said so. A fence stays one.
func (d *disk) unlinked() {
	d.show(func(s *DiskStatus) {
		if s.State != StateWaiting && s.State != StateFenced {
			s.State, s.Error = StateWaiting, "no link to the receiver"
		}
	})
}

// errChanged makes the disk's loop look at the device anew.
var errChanged = errors.New("the device is not what it was")

// check holds that the path still leads to the device that was opened, in its size: errChanged if not.
func (d *disk) check() error {
	now, err := lookAtDevice(d.path)
	switch {
	case err != nil:
		return fmt.Errorf("%s has vanished: %w; its bits are kept until it is back or the host restarts", d.path, err)
	case now != d.opened:
		return errChanged
	}
	return nil
}
