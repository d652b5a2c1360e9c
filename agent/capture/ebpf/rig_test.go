package ebpf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/bench/testbed"
	"github.com/understudy-dr/understudy/internal/block"
)

// disk is a loop device of a test.
type disk struct {
	t    *testing.T
	bed  *testbed.Bed
	path string
	file string
	fd   int // O_DIRECT, read and write
	size int64
}

func newBed(t *testing.T) *testbed.Bed {
	t.Helper()
	bed, err := testbed.New("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bed.Close(); err != nil {
			t.Error(err)
		}
	})
	return bed
}

func newDisk(t *testing.T, size int64) *disk {
	t.Helper()
	return newDiskIn(t, newBed(t), "disk", size)
}

func newDiskIn(t *testing.T, bed *testbed.Bed, name string, size int64) *disk {
	t.Helper()
	l, err := bed.Loop(t.Context(), name, size)
	if err != nil {
		t.Fatal(err)
	}
	return openDisk(t, bed, l.Device, l.File, size)
}

func openDisk(t *testing.T, bed *testbed.Bed, path, file string, size int64) *disk {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return &disk{t: t, bed: bed, path: path, file: file, fd: fd, size: size}
}

// aligned is memory that O_DIRECT takes.
func aligned(n int) []byte {
	buf := make([]byte, n+4096)
	skip := 4096 - int(uintptr(unsafe.Pointer(&buf[0]))%4096)
	return buf[skip : skip+n]
}

// write writes n bytes of value at off and waits until they are on the disk.
func (d *disk) write(off int64, n int, value byte) {
	d.t.Helper()
	buf := aligned(n)
	for i := range buf {
		buf[i] = value
	}
	if got, err := unix.Pwrite(d.fd, buf, off); err != nil || got != n {
		d.t.Fatalf("write %d at %d: %d, %v", n, off, got, err)
	}
}

func (d *disk) read(off int64, n int) []byte {
	d.t.Helper()
	buf := aligned(n)
	if got, err := unix.Pread(d.fd, buf, off); err != nil || got != n {
		d.t.Fatalf("read %d at %d: %d, %v", n, off, got, err)
	}
	return buf
}

func (d *disk) discard(off, n int64) { d.t.Helper(); d.ranged("discard", unix.BLKDISCARD, off, n) }
func (d *disk) zeroOut(off, n int64) { d.t.Helper(); d.ranged("zero out", unix.BLKZEROOUT, off, n) }

func (d *disk) ranged(what string, request uint, off, n int64) {
	d.t.Helper()
	if err := rangedIoctl(d.fd, request, off, n); err != nil {
		d.t.Fatalf("%s %d at %d: %v", what, n, off, err)
	}
}

func rangedIoctl(fd int, request uint, off, n int64) error {
	arg := [2]uint64{uint64(off), uint64(n)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(unsafe.Pointer(&arg))); errno != 0 {
		return errno
	}
	return nil
}

// image is the whole disk.
func (d *disk) image() []byte {
	d.t.Helper()
	return d.read(0, int(d.size))
}

// pinPrefix begins the names of all that this process pins.
func pinPrefix() string { return fmt.Sprintf("/sys/fs/bpf/understudy-test-%d-", os.Getpid()) }

// pinRoot is this process's own, and gone after the test.
func pinRoot(t *testing.T, suffix ...string) string {
	t.Helper()
	name := strings.ReplaceAll(t.Name(), "/", "-") + strings.Join(suffix, "")
	root := fmt.Sprintf("%s%s", pinPrefix(), name)
	t.Cleanup(func() {
		ids, err := Pinned(root)
		for _, id := range ids {
			err = errors.Join(err, RemovePins(root, id))
		}
		if err := errors.Join(err, os.Remove(root)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("clean up pins: %v", err)
		}
	})
	return root
}

// attach tracks the device at path; what opt leaves open is filled in. The tracker is closed with the test.
func attach(t *testing.T, path string, opt Options) *Tracker {
	t.Helper()
	opt.Device = path
	if opt.PinRoot == "" {
		opt.PinRoot = pinRoot(t)
	}
	tr, err := Attach(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	})
	return tr
}

// take is what is marked now, as runs.
func take(t *testing.T, tr *Tracker) []block.Run {
	t.Helper()
	_, n := tr.Geometry()
	bits := block.NewBitmap(n)
	if err := tr.Take(func(w int, marks uint64) { bits.Words()[w] |= marks }); err != nil {
		t.Fatal(err)
	}
	return slices.Collect(bits.Runs())
}

func wantMarks(t *testing.T, tr *Tracker, want ...block.Run) {
	t.Helper()
	if got := take(t, tr); !slices.Equal(got, want) {
		t.Errorf("marked are %v, want %v", got, want)
	}
}

func run(first, n int) block.Run { return block.Run{First: block.Index(first), N: block.Count(n)} }

// tool runs a command that must succeed.
func tool(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := testbed.Output(context.Background(), argv...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// until waits for what the kernel does on its own time.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}
