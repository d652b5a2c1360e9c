package agent

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/internal/block"
)

// layout is what stands on the disks of a group: what a cut freezes, and what it can't.
type layout struct {
	mounts []Mount            // of all members, each file system once, in the order in which they are frozen
	loose  map[*upload]string // per member: who may write to it all the same, "" if nobody is known to
	frozen map[*upload]bool   // per member: a file system on it is frozen
}

// nestingLimit bounds how deep file systems in files of file systems are followed.
const nestingLimit = 8

// layoutOf looks at the disks of all members. It tells each member's set what swap it holds: what a cut need not wait for,
// since nobody reads it after a crash.
func layoutOf(members []*upload) (layout, error) {
	l := layout{loose: map[*upload]string{}, frozen: map[*upload]bool{}}
	swaps, err := readSwaps()
	if err != nil {
		return l, err
	}
	var all []string
	for _, u := range members {
		devs, on, err := mountsOver(u.disk.path)
		if err != nil {
			return l, err
		}
		for _, m := range on {
			if m.Freezable() {
				l.frozen[u] = true
			} else if l.loose[u] == "" {
				l.loose[u] = looseMount(m)
			}
		}
		if why := ignoreSwap(u.disk, devs, swaps); why != "" {
			l.loose[u] = why
		}
		all = append(all, devs...)
	}
	l.mounts, err = together(all)
	return l, err
}

// mountsOver are the devices that stand on a disk, itself included, and the file systems on them.
func mountsOver(path string) (devs []string, on []Mount, err error) {
	if devs, err = devicesAbove(deviceNumber(path)); err != nil {
		return nil, nil, err
	}
	on, err = mountsOf(devs)
	return devs, on, err
}

// together are the file systems on devs in the order in which they are frozen, each once: one may span disks.
func together(devs []string) ([]Mount, error) {
	slices.Sort(devs)
	mounts, err := mountsOf(slices.Compact(devs))
	return freezeOrder(mounts), err
}

// freezeOrder puts inner file systems before the outer ones that hold their files, and else the last mounted first.
func freezeOrder(mounts []Mount) []Mount {
	ordered := slices.Clone(mounts)
	slices.Reverse(ordered)
	for i := range ordered {
		ordered[i].depth = nesting(ordered[i].Dev, nestingLimit)
	}
	slices.SortStableFunc(ordered, func(a, b Mount) int { return b.depth - a.depth })
	return ordered
}

// nesting is how many loop devices lie between a device and the hardware, one on a file in the file system of the next.
func nesting(dev string, limit int) int {
	dir, err := filepath.EvalSymlinks(filepath.Join("/sys/dev/block", dev))
	if err != nil || limit == 0 {
		return 0
	}
	if sysfsText(dir, "partition") != "" {
		dir = filepath.Dir(dir)
	}
	deepest := 0
	slaves, _ := filepath.Glob(filepath.Join(dir, "slaves", "*"))
	for _, s := range slaves {
		deepest = max(deepest, nesting(sysfsText(s, "dev"), limit-1))
	}
	if holder := loopHolder(dir); holder != "" {
		deepest = max(deepest, 1+nesting(holder, limit-1))
	}
	return deepest
}

// loopHolder is the device of the file system that holds a loop device's file, "" if the device at dir is no loop device.
func loopHolder(dir string) string {
	if sysfsText(dir, "loop/backing_file") == "" {
		return ""
	}
	fd, err := unix.Open(filepath.Join("/dev", filepath.Base(dir)), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	info, err := unix.IoctlLoopGetStatus64(fd)
	if err != nil {
		return ""
	}
	return numberOf(info.Device)
}

// swap is an active swap area.
type swap struct {
	path string
	dev  string // major:minor of the device that it is, or whose file system holds its file
	file bool
}

// readSwaps reads /proc/swaps (proc(5)).
func readSwaps() ([]swap, error) {
	f, err := os.Open("/proc/swaps")
	if os.IsNotExist(err) { // a kernel without swap
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	var swaps []swap
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || !strings.HasPrefix(fields[0], "/") {
			continue
		}
		s := swap{path: unescapeMount(fields[0]), file: fields[1] == "file"}
		var st unix.Stat_t
		if unix.Stat(s.path, &st) != nil {
			continue // removed while it is in use: its writes are found by the count
		}
		if s.dev = numberOf(st.Rdev); s.file {
			s.dev = numberOf(st.Dev)
		}
		swaps = append(swaps, s)
	}
	return swaps, lines.Err()
}

// ignoreSwap makes the disk's set leave its swap out of the count of writes. It returns what it can't leave out: swap whose
// place on the disk is not known (in a file, on LVM).
func ignoreSwap(d *disk, devs []string, swaps []swap) (loose string) {
	var ignore []block.Run
	for _, s := range swaps {
		if !slices.Contains(devs, s.dev) {
			continue
		}
		r, ok := placeOn(d.opened.number, d.pump.size, s)
		if !ok {
			loose = looseSwap(s)
			continue
		}
		// Whole blocks only: a block that is partly something else counts.
		bs := d.set.BlockSize()
		first := bs.Of(r.Off + block.Offset(bs) - 1)
		if n := block.Count(bs.Of(r.End()) - first); n > 0 {
			ignore = append(ignore, block.Run{First: first, N: n})
		}
	}
	d.set.Ignore(ignore)
	return loose
}

func looseSwap(s swap) string {
	return fmt.Sprintf("active swap, %s, writes to it whenever it likes: move it to a disk that is not protected, or to a partition of its own", s.path)
}

func looseMount(m Mount) string {
	return fmt.Sprintf("%s, which can't be frozen, is mounted at %s", m.FSType, m.Path)
}

// placeOn is where the swap area lies on the tracked disk of that number and size: all of it, or a partition.
func placeOn(number string, size block.Size, s swap) (block.Range, bool) {
	if s.file {
		return block.Range{}, false
	}
	if s.dev == number {
		return block.Range{Len: size}, true
	}
	dir, err := filepath.EvalSymlinks(filepath.Join("/sys/dev/block", s.dev))
	if err != nil || sysfsText(dir, "partition") == "" || sysfsText(filepath.Dir(dir), "dev") != number {
		return block.Range{}, false
	}
	start, err1 := strconv.ParseInt(sysfsText(dir, "start"), 10, 64)
	length, err2 := strconv.ParseInt(sysfsText(dir, "size"), 10, 64)
	return block.Range{Off: block.Offset(start * 512), Len: block.Size(length * 512)}, err1 == nil && err2 == nil
}
