package linetest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestWrongWords: what an operator may mistype is one line that says what to do, and the exit code of the table.
func TestWrongWords(t *testing.T) {
	s := newSite(t, "tcp")
	dev := s.loopDisk("disk", 8*mib)
	write(t, dev, 0, mib)
	s.startReceiver()
	a := s.startAgent(dev)
	s.nextPoint(dev)
	a.stop()
	file := s.path("a-file")
	if err := os.WriteFile(file, []byte("not a device"), 0o600); err != nil {
		t.Fatal(err)
	}
	small := s.loopDisk("small", 4*mib)
	readOnly := s.loopDisk("ro", 8*mib)
	must(t, "blockdev", "--setro", readOnly)
	t.Cleanup(func() { must(t, "blockdev", "--setrw", readOnly) }) // it would stay read-only for whoever gets that loop device next
	bad := filepath.Join(s.dir, "bad.toml")
	if err := os.WriteFile(bad, []byte("reciever = \"x\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		bin  string
		args []string
		code int
		says string
	}{
		"unknown flag":      {"understudy-agent", []string{"run", "--intervall", "1s"}, 2, "--interval"},
		"unknown command":   {"understudy", []string{"point"}, 2, "points"},
		"unknown key":       {"understudy-agent", []string{"run", "--config", bad}, 2, "receiver"},
		"no such device":    {"understudy-agent", s.agentArgs("/dev/nonesuch"), 1, "no such device"},
		"not a device":      {"understudy-agent", s.agentArgs(file), 1, "not a block device"},
		"unknown disk":      {"understudy", s.remote("points", "/dev/nonesuch"), 4, "web1:" + dev},
		"unknown point":     {"understudy", s.remote("restore", dev+"@#999999", s.path("x")), 4, "newest is #"},
		"no point so early": {"understudy", s.remote("restore", dev+"@2001-01-01T00:00:00Z", s.path("x")), 4, "oldest is #"},
		"no point at all":   {"understudy", s.remote("restore", dev+"@yesterday", s.path("x")), 4, "RFC 3339|2026-01"},
		"file exists":       {"understudy", s.remote("restore", dev, file), 1, "--overwrite"},
		"device too small":  {"understudy", s.remote("restore", dev, small), 1, "at least as large"},
		"device read-only":  {"understudy", s.remote("restore", dev, readOnly), 1, "read-only"},
		"no agent":          {"understudy", []string{"status", "--agent", s.path("nobody.sock")}, 6, "no daemon"},
		"nobody listens":    {"understudy", []string{"status", "--receiver", freeAddr(t), "--pki", s.path("operator")}, 6, "refused"},
		"no certificate":    {"understudy", []string{"status", "--receiver", s.addr, "--pki", s.path("nowhere")}, 5, "pki issue"},
		"wrong role":        {"understudy", []string{"restore", dev, s.path("y"), "--receiver", s.addr, "--pki", s.path("source")}, 5, "source"},
	} {
		t.Run(name, func(t *testing.T) {
			stdout, stderr, code := run(t, c.bin, c.args...)
			line := strings.TrimSpace(stderr)
			if code != c.code || !regexp.MustCompile(c.says).MatchString(line) {
				t.Errorf("exit %d, want %d; said %q, want %q", code, c.code, line, c.says)
			}
			if last := line[strings.LastIndexByte(line, '\n')+1:]; !strings.HasPrefix(last, c.bin+": ") || stdout != "" {
				t.Errorf("not one plain line on stderr: %q, %q", stdout, stderr)
			}
		})
	}
}

// TestCertificates: another site's CA and an expired certificate are told apart, at once, on both carriers.
func TestCertificates(t *testing.T) {
	for _, carrier := range []string{"tcp", "quic"} {
		t.Run(carrier, func(t *testing.T) {
			s := newSite(t, carrier)
			dev := s.loopDisk("disk", 8*mib)
			r := s.startReceiver()
			s.ours("pki", "init", "--dir", s.path("other-ca"), "--site", "other")
			s.ours("pki", "issue", "--dir", s.path("other-ca"), "--name", "web1", "--role", "source", "--out", s.path("other"))
			s.ours("pki", "issue", "--dir", s.path("ca"), "--name", "web1", "--role", "source", "--ttl", "1s", "--out", s.path("short"))
			for dir, says := range map[string]string{"other": "CA", "short": "expired"} {
				eventually(t, "the agent gives up with a certificate that is "+says, func() bool {
					args := append(s.agentArgs(dev), "--pki", s.path(dir), "--state-dir", s.path("state-"+dir), "--control", s.path(dir+".sock"))
					_, stderr, code := run(t, "understudy-agent", args...)
					run(t, "understudy-agent", "forget", "--state-dir", s.path("state-"+dir))
					return code != 0 && strings.Contains(stderr, says)
				})
			}
			if strings.Contains(r.logged(), "new disk") {
				t.Error("the receiver made a place for a disk of a stranger")
			}
		})
	}
}

// TestTwoAgentsForOneDisk: the second is refused with a word, and the first is not disturbed.
func TestTwoAgentsForOneDisk(t *testing.T) {
	s := newSite(t, "tcp")
	dev := s.loopDisk("disk", 16*mib)
	s.startReceiver()
	s.startAgent(dev)
	s.nextPoint(dev)
	_, stderr, code := run(t, "understudy-agent", append(s.agentArgs(dev), "--control", s.path("second.sock"))...)
	if code != 7 || !strings.Contains(stderr, "another agent") {
		t.Errorf("the second agent: exit %d: %s", code, stderr)
	}
	write(t, dev, 0, mib)
	s.sameAs(dev)
}

// TestTargetFull: points stop, the agent says so, and all goes on when there is room again.
func TestTargetFull(t *testing.T) {
	s := newSite(t, "tcp")
	s.rdir = s.path("small-fs")
	if err := os.Mkdir(s.rdir, 0o700); err != nil {
		t.Fatal(err)
	}
	must(t, "mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", s.rdir)
	t.Cleanup(func() { must(t, "umount", "-l", s.rdir) })
	dev := s.loopDisk("disk", 128*mib)
	s.startReceiver()
	s.startAgent(dev)
	s.nextPoint(dev)
	write(t, dev, 0, 96*mib)
	eventually(t, "the agent says that the target is full", func() bool {
		d, ok := s.status(dev)
		return ok && strings.Contains(d.Error, "full")
	})
	before := len(s.points(dev))
	if before == 0 {
		t.Fatal("the points that were there are gone")
	}
	must(t, "mount", "-o", "remount,size=1g", s.rdir)
	s.sameAs(dev)
}

// TestDeviceVanishes: the agent says so and goes on when the disk is back, without a first sync if it is the one that went.
// Another one that comes under the same name does not get into the copy of the first.
func TestDeviceVanishes(t *testing.T) {
	s := newSite(t, "tcp")
	one, two := s.loopDisk("one", 32*mib), s.loopDisk("two", 32*mib)
	write(t, one, 0, 8*mib)
	write(t, two, 4*mib, 8*mib)
	disk := s.path("by-name")
	plug := func(dev string) {
		t.Helper()
		if err := os.Symlink(dev, disk); err != nil {
			t.Fatal(err)
		}
	}
	unplug := func() {
		t.Helper()
		if err := os.Remove(disk); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the agent says that the disk has vanished", func() bool {
			d, ok := s.status(disk)
			return ok && strings.Contains(d.Error, "vanished")
		})
	}
	plug(one)
	s.startReceiver()
	a := s.startAgent(disk)
	s.sameAs(disk)

	unplug()
	write(t, one, 16*mib, mib) // by somebody who knows it by its other name
	points := len(s.points(disk))
	plug(one)
	s.sameAs(disk)
	if log := a.logged(); strings.Count(log, "first sync") > 1 || strings.Contains(log, "comparing the disk") || len(s.points(disk)) <= points {
		t.Errorf("it began anew, though it is the same disk:\n%s", log)
	}

	d, _ := s.status(disk)
	first := d.ID.String()
	unplug()
	must(t, "losetup", "-d", one)
	must(t, "losetup", "-d", two)
	eventually(t, "the agent lets go of the name", func() bool { return exec.Command("losetup", one, s.path("two")).Run() == nil })
	plug(one)
	var other string
	eventually(t, "the other disk has an id of its own", func() bool {
		d, ok := s.status(disk)
		other = d.ID.String()
		return ok && other != first
	})
	s.copyIs(other, one)
	if points := s.points(first); len(points) == 0 {
		t.Error("the points of the disk that went are gone")
	}
	for range 5 {
		if _, stderr, code := run(t, "understudy", s.remote("points", "web1:"+disk)...); code != 4 || !strings.Contains(stderr, "names 2 disks") {
			t.Errorf("one of two disks of that name was taken: exit %d: %s", code, stderr)
		}
	}
}

// TestDeviceGrowsShrinks: the new part is synced, a smaller disk is refused.
func TestDeviceGrowsShrinks(t *testing.T) {
	s := newSite(t, "tcp")
	dev := s.loopDisk("disk", 32*mib)
	write(t, dev, 0, 4*mib)
	s.startReceiver()
	a := s.startAgent(dev)
	s.sameAs(dev)
	if err := os.Truncate(s.path("disk"), 64*mib); err != nil {
		t.Fatal(err)
	}
	must(t, "losetup", "-c", dev)
	write(t, dev, 60*mib, mib)
	eventually(t, "the agent sees the growth", func() bool { return strings.Contains(a.logged(), "grew") })
	s.sameAs(dev)
	write(t, dev, 40*mib, mib)
	s.sameAs(dev)
	if err := os.Truncate(s.path("disk"), 48*mib); err != nil {
		t.Fatal(err)
	}
	must(t, "losetup", "-c", dev)
	eventually(t, "the agent refuses the smaller disk", func() bool {
		d, ok := s.status(dev)
		return ok && strings.Contains(d.Error, "smaller")
	})
	if len(s.points(dev)) == 0 {
		t.Fatal("the points of the larger disk are gone")
	}
}

// TestNewerDirectory: a receiver does not touch a directory that a later release wrote.
func TestNewerDirectory(t *testing.T) {
	s := newSite(t, "tcp")
	if err := os.MkdirAll(s.rdir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.rdir, "receiver.json"), []byte(`{"version":99}`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := run(t, "understudy-receiver", "run", "--dir", s.rdir, "--listen", s.addr, "--pki", s.path("target"))
	if code == 0 || !strings.Contains(stderr, "newer release") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

// TestFlippedBits flips a bit in the middle of every delta file in turn: it is found, named by file and offset, and never
// served.
func TestFlippedBits(t *testing.T) {
	s := newSite(t, "tcp")
	dev := s.loopDisk("disk", 32*mib)
	write(t, dev, 0, 4*mib)
	r := s.startReceiver()
	a := s.startAgent(dev)
	s.nextPoint(dev)
	write(t, dev, 8*mib, 2*mib)
	p := s.nextPoint(dev)
	a.stop()
	r.stop()
	deltas, err := filepath.Glob(filepath.Join(s.rdir, "disks", "*", "*.delta"))
	if err != nil || len(deltas) == 0 {
		t.Fatalf("no delta files: %v", err)
	}
	flipped := 0
	for _, path := range deltas {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(raw) < mib {
			continue
		}
		flipped++
		raw[len(raw)/2] ^= 0x10
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		r := s.startReceiver()
		out := s.path("damaged.img")
		_, stderr, code := run(t, "understudy", s.remote("restore", dev+"@"+p.Seq.String(), out)...)
		if code != 8 || !strings.Contains(stderr, filepath.Base(path)) || !regexp.MustCompile(`offset \d+`).MatchString(stderr) {
			t.Errorf("%s: exit %d: %s", filepath.Base(path), code, stderr)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%s: a damaged disk was served", filepath.Base(path))
		}
		r.stop()
		raw[len(raw)/2] ^= 0x10
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if flipped == 0 {
		t.Fatal("no delta was large enough to damage: the test proves nothing")
	}
}

// TestVerifyFindsAndRepairs damages the replica's volume behind the receiver's back.
func TestVerifyFindsAndRepairs(t *testing.T) {
	s := newSite(t, "tcp")
	dev := s.loopDisk("disk", 32*mib)
	write(t, dev, 0, 16*mib)
	r := s.startReceiver("--max-points", "1")
	s.startAgent(dev)
	s.nextPoint(dev)
	verify := func() (string, int) {
		stdout, stderr, code := run(t, "understudy", "verify", dev, "--agent", s.path("agent.sock"))
		return stdout + stderr, code
	}
	eventually(t, "the disk is protected", func() bool { d, ok := s.status(dev); return ok && d.State == "protected" })
	if out, code := verify(); code != 0 {
		t.Fatalf("a good replica: exit %d: %s", code, out)
	}
	volume := must(t, "sh", "-c", "ls "+s.rdir+"/disks/*/volume.raw")
	eventually(t, "the first sync is folded into the volume", func() bool {
		out := must(t, "du", "-B1", volume)
		return !strings.HasPrefix(out, "0") && len(s.points(dev)) > 0 && strings.Fields(out)[0] > "1"
	})
	s.nextPoint(dev)
	must(t, "dd", "if=/dev/urandom", "of="+volume, "bs=4096", "seek=1000", "count=2", "conv=notrunc", "status=none")
	if out, code := verify(); code != 3 || !strings.Contains(out, "4096000") {
		t.Fatalf("a damaged replica: exit %d: %s\n%s", code, out, r.logged())
	}
	s.nextPoint(dev)
	if out, code := verify(); code != 0 {
		t.Fatalf("after the repair: exit %d: %s", code, out)
	}
}
