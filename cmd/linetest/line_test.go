package linetest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const mib = 1 << 20

// TestTheMainJob protects a disk from nothing, follows its changes, and gets every byte back, on both carriers.
func TestTheMainJob(t *testing.T) {
	t.Parallel()
	for _, carrier := range []string{"tcp", "quic"} {
		t.Run(carrier, func(t *testing.T) {
			s := newSite(t, carrier)
			dev := s.loopDisk("disk", 96*mib)
			write(t, dev, 0, 8*mib)
			write(t, dev, 64*mib, 4*mib)
			s.startReceiver()
			s.startAgent(dev)
			s.sameAs(dev)
			write(t, dev, 4*mib, 1*mib)
			write(t, dev, 95*mib, 1*mib)
			must(t, "blkdiscard", "-o", "1048576", "-l", "2097152", dev)
			must(t, "blkdiscard", "-z", "-o", "67108864", "-l", "1048576", dev)
			s.sameAs(dev)
		})
	}
}

// TestZeroesAreNotSent: an empty disk costs no payload.
func TestZeroesAreNotSent(t *testing.T) {
	t.Parallel()
	s := newSite(t, "tcp")
	dev := s.loopDisk("disk", 256*mib)
	write(t, dev, 100*mib, mib)
	s.startReceiver()
	s.startAgent(dev)
	s.nextPoint(dev)
	if d, ok := s.status(dev); !ok || d.Sent < mib/2 || d.Sent > 2*mib {
		t.Fatalf("a disk with 1 MiB of data took %v of payload", d.Sent)
	}
}

// TestResume kills either end or both, at once or after a pause, and writes meanwhile: no byte is lost, and none that did not
// change is sent again.
func TestResume(t *testing.T) {
	t.Parallel()
	s := newSite(t, "tcp")
	dev := s.loopDisk("disk", 128*mib)
	write(t, dev, 0, 64*mib)
	r, a := s.startReceiver(), s.startAgent(dev)
	s.sameAs(dev)
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"agent killed", func() { a.kill(); write(t, dev, 10*mib, mib); a = s.startAgent(dev) }},
		{"agent stopped", func() { a.stop(); write(t, dev, 20*mib, mib); a = s.startAgent(dev) }},
		{"receiver killed", func() { r.kill(); write(t, dev, 30*mib, mib); r = s.startReceiver() }},
		{"both killed", func() {
			a.kill()
			r.kill()
			write(t, dev, 40*mib, mib)
			r, a = s.startReceiver(), s.startAgent(dev)
		}},
	} {
		step.do()
		s.sameAs(dev)
		d, ok := s.status(dev)
		if !ok || strings.Contains(a.logged(), "comparing the disk") || strings.Contains(a.logged(), "first sync again") {
			t.Fatalf("%s: it began anew:\n%s", step.name, a.logged())
		}
		if strings.HasPrefix(step.name, "agent") && d.Sent > 8*mib {
			t.Errorf("%s: %v sent for 1 MiB changed", step.name, d.Sent)
		}
	}
}

// TestSeveralDisks protects two disks with one agent and takes their points together.
func TestSeveralDisks(t *testing.T) {
	t.Parallel()
	s := newSite(t, "tcp")
	one, two := s.loopDisk("one", 32*mib), s.loopDisk("two", 48*mib)
	write(t, one, 0, 4*mib)
	write(t, two, 8*mib, 4*mib)
	s.startReceiver()
	s.startAgent(one, two)
	s.sameAs(one)
	s.sameAs(two)
	write(t, two, 0, mib)
	s.sameAs(one)
	s.sameAs(two)
	p := s.nextPoint(one)
	if p.Labels["disks"] != "2/2" {
		t.Errorf("the point was taken of %s disks", p.Labels["disks"])
	}
	found := false
	for _, q := range s.points(two) {
		found = found || q.Time.Equal(p.Time)
	}
	if !found {
		t.Errorf("no point of %s at the instant %v of %s", two, p.Time, one)
	}
}

// TestMountedFileSystem freezes a mounted, busy ext4, xfs and btrfs: each restored point passes its fsck.
func TestMountedFileSystem(t *testing.T) {
	t.Parallel()
	for _, fs := range []struct {
		name  string
		mkfs  []string
		check string // of the image $1, with the folder $2 to mount on
		rest  time.Duration
	}{
		{"ext4", []string{"mkfs.ext4", "-q"}, `e2fsck -fn "$1"`, 0},
		// xfs leaves a record in its log when it is frozen, on purpose: a mount takes it in.
		{"xfs", []string{"mkfs.xfs", "-q", "-f"}, `mount -o loop,nouuid "$1" "$2" && umount "$2" && xfs_repair -n -f "$1"`, 0},
		// A second btrfs of the same id must not be mounted beside the first. It never writes where it wrote last, so that an
		// unbounded load soon dirties all of a small disk.
		{"btrfs", []string{"mkfs.btrfs", "-q", "-f"}, `btrfs check --readonly --check-data-csum "$1"`, 20 * time.Millisecond},
	} {
		t.Run(fs.name, func(t *testing.T) {
			s := newSite(t, "tcp")
			dev := s.loopDisk("disk", 384*mib)
			must(t, fs.mkfs[0], append(fs.mkfs[1:], dev)...)
			mount := s.path("mnt")
			if err := os.Mkdir(mount, 0o700); err != nil {
				t.Fatal(err)
			}
			must(t, "mount", dev, mount)
			t.Cleanup(func() { must(t, "umount", mount) })
			s.startReceiver()
			s.startAgent(dev)
			scratch := s.path("scratch")
			if err := os.Mkdir(scratch, 0o700); err != nil {
				t.Fatal(err)
			}
			stop := churn(mount, fs.rest)
			t.Cleanup(stop)
			s.nextPoint(dev)
			for range 4 {
				p := s.nextPoint(dev)
				path := s.restore(dev + "@" + p.Seq.String())
				must(t, "sh", "-c", fs.check, "check", path, scratch)
				os.Remove(path)
			}
			stop()
			must(t, "sync", "-f", mount)
			s.nextPoint(dev)
			if stdout, stderr, code := run(t, "understudy", "verify", dev, "--agent", s.path("agent.sock")); code != 0 {
				t.Fatalf("verify: exit %d: %s%s", code, stdout, stderr)
			}
		})
	}
}

// churn creates, syncs, renames and deletes files in dir until stop is called. It rests after each.
func churn(dir string, rest time.Duration) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		data := make([]byte, 64<<10)
		for i := 0; ; i++ {
			select {
			case <-quit:
				return
			default:
			}
			data[i%len(data)]++
			name := filepath.Join(dir, "file-"+string(rune('a'+i%26)))
			f, err := os.Create(name + ".tmp")
			if err != nil {
				continue // full for a moment: the deletes below make room
			}
			f.Write(data)
			f.Sync()
			f.Close()
			os.Rename(name+".tmp", name)
			if i%5 == 0 {
				os.Remove(filepath.Join(dir, "file-"+string(rune('a'+(i*7)%26))))
			}
			time.Sleep(rest)
		}
	}()
	return sync.OnceFunc(func() { close(quit); <-done })
}

// TestDump shows every file that both ends keep, and says of another that it is none of ours.
func TestDump(t *testing.T) {
	t.Parallel()
	s := newSite(t, "tcp")
	dev := s.loopDisk("disk", 8*mib)
	write(t, dev, 0, mib)
	r, a := s.startReceiver(), s.startAgent(dev)
	s.nextPoint(dev) // the oldest point is the volume's, without a delta
	write(t, dev, mib, mib)
	s.nextPoint(dev)
	a.stop()
	r.stop()
	for pattern, says := range map[string]string{
		"receiver/disks/*/*.delta":      "seal: class",
		"receiver/disks/*/journal.json": "journal, version 1",
		"receiver/disks/*/folded.json":  "position, version 1",
		"receiver/receiver.json":        "receiver's folder, version 1",
		"state/disks.json":              "agent's disks, version 1",
	} {
		files, err := filepath.Glob(s.path(pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("no %s: %v", pattern, err)
		}
		for _, file := range files {
			if out := s.ours("dump", file); !strings.Contains(out, says) {
				t.Errorf("dump of %s says %.200q, want %q", file, out, says)
			}
			for line := range strings.Lines(s.ours("dump", "--json", file)) {
				if !json.Valid([]byte(line)) {
					t.Errorf("dump --json of %s prints %q", file, line)
				}
			}
		}
	}
	volume := must(t, "sh", "-c", "ls "+s.path("receiver")+"/disks/*/volume.raw")
	if _, stderr, code := run(t, "understudy", "dump", volume); code == 0 || !strings.Contains(stderr, "no file of a journal") {
		t.Errorf("dump of a volume: exit %d: %s", code, stderr)
	}
}
