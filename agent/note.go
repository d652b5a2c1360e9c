package agent

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/understudy-dr/understudy/internal/block"
)

// The note is the agent's record, in the tracker's memory beside the bits, of what the bits are relative to. It has the
// bits' lifetime, so the two can't disagree. Two slots of 512 bytes are written in turn, so that a kill in the middle of a
// write leaves the other; the one with the higher turn counts.
//
//	turn u64 | version u32 | flags u32 | size u64 | scanned u64 | acked: seq u64, digest 32 | sealed: seq u64, digest 32 |
//	crc-32c u32
type note struct {
	turn    uint64
	Synced  bool       // every block was sent or is pending: the disk's first sync is a matter of the bits alone
	Missed  bool       // the tracker may have missed a write, and the scan after it has not finished
	Size    block.Size // how much of the disk the bits stand for; a disk that grew has more, which is to be sent
	Scanned block.Size // while not Synced, or Missed: how much of the disk, from its start, has been compared
	Acked   tip        // the newest delta that the target acknowledged
	Sealed  tip        // the newest delta that was sealed here; its ack may be lost
}

// tip names a delta and, by its digest, all before it.
type tip struct {
	Seq    block.Seq
	Digest block.Digest
}

const (
	noteSlot    = 512
	noteVersion = 1
	noteSize    = noteTips + 2*(8+32)
	noteTips    = 8 + 4 + 4 + 8 + 8

	noteSynced, noteMissed = 1, 2
)

// readNote finds the newest whole slot; a memory of zeroes gives the zero note.
func readNote(mem []byte) note {
	var newest note
	for _, slot := range [][]byte{mem[:noteSlot], mem[noteSlot : 2*noteSlot]} {
		if n, ok := parseNote(slot); ok && n.turn >= newest.turn {
			newest = n
		}
	}
	return newest
}

func parseNote(b []byte) (note, bool) {
	sum := binary.LittleEndian.Uint32(b[noteSize:])
	if binary.LittleEndian.Uint32(b[8:]) != noteVersion || crc32.Checksum(b[:noteSize], block.Castagnoli) != sum {
		return note{}, false
	}
	flags := binary.LittleEndian.Uint32(b[12:])
	n := note{
		turn:    binary.LittleEndian.Uint64(b),
		Synced:  flags&noteSynced != 0,
		Missed:  flags&noteMissed != 0,
		Size:    block.Size(binary.LittleEndian.Uint64(b[16:])),
		Scanned: block.Size(binary.LittleEndian.Uint64(b[24:])),
	}
	for i, t := range []*tip{&n.Acked, &n.Sealed} {
		at := b[noteTips+i*40:]
		t.Seq = block.Seq(binary.LittleEndian.Uint64(at))
		copy(t.Digest[:], at[8:])
	}
	return n, true
}

// known tells whether the bits are relative to Acked at all.
func (n note) known() bool { return n.Synced || n.Acked.Seq != 0 }

// proven tells whether nothing is left to be compared.
func (n note) proven() bool { return n.Synced && !n.Missed }

// write puts the note into the slot that does not hold the newest one.
func (n *note) write(mem []byte) {
	n.turn++
	var flags uint32
	if n.Synced {
		flags |= noteSynced
	}
	if n.Missed {
		flags |= noteMissed
	}
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, noteSize+4), n.turn)
	b = binary.LittleEndian.AppendUint32(b, noteVersion)
	b = binary.LittleEndian.AppendUint32(b, flags)
	b = binary.LittleEndian.AppendUint64(b, uint64(n.Size))
	b = binary.LittleEndian.AppendUint64(b, uint64(n.Scanned))
	for _, t := range []tip{n.Acked, n.Sealed} {
		b = binary.LittleEndian.AppendUint64(b, uint64(t.Seq))
		b = append(b, t.Digest[:]...)
	}
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, block.Castagnoli))
	copy(mem[noteSlot*int(n.turn%2):], b)
}
