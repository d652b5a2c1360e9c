package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount is a file system that lives on a protected disk, by one of the places where it is mounted.
type Mount struct {
	Path   string // a mount point from which the file system is reached
	FSType string
	Dev    string // major:minor of the device that holds it

	shown string   // the device as the kernel shows it for files of this file system: an anonymous one for btrfs
	also  []string // further mount points of it
	depth int      // how many file systems hold it, each in a file of the next: see freezeOrder
}

// freezable are the file systems that implement FIFREEZE over a block device.
var freezable = []string{"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "nilfs2", "reiserfs", "gfs2", "ocfs2"}

// Freezable tells whether the kernel can freeze it.
func (m Mount) Freezable() bool { return slices.Contains(freezable, m.FSType) }

// open opens a mount point of the file system. One that something else was mounted over leads elsewhere, and is passed by.
func (m Mount) open() (fd int, err error) {
	for _, path := range append([]string{m.Path}, m.also...) {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			err = fmt.Errorf("open mount point %s: %w", path, err)
			continue
		}
		var st unix.Stat_t
		if err = unix.Fstat(fd, &st); err == nil && (numberOf(st.Dev) == m.shown || strings.HasPrefix(m.shown, "0:")) {
			return fd, nil
		}
		unix.Close(fd)
		err = errors.Join(err, fmt.Errorf("the file system of %s can't be reached: something is mounted over %s", m.Dev, path))
	}
	return -1, err
}

// MountsOn lists the file systems that live on the device dev ("major:minor"), on its partitions, or on whatever device
// mapper, md or LVM builds on them, each once however often it is mounted, in this or in another mount namespace.
func MountsOn(dev string) ([]Mount, error) {
	devs, err := devicesAbove(dev)
	if err != nil {
		return nil, err
	}
	return mountsOf(devs)
}

// mountsOf lists the file systems on devs in the order in which they were mounted, those of other namespaces last.
func mountsOf(devs []string) ([]Mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	mounts, err := selectMounts(nil, f, devs, "")
	if err != nil {
		return nil, err
	}
	for _, pid := range otherNamespaces() {
		f, err := os.Open("/proc/" + pid + "/mountinfo")
		if err != nil {
			continue // the process has ended, and with it, maybe, its namespace
		}
		if more, err := selectMounts(mounts, f, devs, "/proc/"+pid+"/root"); err == nil {
			mounts = more
		}
		f.Close()
	}
	return mounts, nil
}

// otherNamespaces are processes in mount namespaces other than this one (containers, services with a view of their own), one for
// each. A file system that is mounted nowhere else is reached through the process's root.
func otherNamespaces() []string {
	own, _ := os.Readlink("/proc/self/ns/mnt")
	seen, found := map[string]bool{own: true, "": true}, []string(nil)
	proc, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1)
	for _, pid := range names {
		if pid[0] < '0' || pid[0] > '9' {
			continue
		}
		if ns, _ := os.Readlink("/proc/" + pid + "/ns/mnt"); !seen[ns] {
			seen[ns] = true
			found = append(found, pid)
		}
	}
	return found
}

// devicesAbove is dev and every block device built on it, by sysfs: partitions are folders of their disk, and holders/
// names what stands on a device.
func devicesAbove(dev string) ([]string, error) {
	root, err := filepath.EvalSymlinks(filepath.Join("/sys/dev/block", dev))
	if err != nil {
		return nil, fmt.Errorf("find device %s in sysfs: %w", dev, err)
	}
	var devs []string
	queue := []string{root}
	for len(queue) > 0 {
		dir := queue[0]
		queue = queue[1:]
		number, err := os.ReadFile(filepath.Join(dir, "dev"))
		if err != nil {
			continue // a folder of the device that is no device
		}
		if name := strings.TrimSpace(string(number)); !slices.Contains(devs, name) {
			devs = append(devs, name)
		}
		queue = append(queue, childDevices(dir)...)
	}
	return devs, nil
}

// childDevices are the sysfs folders of the partitions and holders of the device at dir.
func childDevices(dir string) []string {
	var found []string
	parts, _ := filepath.Glob(filepath.Join(dir, "*", "partition"))
	for _, p := range parts {
		found = append(found, filepath.Dir(p))
	}
	holders, _ := filepath.Glob(filepath.Join(dir, "holders", "*"))
	for _, h := range holders {
		if real, err := filepath.EvalSymlinks(h); err == nil {
			found = append(found, real)
		}
	}
	return found
}

// selectMounts reads a mountinfo table (proc(5)) and adds one entry for each file system on one of devs to mounts. root is
// where the paths of the table begin.
func selectMounts(mounts []Mount, r io.Reader, devs []string, root string) ([]Mount, error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		head, tail, ok := strings.Cut(lines.Text(), " - ")
		fields, after := strings.Fields(head), strings.Fields(tail)
		if !ok || len(fields) < 5 || len(after) < 2 {
			continue
		}
		m := Mount{Path: root + unescapeMount(fields[4]), FSType: after[0], Dev: fields[2], shown: fields[2]}
		if strings.HasPrefix(m.Dev, "0:") { // btrfs and the like show an anonymous device: ask the one they name
			m.Dev = deviceNumber(unescapeMount(after[1]))
		}
		if !slices.Contains(devs, m.Dev) {
			continue
		}
		if i := slices.IndexFunc(mounts, func(o Mount) bool { return o.Dev == m.Dev }); i >= 0 {
			mounts[i].also = append(mounts[i].also, m.Path)
			continue
		}
		mounts = append(mounts, m)
	}
	return mounts, lines.Err()
}

// unescapeMount turns the octal escapes of mountinfo (\040 for a space) back.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
