package ebpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// statistics reads what the kernel counts of a disk. The files stay open and are read into its own memory: it is read while
// file systems are frozen.
type statistics struct {
	name           string
	stat, inflight *os.File
	text           [512]byte
	fields         [32]uint64
}

func openStatistics(d device) (*statistics, error) {
	s := &statistics{name: d.name}
	var err1, err2 error
	s.stat, err1 = os.Open(filepath.Join(d.dir, "stat"))
	s.inflight, err2 = os.Open(filepath.Join(d.dir, "inflight"))
	if err := errors.Join(err1, err2); err != nil {
		s.close()
		return nil, fmt.Errorf("open statistics of %s: %w", d.name, err)
	}
	return s, nil
}

func (s *statistics) close() {
	s.stat.Close()
	s.inflight.Close()
}

// read is the numbers in f, of which there must be at least n. They are valid until the next read.
func (s *statistics) read(f *os.File, n int) ([]uint64, error) {
	size, err := f.ReadAt(s.text[:], 0)
	if size == 0 {
		return nil, fmt.Errorf("read statistics of %s: %w", s.name, err)
	}
	count, inside := 0, false
	for _, c := range s.text[:size] {
		switch digit := c >= '0' && c <= '9'; {
		case digit && !inside && count == len(s.fields):
			return s.fields[:], nil
		case digit && !inside:
			s.fields[count] = uint64(c - '0')
			count++
		case digit:
			s.fields[count-1] = s.fields[count-1]*10 + uint64(c-'0')
		}
		inside = c >= '0' && c <= '9'
	}
	if count < n {
		return nil, fmt.Errorf("read statistics of %s: %d fields", s.name, count)
	}
	return s.fields[:count], nil
}

// written is how many sectors were written and discarded (Documentation/block/stat.rst, fields 7 and 14).
func (s *statistics) written() (uint64, error) {
	fields, err := s.read(s.stat, 14)
	if err != nil {
		return 0, err
	}
	return fields[6] + fields[13], nil
}

// idle tells whether the driver has no write to do (Documentation/ABI/stable/sysfs-block, inflight: reads, writes).
func (s *statistics) idle() bool {
	fields, err := s.read(s.inflight, 2)
	return err == nil && fields[1] == 0
}
