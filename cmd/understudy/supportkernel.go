package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/internal/block"
)

// ofDisks are lines of the kernel's log that have to do with what an agent or a receiver does.
var ofDisks = regexp.MustCompile(`(?i)\b(blk|block|bio|i/o error|buffer i/o|ext[234]|jbd2|xfs|btrfs|nvme|scsi|sd[a-z]+|ata\d|virtio|vd[a-z]|loop\d|dm-|md\d|raid|bpf|btf|lockdown|oom|out of memory|hung|blocked for more|rcu|understudy|segfault|clocksource)`)

// kernelLog is what the kernel's ring buffer holds of that (syslog(2)).
func kernelLog(context.Context) ([]byte, error) {
	const readAll, size = 3, 10
	n, err := unix.Klogctl(size, nil)
	if err != nil {
		return nil, fmt.Errorf("read the kernel's log: %w", err)
	}
	raw := make([]byte, n)
	if n, err = unix.Klogctl(readAll, raw); err != nil {
		return nil, fmt.Errorf("read the kernel's log: %w", err)
	}
	var b bytes.Buffer
	for line := range bytes.Lines(raw[:n]) {
		if ofDisks.Match(line) {
			b.Write(line)
		}
	}
	return b.Bytes(), nil
}

// ofDevice are the files of a block device in sysfs.
var ofDevice = []string{
	"dev", "size", "ro", "removable", "diskseq", "partition", "start", "stat", "inflight", "device/model", "device/vendor", "dm/name", "md/level", "loop/backing_file",
	"queue/iostats", "queue/nr_requests", "queue/scheduler", "queue/rotational", "queue/logical_block_size", "queue/physical_block_size", "queue/write_cache",
}

// blockDevices lists what sysfs says of each, like lsblk.
func blockDevices(context.Context) ([]byte, error) {
	dirs, err := filepath.Glob("/sys/class/block/*")
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, dir := range dirs {
		if raw, _ := os.ReadFile(filepath.Join(dir, "size")); strings.TrimSpace(string(raw)) == "0" {
			continue // an empty loop device or drive
		}
		fmt.Fprintln(&b, filepath.Base(dir))
		for _, file := range ofDevice {
			if raw, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
				fmt.Fprintf(&b, "  %s: %s\n", file, strings.Join(strings.Fields(string(raw)), " "))
			}
		}
		for _, what := range []string{"holders", "slaves", "mq"} {
			names, _ := os.ReadDir(filepath.Join(dir, what))
			if len(names) > 0 {
				fmt.Fprintf(&b, "  %s:", what)
				for _, n := range names {
					fmt.Fprintf(&b, " %s", n.Name())
				}
				fmt.Fprintln(&b)
			}
		}
	}
	return b.Bytes(), nil
}

// pins lists names: what they stand for is in docs/ARCHITECTURE.md.
func pins(context.Context) ([]byte, error) {
	var b bytes.Buffer
	err := filepath.WalkDir("/sys/fs/bpf/understudy", func(path string, _ fs.DirEntry, err error) error {
		fmt.Fprintln(&b, path)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return []byte("nothing\n"), nil
	}
	return b.Bytes(), err
}

// journals lists the files of all copies, and the headers of deltas.
func (c *collector) journals(context.Context) ([]byte, error) {
	if _, err := os.Stat(c.copies); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err := filepath.WalkDir(c.copies, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			fmt.Fprintln(&b, err)
			return nil
		}
		info, err := d.Info()
		if err != nil || d.IsDir() {
			return nil // gone since, or a folder
		}
		rel, _ := filepath.Rel(c.copies, path)
		fmt.Fprintf(&b, "%s %12d %s%s\n", info.ModTime().UTC().Format(time.RFC3339), info.Size(), rel, deltaHeader(path))
		return nil
	})
	return b.Bytes(), err
}

// deltaHeader is the header of a delta in a line, "" for any other file. Nothing behind it is read.
func deltaHeader(path string) string {
	if ext := filepath.Ext(path); ext != ".delta" && ext != ".open" {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return " " + err.Error()
	}
	defer f.Close()
	raw := make([]byte, block.DeltaHeaderSize)
	if _, err := io.ReadFull(f, raw); err != nil {
		return " no header: " + err.Error()
	}
	h, err := block.ParseDeltaHeader(raw)
	if err != nil {
		return " " + err.Error()
	}
	return fmt.Sprintf(" %v of %v, generation %d, %d bytes in blocks of %d, after %v", h.Seq, h.Disk, h.Generation, int64(h.DiskSize), h.BlockSize, h.Parent)
}
