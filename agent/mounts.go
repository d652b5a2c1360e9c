package agent

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Mount is a file system that lives on a protected disk, by one of the places where it is mounted.
type Mount struct {
	Path   string // a mount point from which the file system is reached
	FSType string
	Dev    string // major:minor of the device that holds it
}

// freezable are the file systems that implement FIFREEZE over a block device.
var freezable = []string{"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "nilfs2", "reiserfs", "gfs2", "ocfs2"}

// Freezable tells whether the kernel can freeze it.
func (m Mount) Freezable() bool { return slices.Contains(freezable, m.FSType) }

// MountsOn lists the file systems that live on the device dev ("major:minor"), on its partitions, or on whatever device
// mapper, md or LVM builds on them, each once however often it is mounted.
func MountsOn(dev string) ([]Mount, error) {
	devs, err := devicesAbove(dev)
	if err != nil {
		return nil, err
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return selectMounts(f, devs)
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

// selectMounts reads a mountinfo table (proc(5)) and keeps one entry for each file system on one of devs.
func selectMounts(r io.Reader, devs []string) ([]Mount, error) {
	var mounts []Mount
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		head, tail, ok := strings.Cut(lines.Text(), " - ")
		fields, after := strings.Fields(head), strings.Fields(tail)
		if !ok || len(fields) < 5 || len(after) < 2 {
			continue
		}
		m := Mount{Path: unescapeMount(fields[4]), FSType: after[0], Dev: fields[2]}
		if strings.HasPrefix(m.Dev, "0:") { // btrfs and the like show an anonymous device: ask the one they name
			m.Dev = deviceNumber(unescapeMount(after[1]))
		}
		known := slices.ContainsFunc(mounts, func(o Mount) bool { return o.Dev == m.Dev })
		if slices.Contains(devs, m.Dev) && !known {
			mounts = append(mounts, m)
		}
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
