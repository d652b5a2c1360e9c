package linetest

import (
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/receiver"
)

// standIn is the host of the other site on which a copy is in service: it has a name, a state and a socket of its own.
type standIn struct {
	*site
	disk string
}

func (s *site) standIn(disk string) standIn {
	s.t.Helper()
	s.ours("pki", "issue", "--dir", s.path("ca"), "--name", "dr1", "--role", "source", "--out", s.path("dr1"))
	s.t.Cleanup(func() {
		if _, stderr, code := run(s.t, "understudy-agent", "forget", "--state-dir", s.path("dr-state")); code != 0 {
			s.t.Errorf("forget: %s", stderr)
		}
	})
	return standIn{s, disk}
}

func (d standIn) startAgent() *process {
	d.t.Helper()
	return start(d.t, "understudy-agent", "run", "--receiver", d.addr, "--interval", "300ms", "--pki", d.path("dr1"), "--host", "dr1",
		"--state-dir", d.path("dr-state"), "--control", d.path("dr.sock"), "--carrier", d.carrier, "--disk", d.disk)
}

// TestFailBackByHand goes the way of docs/FAILBACK.md: the source is lost, its copy goes into service on another host, is written
// there, and comes home with what was written, while what the old source wrote after the common point goes. At the end the old
// source is protected again, and only what differed was sent for that.
func TestFailBackByHand(t *testing.T) {
	s := newSite(t, "tcp")
	home, away := s.loopDisk("home", 64*mib), s.loopDisk("away", 64*mib)
	dr := s.standIn(away)
	write(t, home, 0, 32*mib)
	s.startReceiver()
	a := s.startAgent(home)
	s.sameAs(home)
	a.kill()
	write(t, home, 40*mib, mib) // after the common point

	s.promote("web1:" + home)
	s.ours(s.remote("restore", "web1:"+home+"@latest", away)...)
	write(t, away, 8*mib, mib) // in service
	dr.startAgent()
	consistent := func(p receiver.PointReport) bool { return p.Class.Consistent() && p.Proven }
	s.nextPointThat("dr1:"+away, consistent)
	s.promote("dr1:" + away) // and out of it: nobody writes any more

	a = s.startAgent(home)
	eventually(t, "the old source is fenced", func() bool { d, ok := s.status(home); return ok && d.State == "fenced" })
	if _, stderr, code := run(t, "understudy-agent", "forget", "--state-dir", s.path("state")); code != 7 {
		t.Errorf("forget while the agent runs: exit %d: %s", code, stderr)
	}
	a.stop()
	if _, stderr, code := run(t, "understudy-agent", "forget", "--state-dir", s.path("state")); code != 0 {
		t.Fatalf("forget: %s", stderr)
	}
	if _, stderr, code := run(t, "understudy", s.remote("restore", "dr1:"+away+"@latest", home)...); code != 1 || !strings.Contains(stderr, "--overwrite") {
		t.Errorf("a restore over a disk that holds data: exit %d: %s", code, stderr)
	}
	s.ours(s.remote("restore", "dr1:"+away+"@latest", home, "--overwrite")...)
	must(t, "cmp", home, away)

	s.startAgent(home)
	eventually(t, "it is fenced still", func() bool { d, ok := s.status(home); return ok && d.State == "fenced" })
	began := time.Now()
	must(t, bin+"/understudy-agent", "rejoin", home, "--control", s.path("agent.sock"))
	s.copyIs("web1:"+home, home)
	if d, ok := s.status(home); !ok || d.Generation != 1 {
		t.Errorf("the disk is at generation %d, want 1", d.Generation)
	}
	var sent block.Size
	for _, p := range s.points("web1:" + home) {
		if p.Time.After(began) {
			sent += p.Covered
		}
	}
	if sent < mib || sent > 4*mib {
		t.Errorf("%v were sent for a difference of 1 MiB", sent)
	}
}
