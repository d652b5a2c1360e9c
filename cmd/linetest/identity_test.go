package linetest

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/wire"
)

// TestOneMachineOwnsADisk tells machines of one name apart. Each step opens the disk and closes it again.
func TestOneMachineOwnsADisk(t *testing.T) {
	type step struct {
		machine, boot byte
		says          string // "" for admitted; "accept" as a machine has an operator accept
	}
	const other, clash = "another machine", "two machines"
	for name, steps := range map[string][]step{
		"a clone after the original":   {{1, 1, ""}, {2, 2, other}, {1, 1, ""}, {1, 3, ""}},
		"the original after a clone":   {{2, 2, ""}, {1, 1, other}, {2, 2, ""}},
		"new hardware is accepted":     {{1, 1, ""}, {2, 2, other}, {0, 0, "accept"}, {2, 2, ""}, {1, 1, other}},
		"an id that comes later":       {{0, 1, ""}, {1, 2, ""}, {2, 3, other}, {0, 4, ""}},
		"reboots of one machine":       {{0, 1, ""}, {0, 2, ""}, {0, 2, ""}, {0, 3, ""}, {0, 3, ""}},
		"an old boot comes back":       {{0, 1, ""}, {0, 2, ""}, {0, 1, clash}, {0, 2, clash}, {0, 3, clash}, {0, 0, "accept"}, {0, 2, ""}, {0, 2, ""}},
		"a clone with the same id":     {{1, 1, ""}, {1, 2, ""}, {1, 1, clash}, {1, 2, clash}},
		"a kernel without a boot id":   {{0, 0, ""}, {0, 0, ""}, {0, 1, ""}, {0, 0, ""}, {0, 1, ""}},
		"another machine in a clash":   {{1, 1, ""}, {1, 2, ""}, {1, 1, clash}, {2, 9, other}},
		"accept forgets the boots too": {{0, 1, ""}, {0, 2, ""}, {0, 0, "accept"}, {0, 1, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, "tcp")
			r := s.startReceiver()
			id := block.NewDiskID()
			for i, c := range steps {
				if i == len(steps)/2 { // what it knows must survive a restart
					r.kill()
					r = s.startReceiver()
				}
				if c.says == "accept" {
					s.ours(s.remote("accept", id.String())...)
					continue
				}
				open := wire.Open{Disk: id}
				if c.machine != 0 {
					open.Machine = block.Digest{c.machine}
				}
				if c.boot != 0 {
					open.Boot = [16]byte{c.boot}
				}
				raw, err := s.openRaw("source", open)
				if c.says != "" && (!errors.Is(err, wire.ErrForbidden) || !strings.Contains(err.Error(), c.says)) || c.says == "" && err != nil {
					t.Fatalf("step %d, %+v: %v", i+1, c, err)
				}
				if c.says == "" {
					raw.close()
					s.free(id)
				}
			}
		})
	}
}

// free waits until no source has the disk open.
func (s *site) free(id block.DiskID) {
	s.t.Helper()
	eventually(s.t, "the receiver lets go of the disk", func() bool {
		return !strings.Contains(s.ours(s.remote("status", "--json")...), `"source": "web1"`)
	})
}

// TestCloneBesideTheOriginal: while the original is linked a clone is refused, and does not disturb it. A clash ends the
// stream of the one that is linked as well.
func TestCloneBesideTheOriginal(t *testing.T) {
	s := newSite(t, "tcp")
	s.startReceiver()
	id := block.NewDiskID()
	first, err := s.openRaw("source", wire.Open{Disk: id, Boot: [16]byte{1}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.openRaw("source", wire.Open{Disk: id, Boot: [16]byte{2}}); !errors.Is(err, wire.ErrBusy) {
		t.Errorf("a second boot beside the first: %v", err)
	}
	if _, _, code := run(t, "understudy", s.remote("accept", id.String())...); code != 7 {
		t.Errorf("accept under a linked source: exit %d", code)
	}
	first.begin(0)
	if err := first.commit(time.Now()); err != nil {
		t.Errorf("the first was disturbed: %v", err)
	}
	first.close()
	s.free(id)
	second, err := s.openRaw("source", wire.Open{Disk: id, Boot: [16]byte{2}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.openRaw("source", wire.Open{Disk: id, Boot: [16]byte{1}}); !errors.Is(err, wire.ErrForbidden) {
		t.Errorf("the first boot after the second: %v", err)
	}
	second.begin(0)
	if err := second.commit(time.Now()); err == nil {
		t.Error("the second goes on writing, though nobody knows whether it is the right one")
	}
	if n := len(s.points(id.String())); n != 1 {
		t.Errorf("%d points", n)
	}
}

// TestTwoHostsClaimOneDisk: the first owns it, in either order.
func TestTwoHostsClaimOneDisk(t *testing.T) {
	s := newSite(t, "tcp")
	s.startReceiver()
	s.ours("pki", "issue", "--dir", s.path("ca"), "--name", "web2", "--role", "source", "--out", s.path("source2"))
	for _, order := range [][2]string{{"source", "source2"}, {"source2", "source"}} {
		id := block.NewDiskID()
		if _, err := s.openRaw(order[0], wire.Open{Disk: id}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.openRaw(order[1], wire.Open{Disk: id}); !errors.Is(err, wire.ErrForbidden) || !strings.Contains(err.Error(), "identity new") {
			t.Errorf("%s after %s: %v", order[1], order[0], err)
		}
	}
}

// TestScanOfAnothersDisk: a source learns nothing of the disks of other hosts.
func TestScanOfAnothersDisk(t *testing.T) {
	s := newSite(t, "tcp")
	s.startReceiver()
	s.ours("pki", "issue", "--dir", s.path("ca"), "--name", "web2", "--role", "source", "--out", s.path("source2"))
	id := block.NewDiskID()
	r, err := s.openRaw("source", wire.Open{Disk: id})
	if err != nil {
		t.Fatal(err)
	}
	r.begin(0)
	r.frame(0, 7)
	if err := r.commit(time.Now()); err != nil {
		t.Fatal(err)
	}
	req := &wire.ScanRequest{Disk: id, Range: block.Range{Len: mib}, Chunk: 65536, Group: 1}
	if _, answer := ask(t, s.dialRaw("source"), req); answer.Type() != wire.TypeScanReply {
		t.Errorf("the disk's own host: %v", answer)
	}
	if _, answer := ask(t, s.dialRaw("source2"), req); !isForbidden(answer) {
		t.Errorf("another host: %v", answer)
	}
}

func isForbidden(m wire.Message) bool {
	e, ok := m.(*wire.Error)
	return ok && errors.Is(e, wire.ErrForbidden)
}

// TestIdentityNew makes a clone, that is, a host that starts with another's state, a host of its own.
func TestIdentityNew(t *testing.T) {
	s := newSite(t, "tcp")
	dev := s.loopDisk("disk", 16*mib)
	write(t, dev, 0, mib)
	s.startReceiver()
	a := s.startAgent(dev)
	s.sameAs(dev)
	d, _ := s.status(dev)
	if _, stderr, code := run(t, "understudy-agent", "identity", "new", "--state-dir", s.path("state")); code == 0 {
		t.Errorf("a new identity under a running agent: %s", stderr)
	}
	a.stop()
	stdout, stderr, code := run(t, "understudy-agent", "identity", "--state-dir", s.path("state"))
	if code != 0 || !strings.Contains(stdout, d.ID.String()) || !strings.Contains(stdout, "machine: ") {
		t.Errorf("identity: exit %d: %s%s", code, stdout, stderr)
	}
	if _, stderr, code := run(t, "understudy-agent", "identity", "new", "--state-dir", s.path("state")); code != 0 {
		t.Fatalf("identity new: exit %d: %s", code, stderr)
	}
	s.startAgent(dev)
	eventually(t, "the disk has a new id", func() bool { now, ok := s.status(dev); return ok && now.ID != d.ID })
	now, _ := s.status(dev)
	s.copyIs(now.ID.String(), dev)
	if len(s.points(d.ID.String())) == 0 {
		t.Error("the original's points are gone")
	}
}
