package capture_test

import (
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/internal/block"
)

// memory is a Tracker whose marks a test sets itself.
type memory struct {
	mu    sync.Mutex
	n     block.Count
	marks []uint64
	keep  capture.Keep
}

func newMemory(n block.Count) *memory {
	return &memory{
		n: n, marks: make([]uint64, block.WordsFor(n)),
		keep: capture.Keep{Pending: make([]uint64, block.WordsFor(n)), Note: make([]byte, capture.NoteSize)},
	}
}

func (m *memory) write(i block.Index) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.marks[i/64] |= 1 << uint(i%64)
}

func (m *memory) Take(sink func(int, uint64)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for w, v := range m.marks {
		if v != 0 {
			sink(w, v)
			m.marks[w] = 0
		}
	}
	return nil
}

func (m *memory) Geometry() (block.BlockSize, block.Count) { return 4096, m.n }
func (m *memory) Audit() (capture.Audit, error)            { return capture.Audit{}, nil }
func (m *memory) Keep() capture.Keep                       { return m.keep }
func (m *memory) Status() capture.Status                   { return capture.Status{Kind: "memory"} }
func (m *memory) Close() error                             { return nil }
func (m *memory) Remove() error                            { return nil }

// replica is a model of a disk and its copy: one version number a block.
type replica struct {
	disk, copy, open []int // open: what the delta under way will make of copy
}

// TestSetNeverLosesABlock replays random histories of writes, passes, acks, failures and restarts of the agent. After a last
// full round the copy must equal the disk, whatever came before.
func TestSetNeverLosesABlock(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := block.Count(rapid.IntRange(1, 200).Draw(t, "n"))
		m := newMemory(n)
		s := capture.NewSet(m)
		r := replica{make([]int, n), make([]int, n), make([]int, n)}
		pass := func() {
			if _, err := s.Take(); err != nil {
				t.Fatal(err)
			}
			limit := block.Count(rapid.IntRange(1, 70).Draw(t, "limit"))
			for run, ok := s.Next(0, limit); ok; run, ok = s.Next(run.End(), limit) {
				s.Sent(run)
				copy(r.open[run.First:run.End()], r.disk[run.First:run.End()])
			}
			if left := s.Left(); left != 0 {
				t.Fatalf("%d blocks left after a pass", left)
			}
		}
		version := 0
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0, 1:
				version++
				i := rapid.IntRange(0, int(n)-1).Draw(t, "block")
				r.disk[i] = version
				m.write(block.Index(i))
			case 2:
				pass()
			case 3:
				copy(r.copy, r.open)
				s.Ack()
			case 4:
				copy(r.open, r.copy)
				s.Rewind()
			case 5: // the agent is killed: only the tracker's memory is left
				copy(r.open, r.copy)
				s = capture.NewSet(m)
			}
		}
		pass()
		s.Ack()
		for i := range r.disk {
			if r.open[i] != r.disk[i] {
				t.Fatalf("block %d is at version %d, the copy at %d", i, r.disk[i], r.open[i])
			}
		}
		if s.Pending() != 0 {
			t.Fatalf("%d blocks pending after the last ack", s.Pending())
		}
	})
}

func TestNextStopsAtTheLimitAndAtGaps(t *testing.T) {
	s := capture.NewSet(newMemory(300))
	s.Mark(block.Run{First: 10, N: 200})
	s.Mark(block.Run{First: 250, N: 50})
	var got []block.Run
	for r, ok := s.Next(0, 130); ok; r, ok = s.Next(r.End(), 130) {
		got = append(got, r)
	}
	want := []block.Run{{First: 10, N: 130}, {First: 140, N: 70}, {First: 250, N: 50}}
	if len(got) != len(want) {
		t.Fatalf("runs %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("run %d is %v, want %v", i, got[i], want[i])
		}
	}
}

// TestIgnoredBlocksDoNotCount: their marks are taken like all others, and are not counted.
func TestIgnoredBlocksDoNotCount(t *testing.T) {
	m := newMemory(300)
	s := capture.NewSet(m)
	s.Ignore([]block.Run{{First: 60, N: 70}, {First: 200, N: 1}})
	counted := uint64(0)
	for i := range block.Index(300) {
		m.write(i)
		n, err := s.Take()
		if err != nil {
			t.Fatal(err)
		}
		if ignored := i >= 60 && i < 130 || i == 200; (n == counted) != ignored {
			t.Errorf("block %d: counted %v, ignored %v", i, n != counted, ignored)
		}
		counted = n
	}
	if s.Left() != 300 {
		t.Errorf("%d of 300 blocks are to be sent", s.Left())
	}
}

// TestTakeAllocatesNothing: it is called while file systems are frozen.
func TestTakeAllocatesNothing(t *testing.T) {
	m := newMemory(300)
	s := capture.NewSet(m)
	if n := testing.AllocsPerRun(100, func() { m.write(7); s.Take() }); n > 0 {
		t.Errorf("Take allocates %v times", n)
	}
}
