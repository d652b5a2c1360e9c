package ebpf

import (
	"sync/atomic"

	"github.com/understudy-dr/understudy/internal/block"
)

// The table of writes in flight is for kernels that withhold completion events. It has an entry for every request that the
// disk's queues can hold, and is kept by two more programs (flight_program.go):
//
//	issue ──▶ entry ──┬──▶ completion seen, or given back by the driver ──▶ gone
//	                  ├──▶ the request is issued for another write: so the first has completed ──▶ marks, found ──▶ gone
//	                  └──▶ the statistics account for all that is in the table (settle)        ──▶ marks, found ──▶ gone
//
// As long as there is an entry, each Take hands over its blocks. The argument is in doc.go.

// table is the size of the table.
type table struct {
	Queues, Depth uint32 // hardware queues, and entries of each
}

func (t table) entries() int { return int(t.Queues * t.Depth) }

// maxEntries bounds the table to 8 MiB. A request for which there is no entry is marked by its completion alone.
const maxEntries = 1 << 18

// leastDepth leaves room for an I/O scheduler to be set, which by itself holds up to 256 requests.
const leastDepth = 256

// The words of an entry.
const (
	entryID      = iota // when the request was made, by the kernel's clock in ns: no later use of it has the same; 0: empty
	entryFirst          // sector
	entrySectors        // from the first to the last
	entryCount          // sectors as the disk's statistics count them: fewer where a discard has several ranges
	entryWords
)

// flight is an entry that was read.
type flight struct {
	at                        int // word
	id, first, sectors, count uint64
}

// inFlight reads the entries that are not empty into f, which has room for all.
func (m *memory) inFlight(f []flight) []flight {
	f = f[:0]
	for i := range m.entries {
		at := m.flights + i*entryWords
		e := flight{at: at, id: atomic.LoadUint64(&m.words[at])}
		if e.id == 0 {
			continue
		}
		e.first = atomic.LoadUint64(&m.words[at+entryFirst])
		e.sectors = atomic.LoadUint64(&m.words[at+entrySectors])
		e.count = atomic.LoadUint64(&m.words[at+entryCount])
		if atomic.LoadUint64(&m.words[at]) == e.id {
			f = append(f, e)
		} // else it was taken out meanwhile, and marked, or has only just been issued
	}
	return f
}

// still tells whether the table holds just these.
func (m *memory) still(f []flight) bool {
	for i := range m.entries {
		at := m.flights + i*entryWords
		id := atomic.LoadUint64(&m.words[at])
		if id == 0 {
			continue
		}
		if len(f) == 0 || f[0].at != at || f[0].id != id {
			return false
		}
		f = f[1:]
	}
	return len(f) == 0
}

// markFlight marks what an entry covers of the tracked part.
func (p *pinned) markFlight(e flight) {
	first, end := max(e.first, p.head.Start), min(e.first+e.sectors, p.head.Start+p.head.Size/512)
	if first >= end {
		return
	}
	r := block.Range{Off: block.Offset(first-p.head.Start) * 512, Len: block.Size(end-first) * 512}.Covering(block.BlockSize(p.head.BlockSize))
	for i := r.First; i < r.End(); {
		bit := uint(i % 64)
		n := min(64-bit, uint(r.End()-i))
		atomic.OrUint64(&p.mem.words[p.mem.marks+int(i/64)], (^uint64(0)>>(64-n))<<bit)
		i += block.Index(n)
	}
}

// settle marks what is in the table, and takes it out if all of it has landed: if the statistics have just as many sectors
// more than were seen to complete as the table holds, and the queues hold no write. It allocates nothing: it is called while
// file systems are frozen.
func (p *pinned) settle(s *statistics) {
	if p.head.Flights == 0 {
		return
	}
	p.seen = p.mem.inFlight(p.seen)
	var sectors uint64
	for _, e := range p.seen {
		p.markFlight(e)
		sectors += e.count
	}
	if sectors == 0 || !s.idle() {
		return
	}
	now, err := p.offsets(s)
	if err != nil || now.short(p.head.Baseline) != int64(sectors) || !p.mem.still(p.seen) {
		return
	}
	for _, e := range p.seen {
		if atomic.CompareAndSwapUint64(&p.mem.words[e.at], e.id, 0) {
			atomic.AddUint64(&p.mem.words[p.mem.counter(flightCopy, counterFound)], e.count)
		}
	}
}
