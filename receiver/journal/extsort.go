package journal

import (
	"bufio"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"slices"

	"github.com/understudy-dr/understudy/internal/block"
)

// Memory of a sort: of the extents that are collected, and of all reading of what did not fit.
const (
	sortExtents = 128 << 10 // 5 MiB of them
	sortBuffers = 4 << 20
	sortBuffer  = 4 << 10 // at least, for each run
)

// extentSize is that of an extent in a sorter's file.
const extentSize = 8 + 8 + 8 + 4 + 4 + 4

// extentSorter puts any number of extents into the order of compareExtents. What does not fit into memory is written to a file
// in sorted runs, and those are merged while they are read. The file is never read by anyone else, and never synced.
type extentSorter struct {
	fs   FS
	path string
	keep int // extents in memory
	buf  []extent
	f    File
	at   int64
	runs []sortedRun
}

// sortedRun is a part of the file; sum is its CRC-32C.
type sortedRun struct {
	at, n int64
	sum   uint32
}

func newExtentSorter(fsys FS, path string) *extentSorter {
	return &extentSorter{fs: fsys, path: path, keep: sortExtents}
}

func (s *extentSorter) add(e extent) error {
	if len(s.buf) == s.keep {
		if err := s.spill(); err != nil {
			return err
		}
	}
	s.buf = append(s.buf, e)
	return nil
}

// spill writes what is in memory as a run.
func (s *extentSorter) spill() error {
	if s.f == nil {
		f, err := s.fs.OpenFile(s.path, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
		if err != nil {
			return err
		}
		s.f = f
	}
	slices.SortFunc(s.buf, compareExtents)
	run := sortedRun{at: s.at}
	raw := make([]byte, 0, 64<<10)
	for i := range s.buf {
		raw = appendExtent(raw, &s.buf[i])
		if len(raw)+extentSize > cap(raw) || i == len(s.buf)-1 {
			if _, err := s.f.WriteAt(raw, s.at); err != nil {
				return err
			}
			s.at += int64(len(raw))
			run.sum = crc32.Update(run.sum, block.Castagnoli, raw)
			raw = raw[:0]
		}
	}
	run.n = s.at - run.at
	s.runs = append(s.runs, run)
	s.buf = s.buf[:0]
	return nil
}

// sorted gives the extents back, one a call, in order. Nothing may be added any more.
func (s *extentSorter) sorted() (next func() (extent, bool, error), err error) {
	if len(s.runs) == 0 {
		slices.SortFunc(s.buf, compareExtents)
		i := -1
		return func() (extent, bool, error) {
			if i++; i >= len(s.buf) {
				return extent{}, false, nil
			}
			return s.buf[i], true, nil
		}, nil
	}
	if err := s.spill(); err != nil {
		return nil, err
	}
	s.buf = nil
	heads := heapOf[runReader]{before: func(a, b *runReader) bool { return compareExtents(a.head, b.head) < 0 }}
	size := max(sortBuffer, sortBuffers/len(s.runs))
	for _, run := range s.runs {
		r := runReader{path: s.path, run: run, r: bufio.NewReaderSize(io.NewSectionReader(s.f, run.at, run.n), int(min(int64(size), run.n)))}
		if ok, err := r.read(); err != nil {
			return nil, err
		} else if ok {
			heads.push(r)
		}
	}
	return func() (extent, bool, error) {
		top := heads.top()
		if top == nil {
			return extent{}, false, nil
		}
		e := top.head
		ok, err := top.read()
		if err != nil {
			return extent{}, false, err
		}
		if ok {
			heads.fix()
		} else {
			heads.pop()
		}
		return e, true, nil
	}, nil
}

// drop lets go of the file. One that stays is removed by the next Open.
func (s *extentSorter) drop() error {
	if s.f == nil {
		return nil
	}
	err := errors.Join(s.f.Close(), s.fs.Remove(s.path))
	s.f = nil
	return err
}

// runReader reads one run; head is what it read last.
type runReader struct {
	path string
	run  sortedRun
	r    *bufio.Reader
	sum  uint32 // of what was read
	head extent
}

// read reads the next extent. At the end it checks that the file gave back what it was given.
func (r *runReader) read() (bool, error) {
	var raw [extentSize]byte
	_, err := io.ReadFull(r.r, raw[:])
	if errors.Is(err, io.EOF) {
		if r.sum != r.run.sum {
			return false, &block.CorruptionError{File: r.path, Off: block.Offset(r.run.at), Err: block.ErrChecksum}
		}
		return false, nil
	}
	r.sum = crc32.Update(r.sum, block.Castagnoli, raw[:])
	r.head = parseExtent(raw[:])
	return err == nil, err
}

func appendExtent(b []byte, e *extent) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(e.rng.Off))
	b = binary.LittleEndian.AppendUint64(b, uint64(e.rng.Len))
	b = binary.LittleEndian.AppendUint64(b, uint64(e.pos))
	b = binary.LittleEndian.AppendUint32(b, e.payload)
	b = binary.LittleEndian.AppendUint32(b, e.src)
	return binary.LittleEndian.AppendUint32(b, e.number)
}

func parseExtent(b []byte) extent {
	return extent{
		rng: block.Range{
			Off: block.Offset(binary.LittleEndian.Uint64(b)),
			Len: block.Size(binary.LittleEndian.Uint64(b[8:])),
		},
		pos:     block.Offset(binary.LittleEndian.Uint64(b[16:])),
		payload: binary.LittleEndian.Uint32(b[24:]),
		src:     binary.LittleEndian.Uint32(b[28:]),
		number:  binary.LittleEndian.Uint32(b[32:]),
	}
}
