package agent

import (
	"errors"
	"sync"

	"github.com/understudy-dr/understudy/internal/block"
)

// errResidue: more blocks changed than the memory set aside for a freeze holds.
var errResidue = errors.New("more changed during the last pass than fits the memory for a freeze")

// residue is what a freeze reads: memory made before, filled while frozen, sent after the thaw. It is made once, and memory
// that no freeze has needed yet takes no room.
type residue struct {
	arena  []byte
	runs   []residueRun
	used   block.Size
	readMu sync.Mutex
	next   int
	failed error
}

type residueRun struct {
	r  block.Range
	at block.Size // in arena
}

// residueRuns bounds the list of runs: one for every block of the arena, should no two be neighbours.
func newResidue(budget block.Size) *residue {
	return &residue{
		arena: block.AlignedBuffer(budget),
		runs:  make([]residueRun, 0, budget/block.Size(block.DefaultBlockSize)),
	}
}

// collect takes from the pump's set what the open delta lacks, and marks it sent.
func (s *residue) collect(p *pump) error {
	s.runs, s.used, s.next, s.failed = s.runs[:0], 0, 0, nil
	bs := p.set.BlockSize()
	limit := max(1, block.Count(readBytes/block.Size(bs)))
	for run, ok := p.set.Next(0, limit); ok; run, ok = p.set.Next(run.End(), limit) {
		r := run.Range(bs, p.size)
		room := (r.Len + block.DirectAlign - 1) &^ (block.DirectAlign - 1)
		if s.used+room > block.Size(len(s.arena)) || len(s.runs) == cap(s.runs) {
			return errResidue
		}
		s.runs = append(s.runs, residueRun{r: r, at: s.used})
		s.used += room
		p.set.Sent(run)
	}
	return nil
}

// read fills the arena, several reads at a time: a freeze waits for it.
func (s *residue) read(dev block.Device) error {
	var wg sync.WaitGroup
	for range min(len(s.runs), 2*readers) {
		wg.Go(func() {
			for run, ok := s.take(); ok; run, ok = s.take() {
				if err := readFull(dev, s.arena[run.at:run.at+run.r.Len], run.r.Off); err != nil {
					s.fail(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return s.failed
}

func (s *residue) take() (residueRun, bool) {
	s.readMu.Lock()
	defer s.readMu.Unlock()
	if s.next == len(s.runs) || s.failed != nil {
		return residueRun{}, false
	}
	s.next++
	return s.runs[s.next-1], true
}

func (s *residue) fail(err error) {
	s.readMu.Lock()
	defer s.readMu.Unlock()
	s.failed = err
}

// send puts what was read into the open delta.
func (s *residue) send(w *readWorker, d *delta) error {
	for _, run := range s.runs {
		err := split(run.r.Off, s.arena[run.at:run.at+run.r.Len], func(r block.Range, data []byte) error {
			return w.put(d, r, data)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
