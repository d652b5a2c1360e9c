package ebpf

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/internal/block"
)

// device is what sysfs tells of a disk or partition.
type device struct {
	dir          string // of the whole disk
	name         string // of the whole disk
	major, minor uint32 // of the whole disk
	start        uint64 // of the tracked part, in sectors
	size         block.Size
	seq          uint64
	boot         [16]byte
}

func text(parts ...string) string {
	raw, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

func number(parts ...string) uint64 {
	n, _ := strconv.ParseUint(text(parts...), 10, 64)
	return n
}

// lookAt finds out about the device, and refuses one that this tracker can't follow.
func lookAt(path string) (device, error) {
	var d device
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return d, fmt.Errorf("stat %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return d, fmt.Errorf("%s is not a block device", path)
	}
	dir, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	if err != nil {
		return d, fmt.Errorf("find %s in sysfs: %w", path, err)
	}
	d.size = block.Size(number(dir, "size")) * 512
	d.dir = dir
	if text(dir, "partition") != "" {
		d.start = number(dir, "start")
		d.dir = filepath.Dir(dir)
	}
	d.name = filepath.Base(d.dir)
	if _, err := fmt.Sscanf(text(d.dir, "dev"), "%d:%d", &d.major, &d.minor); err != nil {
		return d, fmt.Errorf("read device number of %s: %w", d.name, err)
	}
	d.seq = number(d.dir, "diskseq")
	if id, err := block.ParseDiskID(text("/proc/sys/kernel/random/boot_id")); err == nil {
		d.boot = id
	}
	return d, d.trackable(path)
}

// trackable holds that the disk serves requests, whose completion can be watched, and keeps statistics for the audit.
func (d device) trackable(path string) error {
	if _, err := os.Stat(filepath.Join(d.dir, "mq")); err != nil {
		var lower []string
		slaves, _ := filepath.Glob(filepath.Join(d.dir, "slaves", "*"))
		for _, s := range slaves {
			lower = append(lower, "/dev/"+filepath.Base(s))
		}
		if len(lower) > 0 {
			return fmt.Errorf("%s stands on %s: protect that instead (%w: %s passes requests on and completes none itself)",
				path, strings.Join(lower, " and "), capture.ErrUnsupported, d.name)
		}
		return fmt.Errorf("%s %w: the driver of %s has no request queue", path, capture.ErrUnsupported, d.name)
	}
	if text(d.dir, "queue", "iostats") != "1" {
		return fmt.Errorf("%s keeps no statistics to audit the tracking with: echo 1 > %s/queue/iostats: %w", path, d.dir, capture.ErrUnsupported)
	}
	return nil
}

// table is large enough for every request that the disk's queues hold now, with or without an I/O scheduler.
func (d device) table() table {
	tags, _ := filepath.Glob(filepath.Join(d.dir, "mq", "*", "nr_tags"))
	t := table{Queues: uint32(len(tags)), Depth: uint32(number(d.dir, "queue", "nr_requests"))}
	for _, file := range tags {
		t.Depth = max(t.Depth, uint32(number(file)))
	}
	t.Depth = max(t.Depth, leastDepth)
	for t.entries() > maxEntries {
		t.Queues--
	}
	return t
}

// identity is the header of a map that tracks this device from now on.
func (d device) identity(bs block.BlockSize) header {
	return header{
		Boot: d.boot, Seq: d.seq, Major: d.major, Minor: d.minor, Start: d.start,
		Size: uint64(d.size), BlockSize: uint32(bs), Table: d.table(),
	}
}

// same tells whether h is of this very device, in this boot; its size and granularity may differ.
func (d device) same(h header) bool {
	return h.Boot == d.boot && h.Seq == d.seq && h.Major == d.major && h.Minor == d.minor && h.Start == d.start
}
