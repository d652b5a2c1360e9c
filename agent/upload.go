package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/wire"
)

// upload is one disk's stream of one session: it opens deltas, fills and seals them. It ends at the first error, of whatever
// kind: what the open delta held is then pending again, and the disk's loop makes a new upload.
//
// One goroutine drives it (the disk's loop while it catches up, the group's while it is a member); receive runs beside it.
type upload struct {
	disk   *disk
	codec  block.Codec
	log    *slog.Logger
	stream *link.Stream
	ctx    context.Context
	cancel context.CancelCauseFunc
	acks   chan wire.Ack
	done   chan struct{} // receive has returned

	cfg   Config
	clock *sealClock
	hurry func() // asks for a delta to begin soon; set when the disk joins its group

	generation block.Generation
	open       *delta
	begun      note // as it stood when the open delta began, with all that had been found by then
	pace       pace
	budget     time.Duration // of a freeze

	mu     sync.Mutex
	closed bool
	jobs   sync.WaitGroup // what run runs
}

// ackTimeout bounds the target's fsync of a part. A target that takes longer is as good as gone.
const ackTimeout = 2 * time.Minute

// startUpload opens the disk at the target and agrees on what the bits are relative to.
func startUpload(ctx context.Context, d *disk, s *link.Session, a *Agent) (*upload, error) {
	stream, err := s.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { stream.SetDeadline(time.Now()) })
	defer stop()
	n, rejoin := d.current(), d.rejoining.Load()
	err = stream.Send(&wire.Open{
		Disk: d.id, Name: d.path, Host: a.cfg.Host, Boot: bootID(), Machine: a.parts.Machine,
		Size: d.pump.size, BlockSize: d.set.BlockSize(), Generation: d.state.generation(),
		KnownSeq: n.Acked.Seq, KnownDigest: n.Acked.Digest, Rejoin: rejoin,
	})
	if err == nil {
		err = stream.Flush()
	}
	var opened *wire.Opened
	if err == nil {
		opened, err = receive[*wire.Opened](stream)
	}
	if err != nil {
		stream.Close()
		return nil, fmt.Errorf("open disk at the target: %w", err)
	}
	u := &upload{
		disk: d, codec: a.parts.Codec, log: a.log, stream: stream, cfg: a.cfg, clock: &a.clock, hurry: func() {},
		budget: a.cfg.FreezeBudget, pace: pace{interval: a.cfg.Interval},
		acks: make(chan wire.Ack, 1), done: make(chan struct{}),
	}
	if err := u.agree(opened, rejoin); err != nil {
		stream.Close()
		return nil, err
	}
	u.ctx, u.cancel = context.WithCancelCause(ctx)
	d.set.Rewind()
	a.clock.raise(opened.PointTime)
	u.reconcile(tip{opened.TipSeq, opened.TipDigest})
	go u.receive()
	return u, nil
}

// receive reads one message and holds that it is a T.
func receive[T wire.Message](stream *link.Stream) (T, error) {
	var none T
	got, err := stream.Receive()
	if err != nil {
		return none, err
	}
	if m, ok := got.Message.(T); ok {
		return m, nil
	}
	if e, ok := got.Message.(*wire.Error); ok {
		return none, e
	}
	return none, fmt.Errorf("peer sent %T: %w", got.Message, wire.ErrProtocol)
}

// reconcile compares what the target holds with what the bits are relative to.
func (u *upload) reconcile(at tip) {
	d := u.disk
	n := d.current()
	switch {
	case n.known() && at == n.Acked:
	case n.known() && at == n.Sealed: // the ack was lost; the bits were kept, and what they cover is sent once more
		d.update(func(n *note) { n.Acked = n.Sealed })
	case at.Seq == 0:
		if n.Acked.Seq != 0 {
			u.log.Warn("the target holds nothing of this disk any more: first sync again", "disk", d.path)
		}
		d.set.MarkAll()
		d.update(func(n *note) { n.Synced, n.Missed, n.Scanned, n.Acked, n.Sealed = true, false, 0, at, at })
	default: // tracking had a gap: only a comparison tells what differs
		d.update(func(n *note) { n.Synced, n.Missed, n.Scanned, n.Acked, n.Sealed = false, false, 0, at, at })
	}
}

// receive hands acks over and ends the upload when the target says no or the stream breaks.
func (u *upload) receive() {
	defer close(u.done)
	for {
		ack, err := receive[*wire.Ack](u.stream)
		if err != nil {
			u.fail(err)
			return
		}
		select {
		case u.acks <- *ack:
		case <-u.ctx.Done():
			return
		}
	}
}

// fail ends the upload; the first reason counts. Calls under way on the stream return.
func (u *upload) fail(err error) {
	u.cancel(err)
	u.stream.SetDeadline(time.Now())
}

// run runs job, which ends soon after u.ctx does, and keeps close waiting for it.
func (u *upload) run(job func() error) error {
	u.mu.Lock()
	if u.closed {
		u.mu.Unlock()
		return context.Cause(u.ctx)
	}
	u.jobs.Add(1)
	u.mu.Unlock()
	defer u.jobs.Done()
	return job()
}

// close ends the upload and waits until nothing of it runs. It returns why it ended.
func (u *upload) close() error {
	u.fail(context.Canceled)
	err := context.Cause(u.ctx)
	u.mu.Lock()
	u.closed = true
	u.mu.Unlock()
	u.stream.Close()
	<-u.done
	u.jobs.Wait()
	u.disk.set.Rewind()
	return err
}

// cause prefers the target's word over the broken stream that follows it.
func (u *upload) cause(err error) error {
	if err == nil {
		return nil
	}
	if target := (*wire.Error)(nil); errors.As(err, &target) {
		return err
	}
	select { // the target's reason may still be on its way through receive
	case <-u.ctx.Done():
		return context.Cause(u.ctx)
	case <-time.After(time.Second):
		return err
	}
}

// begin opens a delta after the target's newest, with all that a comparison has found so far.
func (u *upload) begin() error {
	u.disk.merge()
	u.begun = u.disk.current()
	return u.beginNext()
}

// beginNext opens a delta that goes on where the one before ended, in the same state of the comparison: so that passes come
// to an end.
func (u *upload) beginNext() error {
	d := u.disk
	parent := d.current().Acked
	var err error
	u.open, err = beginDelta(u.stream, u.codec, block.DeltaHeader{
		Disk: d.id, Seq: parent.Seq + 1, Generation: u.generation, BlockSize: d.set.BlockSize(),
		DiskSize: d.pump.size, Parent: parent.Digest,
	})
	return u.cause(err)
}

// full tells whether the open delta is large or old enough to be sealed as a part.
func (u *upload) full() bool {
	payload, covered := u.open.held()
	return payload >= partBytes || time.Since(u.open.start) > partTime && covered > 0
}

// sweep sends all that the set holds now, in as many parts as it takes. It returns with a delta open.
func (u *upload) sweep(ctx context.Context) error {
	for {
		if err := u.disk.pump.pass(u.ctx, u.open, u.full); err != nil {
			return u.cause(err)
		}
		if !u.full() {
			return nil
		}
		if _, err := u.commit(ctx, block.ClassNone, 0, time.Now(), nil); err != nil {
			return err
		}
		if err := u.beginNext(); err != nil {
			return err
		}
	}
}

// catchUp sends parts until little enough is left to join the group.
func (u *upload) catchUp(ctx context.Context) error {
	d := u.disk
	total := d.set.BlockSize().Bytes(d.set.Pending())
	if total <= partBytes/8 {
		return nil
	}
	d.show(func(s *DiskStatus) { s.State, s.Total, s.Done, s.eta = StateSyncing, total, 0, eta{since: time.Now()} })
	if err := u.begin(); err != nil {
		return err
	}
	if err := u.precopy(ctx); err != nil {
		return err
	}
	_, err := u.commit(ctx, block.ClassNone, 0, time.Now(), nil)
	return err
}

// commit seals the open delta and waits until the target has it durably. Only then the bits go.
func (u *upload) commit(ctx context.Context, class block.Class, flags block.SealFlags, at time.Time, labels map[string]string) (block.Seal, error) {
	d := u.disk
	seal := u.finish(class, flags, at, labels)
	d.update(func(n *note) { n.Sealed = tip{seal.Seq, seal.Digest} })
	err := u.stream.SendSeal(seal)
	if err == nil {
		err = u.stream.Flush()
	}
	if err != nil {
		return seal, u.cause(err)
	}
	timeout := time.NewTimer(ackTimeout)
	defer timeout.Stop()
	select {
	case ack := <-u.acks:
		if ack.Seq != seal.Seq || ack.Digest != seal.Digest {
			return seal, fmt.Errorf("target acknowledged delta %v, sent was %v: %w", ack.Seq, seal.Seq, wire.ErrProtocol)
		}
	case <-u.ctx.Done():
		return seal, context.Cause(u.ctx)
	case <-ctx.Done():
		return seal, ctx.Err()
	case <-timeout.C:
		return seal, fmt.Errorf("target did not acknowledge delta %v within %v", seal.Seq, ackTimeout)
	}
	d.update(func(n *note) { n.Acked = n.Sealed })
	d.set.Ack()
	d.acked.Add(1)
	u.pace.acked(seal)
	d.show(func(s *DiskStatus) {
		s.Sent += seal.Payload
		s.Done = min(s.Done+seal.Covered, s.Total)
	})
	return seal, nil
}

// finish completes the seal. What was not known to be whole when the delta began is no consistent point: blocks that are
// stale at the target may not have been found yet.
func (u *upload) finish(class block.Class, flags block.SealFlags, at time.Time, labels map[string]string) block.Seal {
	d := u.disk
	if !class.Point() {
		return u.open.finish(class, flags, u.clock.part(at), labels)
	}
	if !u.begun.proven() {
		flags |= block.FlagUnproven
	}
	if !u.begun.Synced {
		class = block.ClassFuzzy
		labels = maps.Clone(labels)
		if labels == nil {
			labels = map[string]string{}
		}
		delete(labels, applicationsLabel)
		labels["scan"] = fmt.Sprintf("under way: %d%% compared", 100*u.begun.Scanned/d.pump.size)
	}
	when := u.clock.point(at)
	if behind := when.Sub(at); behind > time.Second && !d.behind {
		u.log.Warn("this host's clock is behind the newest point: it was set back, or is wrong since the last start; points follow that one until it has caught up",
			"disk", d.path, "behind", behind.Round(time.Second))
	}
	d.behind = when.Sub(at) > time.Second
	return u.open.finish(class, flags, when, labels)
}

// audit asks the tracker whether it can stand behind what it marked, and remembers when it can't.
func (u *upload) audit() (missed bool, err error) {
	d := u.disk
	a, err := d.tracker.Audit()
	if err != nil {
		return false, err
	}
	if a.Missed {
		u.distrust(a.Reason)
	}
	return d.current().Missed, nil
}

// distrust has points flagged unproven until the whole disk has been compared.
func (u *upload) distrust(reason string) {
	d := u.disk
	d.mu.Lock()
	first := !d.note.Missed
	d.missed++
	d.note.Missed, d.note.Scanned = true, 0
	d.note.write(d.noteMem)
	d.mu.Unlock()
	if first {
		u.log.Warn("tracking may have missed a write: points are marked unproven until the disk has been compared",
			"disk", d.path, "reason", reason)
	}
}
