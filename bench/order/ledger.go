package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// entry is an acknowledged epoch.
type entry struct {
	lane  int
	epoch uint64
	acked int64 // monotonic clock, after the barrier
	wall  int64 // wall clock, nanoseconds since 1970, after the barrier
}

// entrySize is an entry's length on the pipe: less than what a pipe takes whole.
const entrySize = 32

func (e entry) put(b []byte) {
	binary.LittleEndian.PutUint64(b, uint64(e.lane))
	binary.LittleEndian.PutUint64(b[8:], e.epoch)
	binary.LittleEndian.PutUint64(b[16:], uint64(e.acked))
	binary.LittleEndian.PutUint64(b[24:], uint64(e.wall))
}

func readEntry(b []byte) entry {
	u := binary.LittleEndian.Uint64
	return entry{lane: int(u(b)), epoch: u(b[8:]), acked: int64(u(b[16:])), wall: int64(u(b[24:]))}
}

// ledger knows what was acknowledged. Several goroutines may use it.
type ledger struct {
	mu    sync.Mutex
	lanes [][]entry // by lane; epoch n at n-1
	ready chan struct{}
}

func newLedger(lanes int) *ledger {
	return &ledger{lanes: make([][]entry, lanes), ready: make(chan struct{})}
}

// readyLane is the lane of the entry that says that everything is prepared.
const readyLane = 1 << 20

// read takes entries in until the pipe ends; a killed process may end it within one.
func (l *ledger) read(r io.Reader) error {
	b := make([]byte, entrySize)
	for {
		if _, err := io.ReadFull(r, b); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read ledger: %w", err)
		}
		if err := l.add(readEntry(b)); err != nil {
			return err
		}
	}
}

func (l *ledger) add(e entry) error {
	if e.lane == readyLane {
		close(l.ready)
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.lane < 0 || e.lane >= len(l.lanes) || e.epoch != uint64(len(l.lanes[e.lane]))+1 {
		return fmt.Errorf("read ledger: epoch %d of lane %d is out of turn", e.epoch, e.lane)
	}
	l.lanes[e.lane] = append(l.lanes[e.lane], e)
	return nil
}

// total is how many epochs were acknowledged.
func (l *ledger) total() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, lane := range l.lanes {
		n += len(lane)
	}
	return n
}

// acked is the entry of an epoch, if it was acknowledged.
func (l *ledger) acked(lane int, epoch uint64) (entry, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if epoch == 0 || epoch > uint64(len(l.lanes[lane])) {
		return entry{}, false
	}
	return l.lanes[lane][epoch-1], true
}

// begun tells whether an epoch may have been begun: the one before it was acknowledged.
func (l *ledger) begun(lane int, epoch uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return epoch <= uint64(len(l.lanes[lane]))+1
}
