package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/internal/block"
)

// writerCommand is the first argument of this program where it is the writers' process.
const writerCommand = "order-writers"

// plan is what the writers' process is told.
type plan struct {
	Roots []string      `json:"roots"` // of each disk: its mount point or device
	Lanes []lane        `json:"lanes"`
	Noise []noise       `json:"noise"`
	Rest  time.Duration `json:"rest"` // now and then all writers rest, up to so long; 0: never
	Seed  uint64        `json:"seed"`
}

// noise is a place between two lanes that is written at random, so that a point has something to read before it gets from one
// to the other. Nobody looks at it.
type noise struct {
	Lane int    `json:"lane"` // made after this lane's
	Disk int    `json:"disk"`
	Path string `json:"path"`
	Base int64  `json:"base"`
	Size int64  `json:"size"`
	Rate int    `json:"rate"` // 4 KiB writes a second
}

// writers is the process at work.
type writers struct {
	plan   plan
	gate   sync.RWMutex // held for writing while all rest
	tokens []chan token // by lane that takes it

	mu  sync.Mutex
	out io.Writer
}

// token says which epoch was acknowledged before it was handed over.
type token struct {
	lane  int
	epoch uint64
}

// writeMain runs the plan in args until ctx ends, and writes the ledger to w.
func writeMain(ctx context.Context, args []string, w io.Writer) error {
	if len(args) != 1 {
		return fmt.Errorf("%s is started by order, not by hand", writerCommand)
	}
	p := &writers{out: w}
	if err := json.Unmarshal([]byte(args[0]), &p.plan); err != nil {
		return err
	}
	return p.run(ctx)
}

func (p *writers) run(ctx context.Context) error {
	for i := range p.plan.Lanes {
		l := &p.plan.Lanes[i]
		p.tokens = append(p.tokens, make(chan token, 1))
		if l.Path != "" && !l.Log {
			if err := writeZeroes(filepath.Join(p.plan.Roots[l.Disk], l.Path), int64(l.Slots)*int64(l.Unit)); err != nil {
				return err
			}
		}
		for _, n := range p.plan.Noise {
			if n.Lane != i || n.Path == "" {
				continue
			}
			if err := writeZeroes(filepath.Join(p.plan.Roots[n.Disk], n.Path), n.Size); err != nil {
				return err
			}
		}
	}
	for _, root := range p.plan.Roots {
		if err := syncDir(root); err != nil {
			return err
		}
	}
	if err := p.tell(entry{lane: readyLane}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	start := func(f func(context.Context) error) {
		all.Go(func() {
			if err := f(ctx); err != nil {
				cancel(err)
			}
		})
	}
	for i := range p.plan.Lanes {
		start(func(ctx context.Context) error { return p.write(ctx, i) })
	}
	for i, n := range p.plan.Noise {
		start(func(ctx context.Context) error { return p.makeNoise(ctx, n, uint64(i)) })
	}
	start(p.rest)
	all.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// tell puts an entry into the ledger.
func (p *writers) tell(e entry) error {
	var b [entrySize]byte
	e.put(b[:])
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := p.out.Write(b[:])
	return err
}

// rest stops all writers now and then.
func (p *writers) rest(ctx context.Context) error {
	random := rand.New(rand.NewPCG(p.plan.Seed, 3))
	for p.plan.Rest > 0 && ctx.Err() == nil {
		sleep(ctx, time.Duration(random.Int64N(int64(p.plan.Rest))))
		p.gate.Lock()
		sleep(ctx, time.Duration(random.Int64N(int64(p.plan.Rest))))
		p.gate.Unlock()
	}
	return nil
}

// write is one lane: epoch after epoch.
func (p *writers) write(ctx context.Context, index int) error {
	l := &p.plan.Lanes[index]
	w := &laneWriter{lane: l, index: index, root: p.plan.Roots[l.Disk], buf: block.AlignedBuffer(block.Size(l.Unit))}
	defer w.close()
	next, first := p.successor(index), l.After >= 0 && p.startsRelay(index)
	for epoch := uint64(1); ctx.Err() == nil; epoch++ {
		handed := token{lane: -1}
		if l.After >= 0 && !(first && epoch == 1) {
			select {
			case handed = <-p.tokens[index]:
			case <-ctx.Done():
				return nil
			}
		}
		p.gate.RLock()
		e, err := w.epoch(epoch, handed)
		p.gate.RUnlock()
		if err == nil {
			err = p.tell(e)
		}
		if err != nil {
			return fmt.Errorf("lane %d: %w", index, err)
		}
		if next >= 0 {
			p.tokens[next] <- token{index, epoch}
		}
	}
	return nil
}

// successor is the lane that takes the token from this one, or -1.
func (p *writers) successor(index int) int {
	for i, l := range p.plan.Lanes {
		if l.After == index {
			return i
		}
	}
	return -1
}

// startsRelay tells whether the lane is the first of its relay, which begins without a token.
func (p *writers) startsRelay(index int) bool {
	for i := p.plan.Lanes[index].After; i != index; i = p.plan.Lanes[i].After {
		if i < index {
			return false
		}
	}
	return true
}

// laneWriter writes one lane's slots and barriers.
type laneWriter struct {
	lane   *lane
	index  int
	root   string
	buf    []byte
	file   *os.File
	number uint64 // of the log's file
	fresh  bool   // it was made in this epoch
}

func (w *laneWriter) close() {
	if w.file != nil {
		w.file.Close()
	}
}

// clock is the monotonic clock that all processes share.
func clock() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // it can't fail for this clock
	return t.Nano()
}

// epoch writes an epoch and its barrier, and returns what to put into the ledger.
func (w *laneWriter) epoch(epoch uint64, handed token) (entry, error) {
	l := w.lane
	for seq := (epoch-1)*l.Epoch + 1; seq <= epoch*l.Epoch; seq++ {
		at, err := w.place(seq)
		if err != nil {
			return entry{}, err
		}
		s := stamp{
			lane: w.index, seq: seq, slot: l.slotOf(seq), begun: clock(), after: handed.lane, afterEpoch: handed.epoch,
		}
		for s.part = range l.Unit / sectorSize {
			s.put(w.buf[s.part*sectorSize:])
		}
		if _, err := w.file.WriteAt(w.buf, at); err != nil {
			return entry{}, err
		}
	}
	if err := w.barrier(); err != nil {
		return entry{}, err
	}
	return entry{lane: w.index, epoch: epoch, acked: clock(), wall: time.Now().UnixNano()}, nil
}

// place opens what holds the slot of a sequence, and tells where in it the slot is.
func (w *laneWriter) place(seq uint64) (int64, error) {
	l, slot := w.lane, w.lane.slotOf(seq)
	path, flags := filepath.Join(w.root, l.Path), os.O_WRONLY
	if l.Direct {
		flags |= unix.O_DIRECT
	}
	if l.Log {
		n := slot / l.Slots
		slot %= l.Slots
		if slot == 0 {
			w.close()
			w.file = nil
			flags |= os.O_CREATE
			path, w.fresh, w.number = filepath.Join(w.root, l.file(n)), true, n
		}
	}
	if w.file == nil {
		var err error
		if w.file, err = os.OpenFile(path, flags, 0o600); err != nil {
			return 0, err
		}
	}
	return l.Base + int64(slot)*int64(l.Unit), nil
}

// barrier makes the epoch durable. Only when a log's new file is, the one that nobody looks at any more goes.
func (w *laneWriter) barrier() error {
	if w.fresh {
		w.fresh = false
		if err := errors.Join(w.file.Sync(), syncDir(w.root)); err != nil || w.number < 2 {
			return err
		}
		return os.Remove(filepath.Join(w.root, w.lane.file(w.number-2)))
	}
	if w.lane.Direct {
		return unix.Fdatasync(int(w.file.Fd()))
	}
	return w.file.Sync()
}

// syncDir syncs a folder; a device has no entries to sync.
func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// makeNoise writes at random places, at a rate, in bursts of a hundredth of a second.
func (p *writers) makeNoise(ctx context.Context, n noise, stream uint64) error {
	f, err := os.OpenFile(filepath.Join(p.plan.Roots[n.Disk], n.Path), os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	random, b := rand.New(rand.NewPCG(p.plan.Seed, 100+stream)), block.AlignedBuffer(4096)
	for ctx.Err() == nil {
		for range max(1, n.Rate/100) {
			copy(b, strconv.FormatUint(random.Uint64(), 36))
			p.gate.RLock()
			_, err := f.WriteAt(b, n.Base+random.Int64N(n.Size/4096)*4096)
			p.gate.RUnlock()
			if err != nil {
				return fmt.Errorf("noise: %w", err)
			}
		}
		sleep(ctx, 10*time.Millisecond)
	}
	return nil
}

// sleep returns early when ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
