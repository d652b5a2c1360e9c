package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"

	"github.com/understudy-dr/understudy/internal/block"
)

// A sealed delta is a file:
//
//	+--------+---------------------------+----------------+------+--------+
//	| header | frames, as they came      | index          | seal | footer |
//	+--------+---------------------------+----------------+------+--------+
//	0        88                          ^ index at       ^ seal at       ^ file size
//
// Header, frames and seal are those of package block. The index has an entry for each frame in the order of the frames:
//
//	kind u8 = 0x49 'I' | zero u8 ×3 | count × (offset u64, length u64, position in the file u64, payload u32) | count u64 | crc u32
//
// The crc is the CRC-32C of all of the index before it. The footer is what a reader begins with:
//
//	magic "USSEALED" | version u32 | index at u64 | seal at u64 | merge at u64 | file size u64 | crc u32
//
// Merge at is where the footer begins if there is no merge section.
//
// So every byte of the file is under a checksum of its unit, and no byte lies between units.
//
// A merged delta stands for all from the first to the last of several that followed each other (merge.go):
//
//	+--------+---------------------------+-------+------+-------+--------+
//	| header | frames, none over another | index | seal | merge | footer |
//	+--------+---------------------------+-------+------+-------+--------+
//
// Its header is the last one's, but for the parent, which is the first one's. Its frames are what is left of theirs, in the
// order of the disk and numbered anew. The seal is the last one's as it was acknowledged: the digest that the next delta names
// as its parent is in it, and its counts are those of that one delta. The merge section has its own (merged.go).

// Limits and sizes of the format.
const (
	footerMagic = "USSEALED"
	// footerVersion is the version of index and footer.
	//
	//	1: the first
	footerVersion = 1
	footerSize    = 8 + 4 + 8 + 8 + 8 + 8 + 4

	indexHead      = "I\x00\x00\x00"
	indexEntrySize = 8 + 8 + 8 + 4
	indexTailSize  = 8 + 4

	// maxFrames is the most frames a delta may have: their numbers are 32 bits wide, and must tell them apart.
	maxFrames = 1<<32 - 1

	maxFrameSize = block.FrameHeaderSize + int(block.MaxFramePayload)

	deltaSuffix = ".delta"
	openSuffix  = ".open"
	spillSuffix = ".spill"
	sortSuffix  = ".sort"
)

// A buffer of that size must be able to hold any frame: see Writer and frameReader.
const _ = uint(bufferSize - maxFrameSize)

// bufferSize is what is read and written of a delta at once: large enough that a disk is driven in streams.
const bufferSize = 1 << 20

// span is a run of deltas that follow each other, both ends included. It has one for a delta as it came in, several for what
// they were merged into.
type span struct{ first, last block.Seq }

func (s span) String() string {
	if s.first == s.last {
		return s.last.String()
	}
	return fmt.Sprintf("%v to %v", s.first, s.last)
}

// swallows tells whether no point of that number is left where s is one delta.
func (s span) swallows(seq block.Seq) bool { return s.first <= seq && seq < s.last }

// deltaName is the base name of the sealed delta with the number seq.
func deltaName(seq block.Seq) string { return span{seq, seq}.name() }

// name is the base name of the file of a sealed delta: its number in 20 digits, so that names sort like numbers, or the first
// and the last number of what was merged.
func (s span) name() string {
	if s.first == s.last {
		return fmt.Sprintf("%020d%s", uint64(s.last), deltaSuffix)
	}
	return fmt.Sprintf("%020d-%020d%s", uint64(s.first), uint64(s.last), deltaSuffix)
}

// parseDeltaName reads what name makes.
func parseDeltaName(name string) (span, bool) {
	digits, ok := strings.CutSuffix(name, deltaSuffix)
	if !ok {
		return span{}, false
	}
	from, to, several := strings.Cut(digits, "-")
	if !several {
		to = from
	}
	first, ok1 := parseSeq(from)
	last, ok2 := parseSeq(to)
	return span{first, last}, ok1 && ok2 && several == (first < last)
}

func parseSeq(digits string) (block.Seq, bool) {
	if len(digits) != 20 {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return block.Seq(n), err == nil && n > 0
}

// indexSum is the CRC-32C of an index so far when nothing but its head has gone by.
var indexSum = crc32.Checksum([]byte(indexHead), block.Castagnoli)

// indexEntry says where in a delta's file the frame for a range is.
type indexEntry struct {
	rng     block.Range
	pos     block.Offset // of the frame's header in the file
	payload uint32       // its length, 0 for a zero frame
}

func (e indexEntry) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(e.rng.Off))
	b = binary.LittleEndian.AppendUint64(b, uint64(e.rng.Len))
	b = binary.LittleEndian.AppendUint64(b, uint64(e.pos))
	return binary.LittleEndian.AppendUint32(b, e.payload)
}

func parseIndexEntry(b []byte) indexEntry {
	return indexEntry{
		rng: block.Range{
			Off: block.Offset(binary.LittleEndian.Uint64(b)),
			Len: block.Size(binary.LittleEndian.Uint64(b[8:])),
		},
		pos:     block.Offset(binary.LittleEndian.Uint64(b[16:])),
		payload: binary.LittleEndian.Uint32(b[24:]),
	}
}

// indexSize is the size of an index of count entries.
func indexSize(count uint64) block.Size {
	return block.Size(len(indexHead)) + block.Size(count)*indexEntrySize + indexTailSize
}

// indexTail ends an index of count entries; sum is the CRC-32C of all before it.
func indexTail(count uint64, sum uint32) []byte {
	b := binary.LittleEndian.AppendUint64(nil, count)
	return binary.LittleEndian.AppendUint32(b, crc32.Update(sum, block.Castagnoli, b))
}

// footer says where the parts of a sealed delta are.
type footer struct {
	indexAt, sealAt, mergeAt block.Offset
	size                     block.Size // of the file, footer and all
}

// at is where the footer itself begins.
func (f footer) at() block.Offset { return block.Offset(f.size - footerSize) }

func (f footer) append(b []byte) []byte {
	start := len(b)
	b = append(b, footerMagic...)
	b = binary.LittleEndian.AppendUint32(b, footerVersion)
	b = binary.LittleEndian.AppendUint64(b, uint64(f.indexAt))
	b = binary.LittleEndian.AppendUint64(b, uint64(f.sealAt))
	b = binary.LittleEndian.AppendUint64(b, uint64(f.mergeAt))
	b = binary.LittleEndian.AppendUint64(b, uint64(f.size))
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], block.Castagnoli))
}

// parseFooter reads the footer of a file of the given size and holds its offsets against it.
func parseFooter(b []byte, size block.Size) (footer, error) {
	var f footer
	if len(b) != footerSize || string(b[:8]) != footerMagic {
		return f, fmt.Errorf("no footer at the end: %w", block.ErrMalformed)
	}
	if crc32.Checksum(b[:footerSize-4], block.Castagnoli) != binary.LittleEndian.Uint32(b[footerSize-4:]) {
		return f, fmt.Errorf("footer: %w", block.ErrChecksum)
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != footerVersion {
		return f, fmt.Errorf("footer of version %d in a journal of version %d: %w", v, Version, block.ErrMalformed)
	}
	f.indexAt = block.Offset(binary.LittleEndian.Uint64(b[12:]))
	f.sealAt = block.Offset(binary.LittleEndian.Uint64(b[20:]))
	f.mergeAt = block.Offset(binary.LittleEndian.Uint64(b[28:]))
	f.size = block.Size(binary.LittleEndian.Uint64(b[36:]))
	sealSize, mergeSize := f.mergeAt-f.sealAt, block.Offset(size-footerSize)-f.mergeAt
	if f.size != size || f.indexAt < block.DeltaHeaderSize || f.sealAt < f.indexAt || sealSize < 0 || sealSize > block.MaxSealSize ||
		mergeSize != 0 && mergeSize != mergeSectionSize {
		return f, fmt.Errorf("footer: index at %d, seal at %d, merge at %d, %d bytes in a file of %d: %w",
			f.indexAt, f.sealAt, f.mergeAt, f.size, size, block.ErrMalformed)
	}
	return f, nil
}
