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
//	header 4 KiB | note 4 KiB | counters 4 KiB | coarse bits | marks | pending bits        each part begins on a page
//
// One coarse bit stands for a whole word of marks: a large discard sets those instead of the words between its ends. The
// programs write counters, coarse bits and marks; the agent takes coarse bits and marks, and alone writes the rest.
type layout struct {
	blocks                 block.Count
	coarse, marks, pending int // in words
	words                  int // in all
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
	// queueCopy are the counters of the program at block_bio_queue.
	queueCopy = copies
	// copyWords keeps the counters of two copies off each other's cache lines.
	copyWords = 64
)

// The counters of a copy.
const (
	counterSectors  = iota // of all completed writes of the whole disk, as the disk's statistics count them
	counterDriver          // pass-through requests, whose effect nobody can see
	counterOverflow        // requests too large to mark
	counters
)

func newLayout(blocks block.Count) layout {
	page := func(words int) int { return (words + pageWords - 1) / pageWords * pageWords }
	words := block.WordsFor(blocks)
	l := layout{blocks: blocks, coarse: wordCoarse}
	l.marks = l.coarse + page(block.WordsFor(block.Count(words)))
	l.pending = l.marks + page(words)
	l.words = l.pending + page(words)
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
	Queue     uint32 // 1 when the queue mark is on
	Missed    uint32 // 1 when a miss was found and not yet reported
	// Baseline, DriverSeen and OverflowSeen are what the last audit left.
	Baseline     offsets
	DriverSeen   uint64
	OverflowSeen uint64
}

const (
	headerMagic   = "USEBPF\n\x00"
	headerVersion = 1
)

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

var headerSize = 8 + 4 + 8 + binary.Size(header{})

// slot is one of the two, if it is whole.
func (m *memory) slot(i int) []byte {
	b := m.raw[i*2048:]
	if string(b[:8]) != headerMagic || binary.LittleEndian.Uint32(b[8:]) != headerVersion {
		return nil
	}
	if crc32.Checksum(b[:headerSize], block.Castagnoli) != binary.LittleEndian.Uint32(b[headerSize:]) {
		return nil
	}
	return b[:headerSize]
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
	_, err := binary.Decode(b[20:], binary.LittleEndian, &h)
	return h, err == nil
}
