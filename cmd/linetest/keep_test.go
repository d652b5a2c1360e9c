package linetest

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/internal/codec"
	"github.com/understudy-dr/understudy/receiver"
)

// TestPinKeepsAPoint: a pinned point outlives its tier, restarts of the receiver included, and restores to what it was; unpinned
// it goes.
func TestPinKeepsAPoint(t *testing.T) {
	s := newSite(t, "tcp")
	dev := s.loopDisk("disk", 64*mib)
	r := s.startReceiver()
	s.startAgent(dev)
	write(t, dev, 1*mib, 4*mib)
	first := s.nextPoint(dev)
	was := s.restore(dev + "@" + first.Seq.String())
	at := dev + "@" + first.Seq.String()
	if out := s.ours(s.remote("pin", at)...); !strings.HasPrefix(out, "pinned "+first.Seq.String()+" ") {
		t.Errorf("pin says %q", out)
	}
	for range 2 {
		r.kill()
		r = s.startReceiver("--keep", "2s")
		write(t, dev, 2*mib, 4*mib)
		s.nextPoint(dev)
		eventually(t, "the points around the pinned one to go", func() bool {
			points := s.points(dev)
			return len(points) > 1 && points[0].Seq == first.Seq && points[0].Pinned && points[1].Seq > first.Seq+1 && !points[1].Pinned
		})
	}
	now := s.restore(at)
	must(t, "cmp", was, now)
	if out := s.ours(s.remote("points", dev)...); !strings.Contains(out, "PINNED") {
		t.Errorf("points prints %q", out)
	}
	s.ours(s.remote("unpin", at)...)
	eventually(t, "the unpinned point to go", func() bool {
		points := s.points(dev)
		return len(points) > 0 && points[0].Seq > first.Seq
	})
	for what, want := range map[string]int{at: 4, dev: 2, dev + "@": 2, "sdx@latest": 4} {
		if _, stderr, code := run(t, "understudy", s.remote("pin", what)...); code != want || strings.Count(stderr, "\n") != 1 {
			t.Errorf("pin %s: exit %d, want %d: %s", what, code, want, stderr)
		}
	}
	s.sameAs(dev)
}

// TestTiersMerge: points of an interval that is past become one, which is whole, and the copy goes on.
func TestTiersMerge(t *testing.T) {
	s := newSite(t, "tcp")
	dev := s.loopDisk("disk", 64*mib)
	s.startReceiver("--keep", "3s,1h/2s")
	s.startAgent(dev)
	var merged receiver.PointReport
	eventually(t, "a merged point", func() bool {
		write(t, dev, 4*mib, mib)
		for _, p := range s.points(dev) {
			if p.First < p.Seq {
				merged = p
				return true
			}
		}
		return false
	})
	s.restore(dev + "@" + merged.Seq.String())
	s.ours(s.remote("audit", dev)...)
	s.sameAs(dev)
}

// TestHorizonLatest: the volume is at the newest point, and is the disk.
func TestHorizonLatest(t *testing.T) {
	s := newSite(t, "tcp")
	dev := s.loopDisk("disk", 64*mib)
	s.startReceiver("--horizon", "latest")
	s.startAgent(dev)
	write(t, dev, mib, 8*mib)
	s.nextPointThat(dev, func(p receiver.PointReport) bool { return p.Proven })
	volumes, err := filepath.Glob(filepath.Join(s.rdir, "disks", "*", "volume.raw"))
	if err != nil || len(volumes) != 1 {
		t.Fatal(volumes, err)
	}
	eventually(t, "one point, in the volume", func() bool {
		points := s.points(dev)
		return len(points) == 1 && points[0].Stored == 0
	})
	must(t, "cmp", volumes[0], dev)
}

// TestAudit: it reads all, digests the volume as a raw image of the same point would be, and names damage.
func TestAudit(t *testing.T) {
	s := newSite(t, "tcp")
	dev := s.loopDisk("disk", 64*mib)
	r := s.startReceiver("--keep", "2s")
	a := s.startAgent(dev)
	write(t, dev, mib, 8*mib)
	s.nextPoint(dev)
	var report receiver.AuditReport
	// The agent runs on: an audit that is under way puts folding off to the next point.
	eventually(t, "the volume to stand at a point", func() bool {
		points := s.points(dev)
		return len(points) > 0 && points[0].Stored == 0
	})
	a.stop()
	eventually(t, "the audit to find the volume at the oldest point", func() bool {
		report = s.audit(dev, 0)
		points := s.points(dev)
		return report.Volume.Digest != nil && points[0].Stored == 0 && points[0].Seq == report.Volume.Seq
	})
	raw, err := os.ReadFile(s.restore(dev + "@" + report.Volume.Seq.String()))
	if err != nil {
		t.Fatal(err)
	}
	cd, err := codec.New()
	if err != nil {
		t.Fatal(err)
	}
	digest := cd.NewDigest()
	digest.Write(raw)
	if got := hex.EncodeToString(digest.Sum(nil)); got != report.Volume.Digest.String() {
		t.Errorf("the volume's digest is %v, that of the restored image %s", report.Volume.Digest, got)
	}
	r.stop()
	s.startReceiver() // all points stay in the journal
	s.startAgent(dev)
	write(t, dev, mib, mib)
	s.nextPoint(dev)
	write(t, dev, mib, mib)
	s.nextPoint(dev)
	file := largest(t, filepath.Join(s.rdir, "disks", "*", "*.delta"))
	flip(t, file, 5000)
	report = s.audit(dev, 8)
	if len(report.Damage) != 1 || report.Damage[0].File != file || report.Damage[0].Offset > 5000 {
		t.Errorf("damage %+v, in %s it is", report.Damage, file)
	}
	stdout, stderr, code := run(t, "understudy", s.remote("audit", dev)...)
	if code != 8 || !strings.Contains(stdout, file) || !strings.Contains(stderr, "1 damaged place") {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
}

// largest is the largest file of a pattern.
func largest(t *testing.T, pattern string) (file string) {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	size := int64(-1)
	for _, name := range names {
		if info, err := os.Stat(name); err == nil && info.Size() > size {
			file, size = name, info.Size()
		}
	}
	if file == "" {
		t.Fatalf("no file %s", pattern)
	}
	return file
}

// flip inverts the lowest bit of one byte.
func flip(t *testing.T, file string, off int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

// audit runs the command and decodes what it prints.
func (s *site) audit(disk string, code int) receiver.AuditReport {
	s.t.Helper()
	stdout, stderr, got := run(s.t, "understudy", s.remote("audit", disk, "--json")...)
	var report receiver.AuditReport
	if got != code {
		s.t.Fatalf("audit: exit %d, want %d: %s%s", got, code, stdout, stderr)
	}
	if err := json.Unmarshal([]byte(stdout), &report); err != nil {
		s.t.Fatalf("audit --json printed %q: %v", stdout, err)
	}
	return report
}
