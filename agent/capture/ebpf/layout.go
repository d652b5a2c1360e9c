package ebpf

import (
	"encoding/binary"
	"hash/crc32"
	"sync/atomic"
	"unsafe"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/internal/block"
)

// The pinned map is one array of 64-bit words, mapped into the agent and written by the programs:
//
//	header 4 KiB | note 4 KiB | counters 4 KiB | coarse bits | marks | pending bits | flights        each begins on a page
//
// One coarse bit stands for a whole word of marks: a large discard sets those instead of the words between its ends. The
// programs write counters, coarse bits, marks and flights (see flight.go); the agent takes the last three, and alone writes
// the rest.
type layout struct {
	blocks                          block.Count
	coarse, marks, pending, flights int // in words
	words                           int // in all
	entries                         int // in flights
}

const (
	pageWords    = 4096 / 8
	wordHeader   = 0
	wordNote     = pageWords
	wordCounters = 2 * pageWords
	wordCoarse   = 3 * pageWords

	// copies of the completion program. A tracing program does not run again on a CPU where it is running already, so a
	// completion interrupt inside it would be lost; task, softirq and hardirq can't nest deeper than three.
	copies = 3
	// flightCopy are the counters of the program at block_rq_issue.
	flightCopy = copies
	// copyWords keeps the counters of two copies off each other's cache lines.
	copyWords = 64
)

// The counters of a copy.
const (
	counterSectors  = iota // of all completed writes of the whole disk, as the disk's statistics count them
	counterDriver          // pass-through requests, whose effect nobody can see
	counterOverflow        // requests too large to mark
	counterFound           // sectors whose completion no copy saw, found in the table of writes in flight
	counters
)

func newLayout(blocks block.Count, entries int) layout {
	page := func(words int) int { return (words + pageWords - 1) / pageWords * pageWords }
	words := block.WordsFor(blocks)
	l := layout{blocks: blocks, coarse: wordCoarse, entries: entries}
	l.marks = l.coarse + page(block.WordsFor(block.Count(words)))
	l.pending = l.marks + page(words)
	l.flights = l.pending + page(words)
	l.words = l.flights + page(entries*entryWords)
	return l
}

// counter is the index of a counter's word.
func (l layout) counter(copyIndex, counter int) int {
	return wordCounters + copyIndex*copyWords + counter
}

// memory is the map as the agent sees it.
type memory struct {
	layout
	raw   []byte
	words []uint64
}

func newMemory(l layout, raw []byte) *memory {
	return &memory{layout: l, raw: raw, words: unsafe.Slice((*uint64)(unsafe.Pointer(&raw[0])), len(raw)/8)}
}

func (m *memory) note() []byte { return m.raw[wordNote*8 : wordNote*8+capture.NoteSize] }

func (m *memory) pendingWords() []uint64 {
	return m.words[m.pending : m.pending+block.WordsFor(m.blocks)]
}

func (m *memory) load(copyIndex, counter int) uint64 {
	return atomic.LoadUint64(&m.words[m.counter(copyIndex, counter)])
}

// take hands the marks to sink, each word before its bits are cleared. The bits cleared are those handed over: one set in
// between stays for the next take.
func (m *memory) take(sink func(word int, marks uint64)) {
	n := block.WordsFor(m.blocks)
	for c := range block.WordsFor(block.Count(n)) {
		at := &m.words[m.coarse+c]
		v := atomic.LoadUint64(at)
		if v == 0 {
			continue
		}
		for bit := range 64 {
			if w := c*64 + bit; v&(1<<bit) != 0 && w < n {
				sink(w, m.wholeWord(w))
			}
		}
		atomic.AndUint64(at, ^v)
	}
	for w := range n {
		at := &m.words[m.marks+w]
		if v := atomic.LoadUint64(at); v != 0 {
			sink(w, v)
			atomic.AndUint64(at, ^v)
		}
	}
}

// wholeWord is word w with every block that there is.
func (m *memory) wholeWord(w int) uint64 {
	if left := m.blocks - block.Count(w)*64; left < 64 {
		return 1<<uint(left) - 1
	}
	return ^uint64(0)
}

// header says what the map tracks. It is written whole when the map is made, and later only its last part changes.
type header struct {
	Boot      [16]byte
	Seq       uint64 // the disk's diskseq, 0 where the kernel has none
	Major     uint32
	Minor     uint32
	Start     uint64 // of the tracked part, in sectors
	Size      uint64 // bytes
	BlockSize uint32
	Ready     uint32 // 1 when marks of an older map have been taken over
	Flights   uint32 // 1 when writes in flight are kept in a table; in version 1, when writes were marked in the queue too
	Missed    uint32 // 1 when a miss was found and not yet reported
	// Baseline, DriverSeen and OverflowSeen are what the last audit left.
	Baseline     offsets
	DriverSeen   uint64
	OverflowSeen uint64
	Table        table
}

// layout is that of the map which the header is of.
func (h header) layout() layout {
	return newLayout(block.BlockSize(h.BlockSize).Count(block.Size(h.Size)), h.Table.entries())
}

const (
	headerMagic = "USEBPF\n\x00"
	// headerVersion 2 has the table of writes in flight; 1 ends before it.
	headerVersion = 2
)

// headerSize is without the checksum after it, 0 of a version that is not known.
func headerSize(version uint32) int {
	size := 8 + 4 + 8 + binary.Size(header{})
	switch version {
	case 1:
		return size - binary.Size(table{})
	case headerVersion:
		return size
	}
	return 0
}

// store writes the header into one of two slots in turn, so that a kill in the middle leaves the other.
func (m *memory) store(h header) {
	turn := max(m.turn(0), m.turn(1)) + 1
	b := append([]byte(nil), headerMagic...)
	b = binary.LittleEndian.AppendUint32(b, headerVersion)
	b = binary.LittleEndian.AppendUint64(b, turn)
	b, _ = binary.Append(b, binary.LittleEndian, h) // fixed-size fields only: it can't fail
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, block.Castagnoli))
	copy(m.raw[int(turn%2)*2048:], b)
}

// slot is one of the two, if it is whole.
func (m *memory) slot(i int) []byte {
	b := m.raw[i*2048:]
	size := headerSize(binary.LittleEndian.Uint32(b[8:]))
	if string(b[:8]) != headerMagic || size == 0 {
		return nil
	}
	if crc32.Checksum(b[:size], block.Castagnoli) != binary.LittleEndian.Uint32(b[size:]) {
		return nil
	}
	return b[:size]
}

func (m *memory) turn(i int) uint64 {
	if b := m.slot(i); b != nil {
		return binary.LittleEndian.Uint64(b[12:])
	}
	return 0
}

// readHeader finds the newer whole slot.
func (m *memory) readHeader() (header, bool) {
	var h header
	b := m.slot(0)
	if m.turn(1) > m.turn(0) {
		b = m.slot(1)
	}
	if b == nil {
		return h, false
	}
	whole := make([]byte, headerSize(headerVersion)) // what an older version lacks is zero
	copy(whole, b)
	_, err := binary.Decode(whole[20:], binary.LittleEndian, &h)
	return h, err == nil
}
