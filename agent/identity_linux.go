package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/durable"
)

// deviceIdentity names the hardware behind a device node, as well as the kernel knows it: what stays when /dev/sdb becomes
// /dev/sdc. Where there is nothing better, it is the path.
func deviceIdentity(path string) (string, error) {
	number := deviceNumber(path)
	if number == "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("no such device: %s (lsblk lists what there is)", path)
		}
		return "", fmt.Errorf("%s is not a block device (lsblk lists what there is)", path)
	}
	dir, err := filepath.EvalSymlinks(filepath.Join("/sys/dev/block", number))
	if err != nil {
		return "", fmt.Errorf("find %s in sysfs: %w", path, err)
	}
	part := ""
	if n := sysfsText(dir, "partition"); n != "" {
		part, dir = "-part"+n, filepath.Dir(dir)
	}
	for _, attr := range []string{"wwid", "device/wwid", "serial", "device/serial", "dm/uuid", "md/uuid", "loop/backing_file"} {
		if text := sysfsText(dir, attr); text != "" {
			return attr + ":" + text + part, nil
		}
	}
	return "path:" + path, nil
}

// deviceState tells one device at a path from another that comes after it there.
type deviceState struct {
	number string // major:minor
	seq    string // of the disk, which no other has in this boot (sysfs: diskseq, Linux 5.15); "" before
	start  string // of a partition, in sectors
	size   block.Size
}

// lookAtDevice finds out what is at the path now.
func lookAtDevice(path string) (deviceState, error) {
	f, err := block.OpenFile(path, block.Mode{})
	if err != nil {
		return deviceState{}, err
	}
	defer f.Close()
	s := deviceState{number: deviceNumber(path), size: f.Geometry().Size}
	if dir, err := filepath.EvalSymlinks(filepath.Join("/sys/dev/block", s.number)); err == nil {
		s.start = sysfsText(dir, "start")
		if s.seq = sysfsText(dir, "diskseq"); s.seq == "" {
			s.seq = sysfsText(filepath.Dir(dir), "diskseq")
		}
	}
	return s, nil
}

func sysfsText(dir, attr string) string {
	text, err := os.ReadFile(filepath.Join(dir, attr))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// diskIDs is the state file that gives each protected device its id.
type diskIDs struct {
	Version int                     `json:"version"`
	Disks   map[string]block.DiskID `json:"disks"` // by deviceIdentity
}

const (
	diskIDsVersion = 1
	diskIDsFile    = "disks.json"
)

// loadDiskIDs reads the state file; one that is not there is empty.
func loadDiskIDs(path string) (diskIDs, error) {
	ids := diskIDs{Version: diskIDsVersion, Disks: map[string]block.DiskID{}}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ids, nil
	}
	if err != nil {
		return ids, err
	}
	if err := json.Unmarshal(raw, &ids); err != nil {
		return ids, fmt.Errorf("read %s: %w; restore it from a backup, or remove it to protect the disks anew", path, err)
	}
	if ids.Version > diskIDsVersion {
		return ids, fmt.Errorf("read %s: version %d: %w; install the release that wrote it", path, ids.Version, block.ErrVersion)
	}
	return ids, nil
}

// KnownDisks are the ids of all disks that an agent with this state folder has ever protected.
func KnownDisks(stateDir string) ([]block.DiskID, error) {
	ids, err := loadDiskIDs(filepath.Join(stateDir, diskIDsFile))
	return slices.Collect(maps.Values(ids.Disks)), err
}

// ForgetDisks makes the host a new one to every target: the ids and the state of its disks are removed, and the next start
// protects them under new ids. Their copies stay where they are.
func ForgetDisks(stateDir string) error {
	ids, err := loadDiskIDs(filepath.Join(stateDir, diskIDsFile))
	if err != nil {
		return err
	}
	// The ids go first: a crash in between leaves states that nothing refers to.
	paths := []string{filepath.Join(stateDir, diskIDsFile)}
	for _, id := range ids.Disks {
		paths = append(paths, statePath(stateDir, id))
	}
	for _, path := range paths {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// diskID finds the id of a device, and makes and stores one the first time.
func diskID(stateDir, identity string) (block.DiskID, error) {
	path := filepath.Join(stateDir, diskIDsFile)
	ids, err := loadDiskIDs(path)
	if err != nil {
		return block.DiskID{}, err
	}
	if id, ok := ids.Disks[identity]; ok {
		return id, nil
	}
	id := block.NewDiskID()
	ids.Disks[identity] = id
	return id, storeJSON(path, ids)
}

// storeJSON replaces a state file so that a crash leaves the old or the new one.
func storeJSON(path string, v any) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return durable.Replace(path, append(raw, '\n'), 0o600)
}

// bootID is the kernel's boot id; zero where it can't be read, which is a boot like any other.
func bootID() [16]byte {
	id, err := block.ParseDiskID(sysfsText("/proc/sys/kernel/random", "boot_id"))
	if err != nil {
		return [16]byte{}
	}
	return id
}
