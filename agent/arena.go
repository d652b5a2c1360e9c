package agent

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/internal/block"
)

// arena is memory for what a freeze reads. Only its addresses are set aside for good: a cut makes as much of it real, and locks
// it, as it is going to need (warm), and gives that back when it has been sent (cool).
//
// So the agent holds what a freeze really reads, which the freeze budget bounds: 50 ms at 2 GB/s are 100 MB.
type arena struct {
	mem []byte
}

func newArena(size block.Size) (*arena, error) {
	size = (size + block.DirectAlign - 1) &^ (block.DirectAlign - 1)
	mem, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("set %v of address space aside for what a freeze reads: %w", size, err)
	}
	a := &arena{mem: mem}
	a.cool() // the process may lock what it maps: see lockMemory
	return a, nil
}

// warm makes the first n bytes real, so that a read into them needs nothing of the kernel's memory management.
func (a *arena) warm(n block.Size) {
	n = min(n, block.Size(len(a.mem)))
	if unix.Mlock(a.mem[:n]) == nil {
		return
	}
	for at := block.Size(0); at < n; at += block.DirectAlign { // not allowed to lock: real all the same
		a.mem[at] = 0
	}
}

// cool gives the memory back. What it held is gone.
func (a *arena) cool() {
	_ = unix.Munlock(a.mem) // what is locked can't be given back
	_ = unix.Madvise(a.mem, unix.MADV_DONTNEED)
}

func (a *arena) close() {
	if a.mem != nil {
		_ = unix.Munmap(a.mem)
		a.mem = nil
	}
}
