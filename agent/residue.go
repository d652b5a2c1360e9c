package agent

import (
	"errors"
	"fmt"

	"github.com/understudy-dr/understudy/internal/block"
)

// errResidue: more blocks changed than the memory set aside for a freeze holds.
var errResidue = errors.New("more changed during the last pass than fits the memory for a freeze: raise memory")

// residue is what a freeze reads of one disk: memory made before, filled while frozen, sent after the thaw.
type residue struct {
	arena  *arena
	runs   []residueRun
	used   block.Size
	next   int
	failed error
}

type residueRun struct {
	r  block.Range
	at block.Size // in arena
}

const (
	// residueMargin is made ready on top of what is left before a freeze: the freeze writes back what was dirtied meanwhile.
	residueMargin = 4 * block.MiB
	// residueRuns bounds the list of runs for its memory, 24 bytes each: no disk reads so many in a freeze.
	residueRuns = 1 << 16
)

func newResidue(budget block.Size) (*residue, error) {
	a, err := newArena(budget)
	if err != nil {
		return nil, err
	}
	// No more runs than one for every block of the arena, should no two be neighbours.
	return &residue{arena: a, runs: make([]residueRun, 0, min(budget/block.Size(block.DefaultBlockSize), residueRuns))}, nil
}

// room is how much fits.
func (s *residue) room() block.Size { return block.Size(len(s.arena.mem)) }

// collect takes from the pump's set what the open delta lacks, and marks it sent. It allocates nothing.
func (s *residue) collect(p *pump) error {
	s.runs, s.used, s.next, s.failed = s.runs[:0], 0, 0, nil
	bs := p.set.BlockSize()
	limit := max(1, block.Count(readBytes/block.Size(bs)))
	for run, ok := p.set.Next(0, limit); ok; run, ok = p.set.Next(run.End(), limit) {
		r := run.Range(bs, p.size)
		room := directLen(r.Len)
		if s.used+room > s.room() || len(s.runs) == cap(s.runs) {
			return errResidue
		}
		s.runs = append(s.runs, residueRun{r: r, at: s.used})
		s.used += room
		p.set.Sent(run)
	}
	return nil
}

// readSome reads some runs that nobody has read yet. It is false when there are none, or a read has failed. It allocates nothing
// unless it fails.
func (s *residue) readSome(dev block.Device, w *freezeReader) bool {
	s.take(w)
	if len(w.reads) == 0 {
		return false
	}
	if err := w.batch.Read(dev, w.reads); err != nil {
		s.fail(fmt.Errorf("read disk: %w", err))
		return false
	}
	return true
}

// take has w read the next runs.
func (s *residue) take(w *freezeReader) {
	w.reads = w.reads[:0]
	if s.failed != nil {
		return
	}
	for n := block.Size(0); s.next < len(s.runs) && len(w.reads) < freezeReads && n < freezeBytes; s.next++ {
		run := s.runs[s.next]
		w.reads = append(w.reads, block.Read{Off: run.r.Off, Buf: s.arena.mem[run.at : run.at+run.r.Len]})
		n += run.r.Len
	}
}

// fail ends the reads.
func (s *residue) fail(err error) {
	if s.failed == nil {
		s.failed = err
	}
}

// send puts what was read into the open delta.
func (s *residue) send(w *readWorker, d *delta) error {
	for _, run := range s.runs {
		err := split(run.r.Off, s.arena.mem[run.at:run.at+run.r.Len], func(r block.Range, data []byte) error {
			return w.put(d, r, data)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// drop puts the blocks back into the dirty set: what was read of them is not to be sent.
func (s *residue) drop(p *pump) {
	for _, run := range s.runs {
		p.set.Mark(run.r.Covering(p.set.BlockSize()))
	}
}

// reset gives the memory back.
func (s *residue) reset() {
	s.runs = s.runs[:0]
	s.arena.cool()
}
