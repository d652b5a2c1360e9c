package receiver

import (
	"errors"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/codec"
	"github.com/understudy-dr/understudy/internal/wire"
	"github.com/understudy-dr/understudy/receiver/journal"
)

// TestASealAfterAPromotion: a delta that the journal took up before the generation rose is not sealed after it, whether or not
// its stream has noticed.
func TestASealAfterAPromotion(t *testing.T) {
	cd, err := codec.New()
	if err != nil {
		t.Fatal(err)
	}
	s, err := openStore(t.TempDir(), cd)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	rep, err := s.create(journal.Meta{Disk: block.NewDiskID(), Name: "sda", Host: "web1", Size: block.MiB, BlockSize: 4096, Created: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	take := func(g block.Generation, meanwhile func()) error {
		tip := rep.journal.Tip()
		h := block.DeltaHeader{Disk: rep.journal.Meta().Disk, Seq: tip.Seq + 1, Generation: g, BlockSize: 4096, DiskSize: block.MiB, Parent: tip.Digest}
		w, err := rep.journal.Begin(h)
		if err != nil {
			return err
		}
		meanwhile()
		seal := block.Seal{Class: block.ClassCrash, Seq: h.Seq, Time: time.Now()}
		seal.Digest = block.NewChain(cd, h).Seal(seal)
		return rep.commit(w, h, seal)
	}
	raise := func() {
		if err := rep.change(func(m *journal.Meta) bool { m.Generation++; return true }); err != nil {
			t.Fatal(err)
		}
	}
	if err := take(0, func() {}); err != nil {
		t.Fatal(err)
	}
	if err := take(0, raise); !errors.Is(err, wire.ErrFenced) {
		t.Errorf("a delta that was under way: %v", err)
	}
	if tip := rep.journal.Tip().Seq; tip != 1 {
		t.Errorf("the copy is at %v", tip)
	}
	if err := take(1, func() {}); err != nil {
		t.Errorf("one of the new generation: %v", err)
	}
}
