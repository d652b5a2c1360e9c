package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/link"
)

// Parts are what an Agent is made of besides its Config: main makes them.
type Parts struct {
	Dial func(ctx context.Context) (*link.Session, error)
	// Renew keeps this host's certificate good by way of a session: it runs beside each, and returns when ctx ends. nil: nobody
	// does.
	Renew func(ctx context.Context, s *link.Session)
	Open  OpenTracker
	Codec block.Codec
	Guard []string // the command that ends in RunGuard
	Log   *slog.Logger

	// Record is the path of the record of what is frozen (ThawLeft), on a file system in memory. "" for none.
	Record string
	// Ready is called by Run once all disks are tracked and the guard stands; may be nil.
	Ready func()

	// Machine tells this host's hardware from a copy of it (MachineID); zero where nothing does.
	Machine block.Digest
}

// Agent protects the disks of one host. Make it with New; Run does the work; Status and Verify may be called meanwhile.
type Agent struct {
	cfg   Config
	parts Parts
	log   *slog.Logger
	hooks *hooks

	memory *memory      // of all disks
	frozen atomic.Int64 // when the freeze under way began, in ns since 1970; 0: there is none

	mu      sync.Mutex
	disks   []*disk
	uploads map[*disk]*upload // that are members of the group
	clock   sealClock
	session *link.Session
	link    LinkStatus
	moved   link.Stats // over the sessions before

	counts agentCounts
}

// LinkStatus is what the operator sees of the link.
type LinkStatus struct {
	Connected bool      `json:"connected"`
	Carrier   string    `json:"carrier,omitempty"`
	Peer      string    `json:"peer,omitempty"`
	Since     time.Time `json:"since,omitzero"`
	Error     string    `json:"error,omitempty"`
}

// Status is what the operator sees of an agent.
type Status struct {
	Host  string       `json:"host"`
	Link  LinkStatus   `json:"link"`
	Disks []DiskStatus `json:"disks"`

	Applications []ApplicationStatus `json:"applications,omitempty"`
}

// New checks the config. It starts nothing.
func New(cfg Config, parts Parts) (*Agent, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Agent{
		cfg: cfg, parts: parts, log: parts.Log, uploads: map[*disk]*upload{}, counts: newAgentCounts(),
		hooks: newHooks(cfg.Applications, cfg.StateDir, parts.Log), memory: newMemory(cfg),
	}, nil
}

// Run attaches the trackers and keeps the target up to date until ctx ends. It returns an error when a disk can't be
// tracked at all, or when the target refuses this host for good; a broken link is tried again for ever. Tracking goes on in
// the kernel after it has returned.
func (a *Agent) Run(ctx context.Context) error {
	defer a.closeDisks()
	for _, path := range a.cfg.Disks {
		d, err := openDisk(path, a.cfg, a.memory, a.parts.Open)
		if err != nil {
			return err
		}
		a.mu.Lock()
		a.disks = append(a.disks, d)
		a.mu.Unlock()
		a.log.Info("tracking", "disk", path, "id", d.id.String(), "size", d.pump.size,
			"resumed", d.tracker.Keep().Resumed, "how", d.tracker.Status().Detail)
	}
	// Only now: an agent that still runs holds its disks, and is not to be disturbed between its hooks.
	if err := a.hooks.recover(ctx); err != nil {
		return err
	}
	limitHeap()
	if err := lockMemory(); err != nil {
		a.log.Warn("not locked in memory: a freeze may take longer on a host that is short of it, and the guard ends it then", "err", err)
	}
	guard, err := StartGuard(a.parts.Guard...)
	if err != nil {
		return err
	}
	defer guard.Close()
	record, err := openRecord(a.parts.Record)
	if err != nil {
		return err
	}
	defer record.close()
	if err := guard.keepRecord(record); err != nil {
		return err
	}
	if a.parts.Ready != nil {
		a.parts.Ready()
	}
	return a.keepLinked(ctx, guard)
}

// hangs is how long a freeze may last before the agent counts as hanging. The guard has ended it long before.
const hangs = 30 * time.Second

// Alive tells whether the agent works: that no freeze has been hanging, and that what all its parts share can be had. Where one of
// them never lets go of that, it does not return.
func (a *Agent) Alive() bool {
	a.Status()
	since := a.frozen.Load()
	return since == 0 || time.Since(time.Unix(0, since)) < hangs
}

func (a *Agent) closeDisks() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range a.disks {
		d.close()
	}
	a.disks = nil
}

// keepLinked makes session after session.
func (a *Agent) keepLinked(ctx context.Context, guard *Guard) error {
	retry, said := backoff{shortest: 500 * time.Millisecond, longest: 15 * time.Second}, ""
	for ctx.Err() == nil {
		acked := a.acked()
		s, err := a.parts.Dial(ctx)
		a.counts.dials.Add(dialOutcome(err), 1)
		if err == nil {
			a.log.Info("linked", "peer", s.Peer().Host, "carrier", string(s.Carrier()))
			err = a.serve(ctx, s, guard)
			said = ""
		} else if link.Permanent(err) {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		a.setLink(nil, err)
		if err != nil && err.Error() != said {
			said = err.Error()
			a.log.Warn("not linked, trying again; writes are tracked meanwhile", "err", err)
		}
		sleep(ctx, retry.next(a.acked() != acked))
	}
	return nil
}

// acked is how many deltas the target has acknowledged to this agent.
func (a *Agent) acked() (n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range a.disks {
		n += d.acked.Load()
	}
	return n
}

// serve works on one session until it ends, and returns why.
func (a *Agent) serve(ctx context.Context, s *link.Session, guard *Guard) error {
	defer s.Close(nil)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.setLink(s, nil)
	go func() {
		select {
		case <-s.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	f := &freezer{guard: guard, limit: a.cfg.freezeLimit(), grace: openGrace(graceFile), record: guard.record, since: &a.frozen, thaws: a.counts.thaws}
	f.grace.mark = guard.record.word(recordGrace)
	defer f.grace.close()
	g := &group{agent: a, cfg: a.cfg, freezer: f, session: s, joined: make(chan struct{}, 1), stretch: 1}
	g.cutter = startCutter(f, len(a.cfg.Disks))
	defer g.cutter.stop()
	var wg sync.WaitGroup
	if a.parts.Renew != nil {
		wg.Go(func() { a.parts.Renew(ctx, s) })
	}
	for i := range a.cfg.Disks {
		wg.Go(func() { g.runDisk(ctx, i) })
	}
	g.run(ctx)
	wg.Wait()
	if err := s.Err(); err != nil {
		return err
	}
	return errors.New("the target closed the session")
}

func (a *Agent) setLink(s *link.Session, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if old := a.session; old != nil {
		stats := old.Stats()
		a.moved.In, a.moved.Out = a.moved.In+stats.In, a.moved.Out+stats.Out
	}
	a.session = s
	if s == nil {
		for _, d := range a.disks {
			d.unlinked()
		}
	}
	a.link = LinkStatus{Since: time.Now()}
	if s != nil {
		a.link = LinkStatus{Connected: true, Carrier: string(s.Carrier()), Peer: s.Peer().Host, Since: time.Now()}
	}
	if err != nil {
		a.link.Error = err.Error()
	}
}

// Status is a snapshot.
func (a *Agent) Status() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := Status{Host: a.cfg.Host, Link: a.link, Disks: []DiskStatus{}, Applications: a.hooks.Status()}
	for _, d := range a.disks {
		s.Disks = append(s.Disks, d.Status())
	}
	return s
}

// ErrUnknownDisk: no disk of this agent goes by that name.
var ErrUnknownDisk = errors.New("no such disk here")

// Verify compares the whole replica of a disk, named by id or device path, with the live disk.
func (a *Agent) Verify(ctx context.Context, name string, progress func(done, total block.Size)) (VerifyReport, error) {
	u, s, err := a.member(name)
	if err != nil {
		return VerifyReport{}, err
	}
	var report VerifyReport
	err = u.run(func() error {
		var err error
		report, err = u.verify(ctx, s, progress)
		return err
	})
	return report, err
}

// member finds the upload of a disk that takes points and is not being compared already.
func (a *Agent) member(name string) (*upload, *link.Session, error) {
	d, err := a.find(name)
	if err != nil {
		return nil, nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	u := a.uploads[d]
	if u == nil || !d.current().Synced {
		return nil, nil, fmt.Errorf("%s is %s: it can be verified when it is protected", d.path, d.Status().State)
	}
	return u, a.session, nil
}
