package main

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"
)

// sectorSize is what a disk writes whole or not at all.
const sectorSize = 512

// stamp is what one sector says of itself.
//
//	magic 8 | lane u32 | part u32 | sequence u64 | slot u64 | begun i64 | after lane i32 | 0 u32 | after epoch u64 | fill | xxh64
//
// The fill follows from sequence and lane, so that no two sectors look alike and none compresses away.
type stamp struct {
	lane       int
	part       int    // which sector of its slot
	seq        uint64 // counts the slots that the lane has written, from 1
	slot       uint64 // where it belongs
	begun      int64  // monotonic clock before the write
	after      int    // lane that handed over the token, or -1
	afterEpoch uint64
}

const stampMagic = "USORDER\n"

const (
	stampHead = 8 + 4 + 4 + 8 + 8 + 8 + 4 + 4 + 8
	stampSum  = sectorSize - 8
)

// errTorn: a sector that is neither empty nor a whole stamp.
var errTorn = errors.New("no whole stamp")

// put fills a sector.
func (s stamp) put(b []byte) {
	copy(b, stampMagic)
	binary.LittleEndian.PutUint32(b[8:], uint32(s.lane))
	binary.LittleEndian.PutUint32(b[12:], uint32(s.part))
	binary.LittleEndian.PutUint64(b[16:], s.seq)
	binary.LittleEndian.PutUint64(b[24:], s.slot)
	binary.LittleEndian.PutUint64(b[32:], uint64(s.begun))
	binary.LittleEndian.PutUint32(b[40:], uint32(int32(s.after)))
	binary.LittleEndian.PutUint32(b[44:], 0)
	binary.LittleEndian.PutUint64(b[48:], s.afterEpoch)
	x := s.seq*0x9e3779b97f4a7c15 + uint64(s.lane)<<32 + uint64(s.part)
	for i := stampHead; i < stampSum; i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(b[i:], x)
	}
	binary.LittleEndian.PutUint64(b[stampSum:], xxhash.Sum64(b[:stampSum]))
}

// readStamp reads a sector. One that was never written holds zeroes and gives sequence 0.
func readStamp(b []byte) (stamp, error) {
	if string(b[:8]) != stampMagic {
		for _, c := range b[:sectorSize] {
			if c != 0 {
				return stamp{}, fmt.Errorf("%w: it begins %q", errTorn, b[:8])
			}
		}
		return stamp{}, nil
	}
	if binary.LittleEndian.Uint64(b[stampSum:]) != xxhash.Sum64(b[:stampSum]) {
		return stamp{}, fmt.Errorf("%w: checksum", errTorn)
	}
	return stamp{
		lane:       int(binary.LittleEndian.Uint32(b[8:])),
		part:       int(binary.LittleEndian.Uint32(b[12:])),
		seq:        binary.LittleEndian.Uint64(b[16:]),
		slot:       binary.LittleEndian.Uint64(b[24:]),
		begun:      int64(binary.LittleEndian.Uint64(b[32:])),
		after:      int(int32(binary.LittleEndian.Uint32(b[40:]))),
		afterEpoch: binary.LittleEndian.Uint64(b[48:]),
	}, nil
}
