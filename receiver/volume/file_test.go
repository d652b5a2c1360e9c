package volume_test

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/receiver/volume"
	"github.com/understudy-dr/understudy/receiver/volume/volumetest"
)

func TestFileConforms(t *testing.T) {
	volumetest.Conform(t, func(t *testing.T, size block.Size) block.Device {
		v, err := volume.OpenFile(filepath.Join(t.TempDir(), "volume.raw"), true, size)
		if err != nil {
			t.Fatal(err)
		}
		return v
	})
}

func TestForgettingConforms(t *testing.T) {
	volumetest.Conform(t, func(_ *testing.T, size block.Size) block.Device { return volumetest.NewForgetting(size, 0x55) })
}

func TestDeviceConforms(t *testing.T) {
	needLoop(t)
	volumetest.Conform(t, func(t *testing.T, size block.Size) block.Device {
		v, err := volume.OpenDevice(loopOf(t, size))
		if err != nil {
			t.Fatal(err)
		}
		return v
	})
}

func needLoop(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to attach a loop device")
	}
	if _, err := exec.LookPath("losetup"); err != nil {
		t.Skip("needs losetup of util-linux")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("needs /dev/loop-control: modprobe loop")
	}
}

// loopOf attaches a new loop device, which goes with the test.
func loopOf(t *testing.T, size block.Size) string {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, bytes.Repeat([]byte{0x77}, int(size)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", path).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", dev).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach %s: %v: %s", dev, err, out)
		}
	})
	return dev
}

func TestOpenDeviceRefusesWhatIsInUse(t *testing.T) {
	needLoop(t)
	dev := loopOf(t, block.MiB)
	v, err := volume.OpenDevice(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if other, err := volume.OpenDevice(dev); err == nil || !strings.Contains(err.Error(), "in use") {
		if err == nil {
			other.Close()
		}
		t.Errorf("a second volume on %s: %v", dev, err)
	}
	if err := v.Truncate(2 * block.MiB); err == nil {
		t.Error("a block device was grown")
	}
	if v.Allocated() != block.MiB {
		t.Errorf("allocated %v", v.Allocated())
	}
}

func TestOpenFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "volume.raw")
	if _, err := volume.OpenFile(path, false, 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file, none to be made: %v", err)
	}
	if _, err := volume.OpenFile(dir, true, 4096); err == nil {
		t.Error("a directory was opened")
	}
	if _, err := volume.OpenFile("/dev/null", false, 0); err == nil {
		t.Error("a character device was opened")
	}
	v, err := volume.OpenFile(path, true, 64*block.MiB)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.WriteAt(bytes.Repeat([]byte{9}, 65536), 65536); err != nil {
		t.Fatal(err)
	}
	if err := v.Truncate(96 * block.MiB); err != nil {
		t.Fatal(err)
	}
	if err := v.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := v.Allocated(); got < 65536 || got > block.MiB {
		t.Errorf("%v allocated for 64 KiB of data in 96 MiB: not sparse", got)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := volume.OpenFile(path, true, block.MiB)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.Geometry().Size != 96*block.MiB {
		t.Errorf("a larger volume was cut to %v", again.Geometry().Size)
	}
	if _, err := again.ReadAt(make([]byte, 1), 0); err != nil {
		t.Error(err)
	}
}

// TestForgettingForgets is the canary of every crash test: what was not synced must be able to go, and what was must stay.
func TestForgettingForgets(t *testing.T) {
	lost, torn, kept := false, false, false
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 0))
		f := volumetest.NewForgetting(8192, 0)
		synced := bytes.Repeat([]byte{1}, 4096)
		if _, err := f.WriteAt(synced, 0); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(bytes.Repeat([]byte{2}, 4096), 4096); err != nil {
			t.Fatal(err)
		}
		f.Crash(rng)
		got := make([]byte, 8192)
		if _, err := f.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got[:4096], synced) {
			t.Fatal("synced data was lost")
		}
		switch n := bytes.Count(got[4096:], []byte{2}); n {
		case 0:
			lost = true
		case 4096:
			kept = true
		default:
			torn = true
		}
	}
	if !lost || !torn || !kept {
		t.Errorf("of an unsynced write: lost %v, torn %v, kept %v: all three must happen", lost, torn, kept)
	}
}
