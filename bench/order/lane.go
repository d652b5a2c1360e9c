package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// lane is one writer's place and habit. It is handed to the writers' process as JSON.
type lane struct {
	Disk   int    `json:"disk"`   // which disk of the run
	Path   string `json:"path"`   // below the disk's mount point; empty: the device itself
	Base   int64  `json:"base"`   // where the slots begin, in bytes
	Unit   int    `json:"unit"`   // bytes of a slot
	Slots  uint64 `json:"slots"`  // a power of two; of a log: slots of one of its files
	Log    bool   `json:"log"`    // appended to, file after file, instead of written in place
	Epoch  uint64 `json:"epoch"`  // slots of an epoch
	Direct bool   `json:"direct"` // O_DIRECT and fdatasync, else page cache and fsync
	After  int    `json:"after"`  // lane that hands over the token; -1: writes at will
}

// epochOf is the epoch of a sequence; both count from 1.
func (l *lane) epochOf(seq uint64) uint64 { return (seq-1)/l.Epoch + 1 }

// stride scatters the slots that follow each other. It is odd, so that every slot has its turn.
const stride = 37

// slotOf is where a sequence is written.
func (l *lane) slotOf(seq uint64) uint64 {
	if l.Log {
		return seq - 1
	}
	return (seq - 1) * stride % l.Slots
}

// file names the n-th file of a log, from 0.
func (l *lane) file(n uint64) string { return fmt.Sprintf("%s.%06d", l.Path, n) }

// held is what a copy holds of one lane.
type held struct {
	missing uint64  // the earliest epoch of which a sector lacks
	there   []stamp // of every sector that holds one
	torn    []error
}

// readHeld reads a lane's place in a copy: the device, or the mount point of its file system.
func (l *lane) readHeld(index int, root string) (held, error) {
	h := held{missing: ^uint64(0)}
	var err error
	if l.Log {
		err = l.readLog(index, root, &h)
	} else {
		err = l.readRing(index, root, &h)
	}
	return h, err
}

// readRing looks at every slot: it lacks the turn after the one it holds.
func (l *lane) readRing(index int, root string, h *held) error {
	f, err := os.Open(filepath.Join(root, l.Path))
	if err != nil {
		return err
	}
	defer f.Close()
	first := make([]uint64, l.Slots)
	for seq := uint64(1); seq <= l.Slots; seq++ {
		first[l.slotOf(seq)] = seq
	}
	b := make([]byte, l.Unit)
	for slot := range l.Slots {
		if _, err := f.ReadAt(b, l.Base+int64(slot)*int64(l.Unit)); err != nil {
			return err
		}
		for part := range l.Unit / sectorSize {
			next := first[slot]
			if s, ok := h.take(l, index, slot, part, b[part*sectorSize:]); ok {
				next = s.seq + l.Slots
			}
			h.lacks(l, next)
		}
	}
	return nil
}

// readLog looks at the newest two files, since the lane removes a file when the second after it has begun.
func (l *lane) readLog(index int, root string, h *held) error {
	newest, err := l.newestFile(root)
	if err != nil {
		return err
	}
	end := uint64(0)
	for n := max(0, newest-1); n <= newest; n++ {
		b, err := os.ReadFile(filepath.Join(root, l.file(uint64(n))))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		units := min((uint64(len(b))+uint64(l.Unit)-1)/uint64(l.Unit), l.Slots)
		if n < newest {
			units = l.Slots
		}
		whole := make([]byte, units*uint64(l.Unit))
		copy(whole, b)
		first := uint64(n) * l.Slots
		end = first + units
		for i := range whole[:len(whole)/sectorSize] {
			slot, part := first+uint64(i*sectorSize/l.Unit), i%(l.Unit/sectorSize)
			if _, ok := h.take(l, index, slot, part, whole[i*sectorSize:]); !ok {
				h.lacks(l, slot+1)
			}
		}
	}
	h.lacks(l, end+1)
	return nil
}

// newestFile is the number of a log's last file, or -1.
func (l *lane) newestFile(root string) (int, error) {
	names, err := filepath.Glob(filepath.Join(root, l.Path+".*"))
	newest := -1
	for _, name := range names {
		var n int
		if _, err := fmt.Sscanf(filepath.Ext(name), ".%06d", &n); err == nil {
			newest = max(newest, n)
		}
	}
	return newest, err
}

// take reads one sector, and tells whether it holds a stamp of this place.
func (h *held) take(l *lane, index int, slot uint64, part int, b []byte) (stamp, bool) {
	s, err := readStamp(b)
	if err == nil && s.seq == 0 {
		return s, false
	}
	if err == nil && (s.lane != index || s.part != part || l.slotOf(s.seq) != slot) {
		err = fmt.Errorf("%w: it is of lane %d, slot %d, part %d, sequence %d", errTorn, s.lane, s.slot, s.part, s.seq)
	}
	if err != nil {
		h.torn = append(h.torn, fmt.Errorf("lane %d, slot %d, part %d: %w", index, slot, part, err))
		return s, false
	}
	h.there = append(h.there, s)
	return s, true
}

func (h *held) lacks(l *lane, seq uint64) { h.missing = min(h.missing, l.epochOf(seq)) }

// writeZeroes makes a file, whole and synced: what is written into it later changes no metadata but times.
func writeZeroes(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, size))
	return errors.Join(err, f.Sync(), f.Close())
}
