package journal_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"testing"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/receiver/journal"
	"github.com/understudy-dr/understudy/receiver/journal/journaltest"
	"github.com/understudy-dr/understudy/receiver/volume/volumetest"
)

var (
	crashSeeds = flag.Uint64("crash.seeds", 200, "histories of TestCrash")
	crashFirst = flag.Uint64("crash.first", 0, "seed of the first, to see one again")
)

// errPower is what everything gets once the power is gone, errFault what something gets now and then.
var (
	errPower = errors.New("power is gone")
	errFault = errors.New("input/output error")
)

// crasher drives a journal through a random history with losses of power and holds it against the model.
type crasher struct {
	*world
	left   int       // operations of disk and volume until the power goes; below 0 it stays
	faults bool      // operations fail now and then
	given  block.Seq // points before it may have been folded
	acked  block.Seq // the newest delta that was acknowledged
	// Deltas that follow acked and got no ack, with the disk as of each: any one of them may be there after a crash.
	unacked map[block.Digest][]byte
}

// power is asked before each operation.
func (c *crasher) power() error {
	if c.left == 0 {
		return errPower
	}
	c.left--
	if c.faults && c.left > 0 && c.rng.IntN(40) == 0 {
		return errFault
	}
	return nil
}

// TestCrash: every acknowledged point survives every crash with its content, one that was not acknowledged is whole or is not,
// and the journal goes on.
func TestCrash(t *testing.T) {
	var crashes, survivors, redone int
	for seed := *crashFirst; seed < *crashFirst+*crashSeeds; seed++ {
		ok := t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			c := &crasher{world: newWorld(t, seed), left: -1, faults: seed%2 == 1, unacked: map[block.Digest][]byte{}}
			c.fs.Fail = func(journaltest.Op, string) error { return c.power() }
			c.dev.Fail = func(volumetest.Op, block.Range) error { return c.power() }
			for range 4 {
				c.left = c.rng.IntN(150)
				for c.left > 0 {
					c.step()
				}
				crashes++
				s, r := c.crash()
				survivors, redone = survivors+s, redone+r
			}
		})
		if !ok {
			return
		}
	}
	// The canary: a test that never crashes at the places that matter proves nothing.
	if *crashSeeds >= 100 && (survivors == 0 || redone == 0) {
		t.Errorf("%d crashes, %d with a delta that survived without its ack, %d in the middle of a fold: none may be 0", crashes, survivors, redone)
	}
}

// step does one thing, which the loss of power may stop.
func (c *crasher) step() {
	var err error
	switch ctx := context.Background(); c.rng.IntN(10) {
	case 0, 1:
		upto := c.j.Tip().Seq
		upto -= block.Seq(c.rng.IntN(4))
		if upto > c.j.Tip().Seq {
			upto = 0
		}
		c.given = max(c.given, upto)
		err = c.j.Fold(ctx, upto)
	case 2:
		if points := c.j.Points(); len(points) > 3 {
			c.given = max(c.given, points[len(points)-3].Seq)
		} else if len(points) > 0 {
			c.given = max(c.given, points[0].Seq)
		} else {
			c.given = max(c.given, c.j.Tip().Seq)
		}
		err = c.j.Retain(ctx, journal.Policy{MaxPoints: 3})
	case 3:
		err = c.abort()
	case 4:
		m := c.j.Meta()
		m.Name += "x"
		err = c.j.SetMeta(m)
	case 5:
		if err = c.j.Close(); err == nil {
			c.open()
		}
	default:
		err = c.commit()
	}
	if err != nil && !errors.Is(err, errPower) && !errors.Is(err, errFault) {
		c.t.Fatalf("with power: %v", err)
	}
}

// open opens the journal; the power may go while it does.
func (c *crasher) open() {
	j, err := journal.Open(testDir, c.options())
	for errors.Is(err, errFault) {
		j, err = journal.Open(testDir, c.options())
	}
	if err == nil {
		c.j = j
		c.seeTip()
	} else if !errors.Is(err, errPower) {
		c.t.Fatalf("open: %v", err)
	}
}

func (c *crasher) commit() error {
	d, state := c.next(block.Class(c.rng.IntN(3)))
	c.unacked[d.Seal.Digest] = state
	if err := d.Write(c.j); err != nil {
		return err
	}
	c.ack(d.Header.Seq, state)
	return nil
}

// ack notes that the delta is durable: no other can take its place.
func (c *crasher) ack(seq block.Seq, state []byte) {
	c.states[seq], c.acked = state, seq
	clear(c.unacked)
}

// seeTip tells the source the tip: from there on a delta that got no ack counts as durable.
func (c *crasher) seeTip() bool {
	tip := c.j.Tip()
	state := c.unacked[tip.Digest]
	if state == nil || tip.Seq != c.acked+1 {
		return false
	}
	c.ack(tip.Seq, state)
	return true
}

// abort begins a delta and drops it.
func (c *crasher) abort() error {
	d, _ := c.next(block.ClassCrash)
	w, err := c.j.Begin(d.Header)
	if err != nil {
		return err
	}
	for i := range d.Frames {
		if err := w.Append(d.Frames[i].Header, d.Frames[i].Raw()); err != nil {
			return errors.Join(err, w.Abort())
		}
	}
	return w.Abort()
}

// crash takes the power away, or kills the process alone, brings it back and holds what is there against what was promised. survived tells that a delta
// without an ack is there, redone that a fold was under way.
func (c *crasher) crash() (survived, redone int) {
	c.t.Helper()
	if c.rng.IntN(3) > 0 { // else only the process was killed
		c.fs.Crash(c.rng)
		c.vol.Crash(c.rng)
	}
	c.left = -1
	j, err := journal.Open(testDir, c.options())
	if err != nil {
		c.t.Fatalf("open after a crash: %v", err)
	}
	c.j = j
	if err := errors.Join(j.Damage(), j.Check(context.Background(), nil)); err != nil {
		c.t.Fatalf("after a crash: %v", err)
	}
	if c.seeTip() {
		survived = 1
	}
	tip := j.Tip()
	if tip.Seq != c.acked {
		c.t.Fatalf("tip %v, the newest that was acknowledged is %v", tip.Seq, c.acked)
	}
	if b, err := readFile(c.fs, testDir+"/folded.json"); err != nil {
		c.t.Fatal(err)
	} else if !bytes.Contains(b, fmt.Appendf(nil, `"target":%d,`, j.Usage().Folded)) {
		redone = 1
	}
	c.compare()
	if c.rng.IntN(2) == 0 {
		if err := j.Fold(context.Background(), j.Usage().Folded); err != nil {
			c.t.Fatalf("fold after a crash: %v", err)
		}
		c.compare()
	}
	return survived, redone
}

func readFile(fsys *journaltest.FS, name string) ([]byte, error) {
	f, err := fsys.OpenFile(name, 0)
	if err != nil {
		return nil, err
	}
	b := make([]byte, fsys.Size(name))
	_, err = f.ReadAt(b, 0)
	return b, errors.Join(err, f.Close())
}

// compare reads every point there is, and misses those that nobody gave up.
func (c *crasher) compare() {
	c.t.Helper()
	there := map[block.Seq]bool{}
	for _, p := range c.j.Points() {
		there[p.Seq] = true
		c.expect(p.Seq)
	}
	for seq := max(1, c.given); seq <= c.acked; seq++ {
		c.expect(seq) // points or not, there must be a view of each
	}
	c.expect(c.acked)
}
