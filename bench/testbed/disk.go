package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Loop is a loop device over a sparse file.
type Loop struct {
	Device string // /dev/loopN
	File   string
}

// Loop makes a sparse file of size bytes in the bed and attaches a loop device to it.
func (b *Bed) Loop(ctx context.Context, name string, size int64) (*Loop, error) {
	file := b.Path(name)
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make disk: %w", err)
	}
	err = errors.Join(f.Truncate(size), f.Close())
	if err != nil {
		return nil, fmt.Errorf("make disk: %w", err)
	}
	return b.Attach(ctx, file)
}

// Attach attaches a loop device to a file that exists.
func (b *Bed) Attach(ctx context.Context, file string) (*Loop, error) {
	var device string
	// Two runs may be told the same free device; the later one is refused and asks again.
	err := poll(5*time.Second, "attach loop device", func() (bool, error) {
		out, err := Output(ctx, "losetup", "--find", "--show", file)
		device = strings.TrimSpace(out)
		return err == nil, err
	})
	if err != nil {
		return nil, err
	}
	l := &Loop{Device: device, File: file}
	b.Defer("detach "+device, l.Detach)
	// A device that somebody has set read-only stays so after it was detached, for whoever gets it next.
	if _, err := Output(ctx, "blockdev", "--setrw", device); err != nil {
		return nil, err
	}
	return l, nil
}

// Detach gives the loop device back, and waits until it is free. It may be called again: what it detaches is what this file
// is attached to, not whoever has the device now.
func (l *Loop) Detach() error {
	return poll(10*time.Second, "detach "+l.Device, func() (bool, error) {
		out, err := Output(context.Background(), "losetup", "--noheadings", "--output", "NAME", "--associated", l.File)
		if err != nil {
			return false, err
		}
		attached := strings.Fields(out)
		if len(attached) == 0 {
			return true, nil
		}
		_, err = Output(context.Background(), "losetup", "--detach", l.Device)
		return false, err
	})
}

// Wipe destroys everything on the disk. It is refused while the disk is mounted or open exclusively.
func (l *Loop) Wipe() error {
	var fd int
	err := poll(20*time.Second, "open "+l.Device+" alone", func() (bool, error) {
		var err error
		fd, err = unix.Open(l.Device, unix.O_RDWR|unix.O_EXCL|unix.O_CLOEXEC, 0)
		return err == nil, err
	})
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), l.Device)
	defer f.Close()
	size, err := f.Seek(0, 2)
	if err != nil {
		return fmt.Errorf("size of %s: %w", l.Device, err)
	}
	junk := []byte(strings.Repeat("wiped   ", 1<<17))
	for off := int64(0); off < size; off += int64(len(junk)) {
		if _, err := f.WriteAt(junk[:min(int64(len(junk)), size-off)], off); err != nil {
			return fmt.Errorf("wipe %s: %w", l.Device, err)
		}
	}
	return f.Sync()
}

// Mkfs makes a file system: ext4 or xfs.
func Mkfs(ctx context.Context, device, kind string) error {
	argv := []string{"mkfs.ext4", "-q", "-F", device}
	if kind == "xfs" {
		argv = []string{"mkfs.xfs", "-q", "-f", device}
	}
	_, err := Output(ctx, argv...)
	return err
}

// Fsck checks an unmounted ext4 file system and changes nothing. Its output comes back also when it found something.
func Fsck(ctx context.Context, deviceOrFile string) (string, error) {
	return Output(ctx, "e2fsck", "-fn", deviceOrFile)
}

// Mount is a mounted file system.
type Mount struct {
	Dir string
}

// Mount mounts a device at a new folder of that name in the bed.
func (b *Bed) Mount(device, name, kind string) (*Mount, error) {
	return b.mount(device, name, kind, "")
}

// MountCopy mounts a copy of a file system that may be mounted already: xfs refuses a second one of the same UUID otherwise.
func (b *Bed) MountCopy(device, name, kind string) (*Mount, error) {
	options := ""
	if kind == "xfs" {
		options = "nouuid"
	}
	return b.mount(device, name, kind, options)
}

func (b *Bed) mount(device, name, kind, options string) (*Mount, error) {
	dir := b.Path(name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make mount point: %w", err)
	}
	if err := unix.Mount(device, dir, kind, 0, options); err != nil {
		return nil, fmt.Errorf("mount %s at %s: %w", device, dir, err)
	}
	m := &Mount{Dir: dir}
	b.Defer("unmount "+dir, m.Unmount)
	return m, nil
}

// Unmount waits until nobody uses the file system, ten seconds at most, then takes it away from under who does. It may be
// called again.
func (m *Mount) Unmount() error {
	err := poll(10*time.Second, "unmount "+m.Dir, func() (bool, error) {
		err := unix.Unmount(m.Dir, 0)
		return err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT), err
	})
	if err != nil {
		return errors.Join(err, m.Abandon())
	}
	return nil
}

// Abandon takes the file system out of the tree at once, whoever uses it. The kernel ends it when the last user has gone.
func (m *Mount) Abandon() error {
	if err := unix.Unmount(m.Dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("lazily unmount %s: %w", m.Dir, err)
	}
	return nil
}

// mountsBelow lists what is mounted at or below dir.
func mountsBelow(dir string) ([]string, error) {
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 && (fields[1] == dir || strings.HasPrefix(fields[1], dir+"/")) {
			found = append(found, fields[1])
		}
	}
	return found, nil
}

// KeepBPF sees to it that the BPF file system is mounted afterwards only if it was before: an agent mounts it where it is
// missing.
func (b *Bed) KeepBPF() error {
	const dir = "/sys/fs/bpf"
	before, err := mountsBelow(dir)
	if err != nil || len(before) > 0 {
		return err
	}
	b.Defer("unmount "+dir, func() error {
		now, err := mountsBelow(dir)
		if err != nil || len(now) == 0 {
			return err
		}
		left, err := os.ReadDir(dir)
		if err != nil || len(left) > 0 {
			return err // somebody else pins there by now
		}
		return unix.Unmount(dir, 0)
	})
	return nil
}
