package linetest

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/wire"
)

// promote has an operator promote a disk.
func (s *site) promote(disk string) {
	s.t.Helper()
	s.ours(s.remote("promote", disk)...)
}

// TestPromoteFencesTheSource: from the promotion on the source's agent sends nothing, says why and what to do, once, and still
// does after a restart of either end; rejoin leads back.
func TestPromoteFencesTheSource(t *testing.T) {
	s := newSite(t, "tcp")
	dev := s.loopDisk("disk", 64*mib)
	write(t, dev, 0, 8*mib)
	r := s.startReceiver()
	a := s.startAgent(dev)
	s.sameAs(dev)
	if _, stderr, code := run(t, "understudy-agent", "rejoin", dev, "--control", s.path("agent.sock")); code == 0 || !strings.Contains(stderr, "not fenced") {
		t.Errorf("rejoin of a disk that is not fenced: exit %d: %s", code, stderr)
	}
	before := s.restore(dev)

	began := time.Now()
	s.promote(dev)
	fenced := func() bool { d, ok := s.status(dev); return ok && d.State == "fenced" }
	eventually(t, "the agent says that it is fenced", fenced)
	t.Logf("fenced %v after the promotion was asked for", time.Since(began))
	points := s.points(dev)
	write(t, dev, 16*mib, mib)
	time.Sleep(time.Second) // three intervals, in which it would have sent something
	for _, step := range []func(){
		func() {},
		func() { r.kill(); r = s.startReceiver() },
		func() { a.kill(); a = s.startAgent(dev) },
	} {
		step()
		eventually(t, "the agent is fenced still", fenced)
		if now := s.points(dev); len(now) > len(points) || now[len(now)-1].Seq != points[len(points)-1].Seq {
			t.Fatalf("points came in after the promotion: %d, %d before", len(now), len(points))
		}
	}
	if n := strings.Count(a.logged(), "level=ERROR"); n != 1 || !strings.Contains(a.logged(), "understudy-agent rejoin") {
		t.Errorf("fenced was logged %d times, or without the way out", n)
	}
	if n := strings.Count(r.logged(), "code=fenced"); n > 4 {
		t.Errorf("the agent hammers the target: refused %d times", n)
	}
	after := s.restore(dev)
	if out, err := exec.Command("cmp", before, after).CombinedOutput(); err != nil {
		t.Errorf("the copy changed after the promotion: %s", out)
	}
	os.Remove(after)
	os.Remove(before)

	must(t, "sh", "-c", `"$0" rejoin "$1" --control "$2"`, bin+"/understudy-agent", dev, s.path("agent.sock"))
	s.sameAs(dev)
	if !strings.Contains(a.logged(), "comparing the disk") {
		t.Error("the source rejoined without a comparison")
	}
	a.kill()
	a = s.startAgent(dev)
	s.sameAs(dev)
	if d, ok := s.status(dev); !ok || d.Generation != 1 || strings.Contains(a.logged(), "fenced") {
		t.Errorf("the generation did not survive a restart: %+v", d)
	}
}

// TestPromoteInTheMiddleOfADelta: a delta that is under way when the generation rises is never applied, whatever of it had
// arrived, and whether or not its source hears of the promotion in time.
func TestPromoteInTheMiddleOfADelta(t *testing.T) {
	s := newSite(t, "tcp")
	s.startReceiver()
	id := block.NewDiskID()
	r, err := s.openRaw("source", wire.Open{Disk: id, Boot: [16]byte{1}})
	if err != nil {
		t.Fatal(err)
	}
	r.begin(0)
	r.frame(0, 1)
	if err := r.commit(time.Now()); err != nil {
		t.Fatal(err)
	}
	r.begin(0)
	r.frame(0, 2)
	r.send(r.stream.Flush())
	s.promote(id.String())
	if err := r.answer(); !errors.Is(err, wire.ErrFenced) {
		t.Errorf("a stream that says nothing just now: %v", err)
	}
	if err := r.commit(time.Now()); err == nil {
		t.Error("the seal of a fenced delta was acknowledged")
	}
	if p := s.points(id.String()); len(p) != 1 || p[0].Seq != 1 {
		t.Fatalf("points %+v", p)
	}
	if _, err := s.openRaw("source", wire.Open{Disk: id, Boot: [16]byte{1}}); !errors.Is(err, wire.ErrFenced) {
		t.Errorf("an open of the old generation: %v", err)
	}
	// A source that says that it rejoins, and goes on with the old generation.
	liar, err := s.openRaw("source", wire.Open{Disk: id, Boot: [16]byte{1}, Rejoin: true})
	if err != nil {
		t.Fatal(err)
	}
	if liar.opened.Generation != 1 {
		t.Errorf("rejoined at generation %d", liar.opened.Generation)
	}
	liar.begin(0)
	liar.send(liar.stream.Flush())
	if err := liar.answer(); !errors.Is(err, wire.ErrFenced) {
		t.Errorf("a header of the old generation: %v", err)
	}
	good, err := s.openRaw("source", wire.Open{Disk: id, Boot: [16]byte{1}, Generation: 1})
	if err != nil {
		t.Fatal(err)
	}
	good.begin(1)
	good.frame(0, 3)
	if err := good.commit(time.Now()); err != nil {
		t.Errorf("a delta of the new generation: %v", err)
	}
}

// TestPromoteUnderLoad promotes again and again while a source seals deltas of its own generation as fast as it can: the
// newest point is always one that was acknowledged before the promotion was.
func TestPromoteUnderLoad(t *testing.T) {
	s := newSite(t, "tcp")
	s.startReceiver()
	id := block.NewDiskID()
	for g := range block.Generation(5) {
		r, err := s.openRaw("source", wire.Open{Disk: id, Boot: [16]byte{1}, Generation: g})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			for i := 0; ; i++ {
				r.begin(g)
				r.frame(block.Offset(i%16)*4096, byte(g))
				if err := r.commit(time.Now()); err != nil {
					ended <- err
					return
				}
			}
		}()
		eventually(t, "a point of this generation", func() bool { return len(s.points(id.String())) > 0 })
		s.promote(id.String())
		newest := func() block.Seq { p := s.points(id.String()); return p[len(p)-1].Seq }
		at := newest()
		if err := <-ended; !errors.Is(err, wire.ErrFenced) {
			t.Errorf("the stream of generation %d ended with: %v", g, err)
		}
		if now := newest(); now != at || r.opened.TipSeq > at {
			t.Fatalf("point %v came after the promotion at %v; acknowledged was %v", now, at, r.opened.TipSeq)
		}
	}
}
